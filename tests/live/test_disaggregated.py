"""The router in front of emulated groups of which one prefills and the other decodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from balanceroute.emulator.group import EmulatedGroup
from balanceroute.emulator.serve import emulated_groups
from balanceroute.live.app import Router, running_router
from balanceroute.live.reading import read_config
from tests.emulator.serving import server_config
from tests.live.fake_engine import run, until

NUM_RANKS, PROMPT = 2, list(range(100))  # a prompt takes 7 blocks of 16
INTERVAL_S = 0.05


class Split:
    """Both groups, a router in front of them, and a client."""

    def __init__(
        self,
        groups: list[EmulatedGroup],
        router: Router,
        url: str,
        session: aiohttp.ClientSession,
    ) -> None:
        (self.tier, self.group), self.router = groups, router
        self.url, self.session = url, session

    async def post(
        self, path: str = "/v1/completions", **more: Any
    ) -> tuple[int, dict[str, Any], str]:
        """Send a request; return status, the answer or the last event of its stream, and rank."""
        body = {"model": "emulated", "prompt": PROMPT, "max_tokens": 5, "ignore_eos": True} | more
        async with self.session.post(self.url + path, json=body) as answer:
            data = await answer.read()
            if answer.content_type == "text/event-stream":
                *_, usage, last = data.removesuffix(b"\n\n").split(b"\n\n")
                data = usage if last == b"data: [DONE]" else last
                data = data.removeprefix(b"data: ")
            rank = answer.headers.get("x-balanceroute-worker", "")
            return answer.status, msgspec.json.decode(data), rank

    def prompt_tokens(self, group: EmulatedGroup) -> int:
        """Return the prompt tokens that a group has computed or fetched."""
        return sum(rank.total_prompt_tokens for rank in group.engine.ranks)

    def held_blocks(self) -> int:
        """Return the KV blocks in use where prompts are computed."""
        return sum(rank.used_blocks for rank in self.tier.engine.ranks)

    async def fault(self, group: EmulatedGroup, **faults: Any) -> None:
        """Switch faults of a group on."""
        async with self.session.post(group.url + "/emulator/faults", json=faults) as answer:
            assert answer.ok

    async def expect_order(self) -> None:
        """Assert that nothing is left anywhere."""
        group = self.router.group
        await until(lambda: group.ledger.num_in_flight == 0 and self.held_blocks() == 0)
        group.check()
        assert 0 == self.router.parts.num_waiting


@contextlib.asynccontextmanager
async def split(
    *, num_blocks: int = 1000, max_model_len: int | None = None, **settings: Any
) -> AsyncIterator[Split]:
    """Run everything on free ports of this process."""
    emulated = server_config(
        num_groups=2,
        roles=("prefill", "decode"),
        num_ranks=NUM_RANKS,
        num_slots=4,
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        budget_tokens=256,
        s_per_token=0.0,
        prefill_s_per_token=1e-5,
    )
    async with emulated_groups(emulated) as groups:
        flags = {
            "prefill_urls": [groups[0].url],
            "worker_urls": [groups[1].url],
            "intra_node_data_parallel_size": NUM_RANKS,
            "slots": 4,
            "policy": "br_0",
            "port": 0,
            "health_check_interval_secs": INTERVAL_S,
            "metrics_interval_secs": INTERVAL_S,
            "retry_initial_backoff_secs": 0.01,
        }
        config = read_config(None, flags | settings)
        async with running_router(config) as (router, port), aiohttp.ClientSession() as session:
            yield Split(groups, router, f"http://127.0.0.1:{port}", session)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_prompts_are_computed_there_and_decoded_here(is_streamed: bool) -> None:
    """Each prompt once; the decode ranks compute none of them."""
    more: dict[str, Any] = {"stream": is_streamed}
    if is_streamed:
        more["stream_options"] = {"include_usage": True}

    async def test() -> None:
        async with split() as it:
            answers = await asyncio.gather(*(it.post(**more) for _ in range(8)))
            for status, answer, _ in answers:
                assert (200, 5) == (status, answer["usage"]["completion_tokens"])
                assert 100 == answer["usage"]["prompt_tokens"]
            assert 800 == it.prompt_tokens(it.tier)
            assert NUM_RANKS == len({rank for _, _, rank in answers})
            # Tokens cost nothing here but those of prompts that are computed.
            assert 0.0 == it.group.engine.totals.max_work_s < it.tier.engine.totals.max_work_s
            await it.expect_order()

    run(test())


def test_the_decode_rank_is_chosen_when_the_prompt_is_there() -> None:
    """Until then it takes no slot and no place on any rank."""

    async def test() -> None:
        async with split() as it:
            await it.fault(it.tier, dead_ranks=[0, 1])
            asked = asyncio.create_task(it.post())
            await until(lambda: it.router.parts.num_waiting == 1)
            await until(lambda: sum(rank.num_waiting for rank in it.tier.engine.ranks) == 1)
            assert (0, 0) == (it.router.group.num_waiting, it.router.group.ledger.num_in_flight)
            await it.fault(it.tier, dead_ranks=[])
            assert 200 == (await asked)[0]
            await it.expect_order()

    run(test())


@pytest.mark.parametrize("status", [500, 503])
def test_a_decode_rank_that_fails_after_the_handover(status: int) -> None:
    """The prompt is computed again: what was handed over may have been fetched."""

    async def test() -> None:
        async with split(health_failure_threshold=100) as it:
            await it.fault(it.group, reject_count=1, reject_status=status)
            got, answer, _ = await it.post()
            assert (200, 5) == (got, answer["usage"]["completion_tokens"])
            assert 200 == it.prompt_tokens(it.tier)
            assert 0 == it.router.group.ledger.num_in_flight

    run(test())


def test_a_decode_stream_that_breaks_off() -> None:
    """One error event, and no second try."""

    async def test() -> None:
        async with split(health_failure_threshold=100) as it:
            await it.fault(it.group, reset_after_chunks=2)
            _, event, _ = await it.post(stream=True)
            assert 502 == event["error"]["code"]
            assert 100 == it.prompt_tokens(it.tier)
            await it.expect_order()

    run(test())


def test_a_rank_that_was_never_reached_leaves_the_prompt_where_it_is() -> None:
    """It is fetched by the next, and computed once."""

    async def test() -> None:
        async with split(health_failure_threshold=100, retry_max_attempts=10) as it:
            address = it.router.parts.addresses[0]
            nowhere = type(address)("http://127.0.0.1:9", 0)
            it.router.parts.addresses[0] = nowhere
            answers = await asyncio.gather(*(it.post() for _ in range(4)))
            assert [200] * 4 == [status for status, _, _ in answers]
            assert 400 == it.prompt_tokens(it.tier)
            await it.expect_order()

    run(test())


def test_held_prompts_hold_back_others() -> None:
    """While the decode side stands still, no more prompts are sent than the tier can hold."""

    async def test() -> None:
        async with split(num_blocks=40, prefill_max_kv_usage=0.5) as it:
            await it.fault(it.group, dead_ranks=[0, 1])
            asked = asyncio.gather(*(it.post() for _ in range(16)))
            # Two ranks of 40 blocks of 16 hold 1280 tokens, half of which are six prompts of 100.
            await until(lambda: it.held_blocks() == 6 * 7)
            await asyncio.sleep(4 * INTERVAL_S)
            assert 6 * 7 == it.held_blocks()
            assert 0 == sum(rank.num_waiting for rank in it.tier.engine.ranks)
            assert 10 == it.router.parts.num_waiting
            await it.fault(it.group, dead_ranks=[])
            assert [200] * 16 == [status for status, _, _ in await asked]
            await it.expect_order()

    run(test())


def test_a_queue_in_front_of_the_prefill_servers_is_bounded_too() -> None:
    """429 beyond it; those that are in it are served."""

    async def test() -> None:
        async with split(queue_size=2) as it:
            await it.fault(it.tier, dead_ranks=[0, 1])
            asked = [asyncio.create_task(it.post()) for _ in range(2)]
            await until(lambda: it.router.parts.num_waiting == 2)
            assert 429 == (await it.post())[0]
            await it.fault(it.tier, dead_ranks=[])
            for task in asked:
                assert 200 == (await task)[0]

    run(test())


def test_prefill_servers_that_stay_full() -> None:
    """408 for who has waited too long."""

    async def test() -> None:
        async with split(num_blocks=8, max_model_len=128, queue_timeout_secs=0.3) as it:
            await it.fault(it.group, dead_ranks=[0, 1])
            asked = [asyncio.create_task(it.post()) for _ in range(2)]
            await until(lambda: it.held_blocks() == 2 * 7)
            status, answer, _ = await it.post()
            assert 408 == status
            assert "no prefill server has had room within 0.3 s" == answer["error"]["message"]
            await it.fault(it.group, dead_ranks=[])
            assert [200, 200] == [(await task)[0] for task in asked]

    run(test())


def test_what_a_prefill_server_has_against_a_request() -> None:
    """The client gets the server's own words, and no other server is asked."""

    async def test() -> None:
        async with split() as it:
            status, answer, _ = await it.post(model="another")
            assert 404 == status
            assert "The model `another` does not exist." == answer["error"]["message"]
            await it.expect_order()

    run(test())


def test_the_responses_endpoint_is_not_split() -> None:
    """It has no parameters for it, so the decode rank computes the prompt."""

    async def test() -> None:
        async with split() as it:
            body = {"input": "hello", "prompt": None, "max_tokens": None, "max_output_tokens": 3}
            status, answer, _ = await it.post("/v1/responses", **body)
            assert (200, 3) == (status, answer["usage"]["output_tokens"])
            assert 0 == it.prompt_tokens(it.tier)

    run(test())
