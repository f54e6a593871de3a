"""The router in front of an emulated group in which things go wrong under load."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest

from balanceroute.emulator.group import EmulatedGroup
from balanceroute.emulator.serve import emulated_groups
from balanceroute.live.app import Router, running_router
from balanceroute.live.reading import read_config
from tests.emulator.serving import server_config
from tests.live.fake_engine import run, until

NUM_RANKS, NUM_SLOTS, NUM_REQUESTS, OUTPUT_TOKENS = 2, 4, 16, 30
INTERVAL_S = 0.1  # of health checks


class Bench:
    """An emulated group, a router in front of it, and a client."""

    def __init__(
        self, group: EmulatedGroup, router: Router, url: str, session: aiohttp.ClientSession
    ) -> None:
        self.group, self.router, self.url, self.session = group, router, url, session

    async def ask(self, *, is_streamed: bool = True, output_tokens: int = OUTPUT_TOKENS) -> str:
        """Send a request; return how it ended: ``complete``, or the code of its one error."""
        body: dict[str, Any] = {
            "model": "emulated",
            "prompt": [1] * 20,
            "stream": is_streamed,
            "max_tokens": 10000,
        }
        if is_streamed:
            body["stream_options"] = {"include_usage": True}
        headers = {"X-Emulated-Output-Tokens": str(output_tokens)}
        url = self.url + "/v1/completions"
        async with self.session.post(url, json=body, headers=headers) as answer:
            data = await answer.read()
        if is_streamed and answer.status == 200:
            *events, last = data.removesuffix(b"\n\n").split(b"\n\n")
            assert sum(b'"error"' in event for event in events) == 0
            if last == b"data: [DONE]":
                usage = msgspec.json.decode(events[-1].removeprefix(b"data: "))["usage"]
                assert output_tokens == usage["completion_tokens"]
                return "complete"
            return str(msgspec.json.decode(last.removeprefix(b"data: "))["error"]["code"])
        content = msgspec.json.decode(data)
        if answer.status == 200:
            assert output_tokens == content["usage"]["completion_tokens"]
            return "complete"
        assert answer.status == content["error"]["code"]
        return str(answer.status)

    async def load(self, num_requests: int = NUM_REQUESTS, **settings: Any) -> list[str]:
        """Send requests together and return how each has ended."""
        return await asyncio.gather(*(self.ask(**settings) for _ in range(num_requests)))

    async def under_load(self) -> asyncio.Task[list[str]]:
        """Begin to load the group, and come back when all its slots are busy."""
        asked = asyncio.create_task(self.load())
        num_slots = NUM_RANKS * NUM_SLOTS
        await until(lambda: sum(rank.num_decoding for rank in self.group.engine.ranks) == num_slots)
        return asked

    async def fault(self, **faults: Any) -> None:
        """Switch faults on; without any, all off."""
        url = self.group.url + "/emulator/faults"
        call = self.session.post(url, json=faults) if faults else self.session.delete(url)
        async with call as answer:
            assert answer.ok

    async def expect_order(self) -> None:
        """Assert that all is as it should be with nothing to do."""
        await until(lambda: self.router.group.ledger.num_in_flight == 0)
        self.router.group.check()
        assert 0 == self.router.group.num_waiting
        await until(lambda: not any(rank.num_running for rank in self.group.engine.ranks))
        await until(lambda: all(self.router.health.is_open), within_s=3 * INTERVAL_S + 1.0)
        assert ["complete"] * 4 == await self.load(4)


@contextlib.asynccontextmanager
async def bench(**settings: Any) -> AsyncIterator[Bench]:
    """Run everything on free ports of this process."""
    async with emulated_groups(server_config(num_ranks=NUM_RANKS, num_slots=NUM_SLOTS)) as groups:
        flags = {
            "worker_urls": [groups[0].url],
            "intra_node_data_parallel_size": NUM_RANKS,
            "slots": NUM_SLOTS,
            "policy": "br_0",
            "port": 0,
            "health_check_interval_secs": INTERVAL_S,
            "metrics_interval_secs": INTERVAL_S,
            "retry_initial_backoff_secs": 0.01,
        }
        config = read_config(None, flags | settings)
        async with running_router(config) as (router, port), aiohttp.ClientSession() as session:
            yield Bench(groups[0], router, f"http://127.0.0.1:{port}", session)


def spread(ends: Sequence[str]) -> dict[str, int]:
    """Return how many requests have ended in which way."""
    return {end: list(ends).count(end) for end in sorted(set(ends))}


@pytest.mark.parametrize("is_streamed", [True, False])
def test_without_faults(is_streamed: bool) -> None:
    """Everything completes, and the ledger agrees with the engine in between and at the end."""

    async def test() -> None:
        async with bench() as it:
            asked = await it.under_load()
            ranks, engine = it.router.group.ledger.ranks, it.group.engine
            await until(lambda: not ranks["due_tokens"].any())
            truth = np.array([rank.load_tokens for rank in engine.ranks])
            # A step's tokens may be on their way, so each request may be off by a few.
            assert np.abs(ranks["load_tokens"] - truth).max() <= 3 * NUM_SLOTS
            assert {"complete": NUM_REQUESTS} == spread(await asked)
            assert {"complete": 8} == spread(await it.load(8, is_streamed=is_streamed))
            await it.expect_order()

    run(test())


def test_a_slow_rank() -> None:
    """It takes longer, and that is all."""

    async def test() -> None:
        async with bench() as it:
            asked = await it.under_load()
            await it.fault(slow_ranks={"1": 5.0})
            assert {"complete": NUM_REQUESTS} == spread(await asked)
            await it.fault()
            await it.expect_order()

    run(test())


def test_a_dead_rank() -> None:
    """The whole group hangs on it; whoever waits too long is told, and it comes back."""

    async def test() -> None:
        async with bench(request_timeout_secs=1.0) as it:
            asked = await it.under_load()
            await it.fault(dead_ranks=[1])
            ends = spread(await asked)
            assert {"504"} == set(ends) - {"complete"}
            await it.fault()
            await it.expect_order()

    run(test())


def test_a_dead_group() -> None:
    """Streams end in one error each, new requests are refused at once, those waiting wait on."""

    async def test() -> None:
        async with bench() as it:
            asked = await it.under_load()
            await it.fault(dead_group=True)
            await until(lambda: not any(it.router.health.is_open))
            assert {"503": 4} == spread(await it.load(4))
            await it.fault()
            ends = spread(await asked)  # those that were waiting have waited on
            assert set(ends) <= {"complete", "502", "503"}
            assert ends["502"] >= 1
            await it.expect_order()

    run(test())


def test_a_stalled_stream() -> None:
    """Tokens come late; nothing is lost when they do."""

    async def test() -> None:
        async with bench() as it:
            asked = await it.under_load()
            await it.fault(stalled_ranks=[0])
            await asyncio.sleep(0.1)
            await it.fault()
            assert {"complete": NUM_REQUESTS} == spread(await asked)
            await it.expect_order()

    run(test())


def test_a_connection_that_is_reset() -> None:
    """A stream that has begun ends in one error, and is not answered twice."""

    async def test() -> None:
        async with bench(health_failure_threshold=1000) as it:
            await it.fault(reset_after_chunks=5)
            assert {"502": NUM_REQUESTS} == spread(await it.load())
            await it.fault()
            await it.expect_order()

    run(test())


@pytest.mark.parametrize("status", [429, 500, 503])
def test_refusals(status: int) -> None:
    """A few are tried again and nobody notices; too many come through as they are."""

    async def test() -> None:
        async with bench(health_failure_threshold=1000) as it:
            await it.fault(reject_count=2, reject_status=status)
            assert {"complete": 4} == spread(await it.load(4))
            await it.fault(reject_count=1000, reject_status=status)
            assert {str(status): 4} == spread(await it.load(4))
            await it.fault()
            await it.expect_order()

    run(test())


def test_wrong_usage() -> None:
    """What the engine says of a request is believed, and leaves nothing behind."""

    async def test() -> None:
        async with bench() as it:
            await it.fault(wrong_usage_tokens=7)
            async with it.session.post(
                it.url + "/v1/completions",
                json={"model": "emulated", "prompt": [1], "max_tokens": 3, "ignore_eos": True},
            ) as answer:
                assert 10 == (await answer.json())["usage"]["completion_tokens"]
            await it.fault()
            await it.expect_order()

    run(test())


def test_an_answer_that_is_no_json() -> None:
    """It is the engine's answer, and is passed on as it is."""

    async def test() -> None:
        async with bench() as it:
            await it.fault(bad_json_count=1)
            url, body = it.url + "/v1/completions", {"model": "emulated", "prompt": [1]}
            async with it.session.post(url, json=body | {"max_tokens": 2}) as answer:
                assert 200 == answer.status
                with pytest.raises(msgspec.DecodeError):
                    msgspec.json.decode(await answer.read())
            await it.expect_order()

    run(test())


@pytest.mark.parametrize(
    "fault", [{"metrics_gone": True}, {"missing_metric": "vllm:num_requests_running"}]
)
def test_metrics_that_are_gone(fault: dict[str, Any]) -> None:
    """Requests go on; the router says loudly that it has only its own ledger."""

    async def test() -> None:
        async with bench() as it:
            await it.fault(**fault)
            await until(lambda: b"load_signals_up 0.0" in it.router.meters.text())
            assert {"complete": NUM_REQUESTS} == spread(await it.load())
            await it.fault()
            await until(lambda: b"load_signals_up 1.0" in it.router.meters.text())
            await it.expect_order()

    run(test())


def test_a_router_that_is_killed_and_started_again() -> None:
    """The new one counts what the old one has left on the ranks."""

    async def test() -> None:
        async with bench() as it:
            url, rank = it.group.url + "/v1/completions", {"X-data-parallel-rank": "0"}
            body = {"model": "emulated", "prompt": [1] * 50, "max_tokens": 400, "ignore_eos": True}
            left = [
                asyncio.create_task(it.session.post(url, json=body, headers=rank)) for _ in range(3)
            ]
            await until(lambda: it.group.engine.ranks[0].num_running == 3)
            await until(lambda: it.router.group.foreign_reqs.tolist() == [3, 0], within_s=2.0)
            view = it.router.group.view()
            assert 1 == view.num_free_slots[0]
            assert view.load_tokens[0] >= 150
            asked = asyncio.create_task(it.load(4, output_tokens=60))
            await until(lambda: it.group.engine.ranks[1].num_running >= 3)
            assert {"complete": 4} == spread(await asked)
            for task in left:
                assert 200 == (await task).status
            await until(lambda: not it.router.group.foreign_reqs.any())
            await it.expect_order()

    run(test())
