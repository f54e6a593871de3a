"""A router in front of the routers of several emulated groups, all on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest

from balanceroute.emulator.group import EmulatedGroup
from balanceroute.emulator.serve import emulated_groups
from balanceroute.errors import ConfigError
from balanceroute.live.app import Router, running_router
from balanceroute.live.reading import read_config
from tests.emulator.serving import server_config
from tests.live.fake_engine import run, until

NUM_RANKS, NUM_SLOTS = 2, 4
GROUP_SLOTS = NUM_RANKS * NUM_SLOTS
OFTEN = {"port": 0, "health_check_interval_secs": 0.05, "metrics_interval_secs": 0.05}


class Fleet:
    """Groups with a router each, a front, and a client of the front."""

    def __init__(
        self,
        groups: list[EmulatedGroup],
        routers: list[Router],
        urls: list[str],
        front: Router,
        url: str,
        session: aiohttp.ClientSession,
    ) -> None:
        self.groups, self.routers, self.urls = groups, routers, urls
        self.front, self._url, self._session = front, url, session

    async def ask(
        self,
        session: str = "",
        *,
        prompt: object = (1, 2, 3),
        output_tokens: int = 3,
        is_streamed: bool = True,
    ) -> int:
        """Return the group that has served a request whole; -1 if it has ended in an error."""
        body: dict[str, object] = {"model": "emulated", "prompt": prompt, "max_tokens": 9999}
        body["stream"] = is_streamed
        if is_streamed:
            body["stream_options"] = {"include_usage": True}
        headers = {"X-Emulated-Output-Tokens": str(output_tokens)}
        if session:
            headers["X-Session-Id"] = session
        url = self._url + "/v1/completions"
        async with self._session.post(url, json=body, headers=headers) as answer:
            data = await answer.read()
        if answer.status != 200 or b'"error"' in data:
            return -1
        last = data.split(b"\n\n")[-3].removeprefix(b"data: ") if is_streamed else data
        assert output_tokens == msgspec.json.decode(last)["usage"]["completion_tokens"]
        return self.urls.index(answer.headers["x-balanceroute-worker"])

    def num_in_flight(self, group: int) -> int:
        """Return the requests that the front has at a group."""
        here = self.front.group.ledger.ranks[group]
        return int(here["num_running"] + here["num_waiting"])

    async def settle(self) -> None:
        """Wait until nothing is in flight, and the front knows all groups' slots."""
        sizes = self.front.group.num_slots
        await until(lambda: sizes.tolist() == [GROUP_SLOTS] * len(self.groups))
        await until(lambda: self.front.group.ledger.num_in_flight == 0)

    async def set_faults(self, group: int, **faults: object) -> None:
        """Let something go wrong in a group."""
        url = self.groups[group].url + "/emulator/faults"
        async with self._session.post(url, json=faults) as answer:
            assert 200 == answer.status


@contextlib.asynccontextmanager
async def fleet(
    num_groups: int = 3, *, constant_s: float = 0.002, policy: str = "br_fleet"
) -> AsyncIterator[Fleet]:
    """Run everything in this process."""
    config = server_config(
        num_ranks=NUM_RANKS, num_slots=NUM_SLOTS, num_groups=num_groups, constant_s=constant_s
    )
    async with contextlib.AsyncExitStack() as stack:
        groups = await stack.enter_async_context(emulated_groups(config))
        routers, urls = [], []
        for group in groups:
            flags = {
                "worker_urls": [group.url],
                "intra_node_data_parallel_size": NUM_RANKS,
                "policy": "least_tokens",
                "binding": "pooled",
                "slots": NUM_SLOTS,
            }
            inner = read_config(None, OFTEN | flags)
            router, port = await stack.enter_async_context(running_router(inner))
            routers.append(router)
            urls.append(f"http://127.0.0.1:{port}")
        outer = read_config(None, OFTEN | {"worker_urls": urls, "policy": policy})
        front, port = await stack.enter_async_context(running_router(outer))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Fleet(groups, routers, urls, front, f"http://127.0.0.1:{port}", session)


def test_the_front_knows_the_size_and_the_load_of_groups() -> None:
    """From their routers' own metrics; what other fronts have sent is counted, too."""

    async def test() -> None:
        async with fleet(2, constant_s=0.01) as it:
            await it.settle()
            async with aiohttp.ClientSession() as session:
                body = {"model": "emulated", "prompt": [1, 2], "max_tokens": 9999, "stream": True}
                headers = {"X-Emulated-Output-Tokens": "9999"}  # until it is broken off
                async with session.post(it.urls[1] + "/v1/completions", json=body, headers=headers):
                    await until(lambda: it.front.group.foreign_reqs.tolist() == [0, 1])
                    assert 0 == await it.ask()
            assert it.front.meters.has_signals

    run(test())


def test_a_session_stays_with_its_group_while_loads_are_even() -> None:
    """And sessions are spread over the groups."""

    async def test() -> None:
        async with fleet() as it:
            await it.settle()
            homes: dict[str, set[int]] = {}
            for _ in range(3):
                for session in map(str, range(12)):
                    homes.setdefault(session, set()).add(await it.ask(session))
            assert {1} == {len(groups) for groups in homes.values()}
            assert {0, 1, 2} == set.union(*homes.values())

    run(test())


def test_a_session_that_grows_too_large_spills_over() -> None:
    """No group has more than its bound of the requests in flight, and all are served."""

    async def test() -> None:
        async with fleet(constant_s=0.01) as it:
            await it.settle()
            asked = [asyncio.create_task(it.ask("hot", output_tokens=50)) for _ in range(18)]
            await until(lambda: sum(map(it.num_in_flight, range(3))) == 18)
            assert 8 >= max(map(it.num_in_flight, range(3)))  # ⌈5/4 · 18 / 3⌉
            served = Counter(await asyncio.gather(*asked))
            assert {0, 1, 2} == set(served)

    run(test())


def test_a_long_prompt_goes_where_its_beginning_is() -> None:
    """Whatever the client says, or does not say, of sessions."""

    async def test() -> None:
        async with fleet() as it:
            await it.settle()
            for letter in "abc":
                story = letter * 5000
                first = await it.ask(prompt=story)
                assert {first} == {await it.ask(prompt=story + "b" * k) for k in (1, 2000, 100)}

    run(test())


def test_a_dead_group_gets_nothing_and_loses_what_it_has_not_begun() -> None:
    """Streams that have begun end in an error; whatever else it had is served elsewhere."""

    async def test() -> None:
        async with fleet(constant_s=0.01) as it:
            await it.settle()
            begun = [asyncio.create_task(it.ask(output_tokens=100)) for _ in range(3 * GROUP_SLOTS)]
            ranks = it.front.group.ledger.ranks
            await until(lambda: int(ranks["num_running"].sum()) == 3 * GROUP_SLOTS)
            waiting = [asyncio.create_task(it.ask()) for _ in range(9)]
            await until(lambda: it.num_in_flight(1) > GROUP_SLOTS)
            num_pooled = it.num_in_flight(1) - GROUP_SLOTS
            await it.set_faults(1, dead_group=True)
            await until(lambda: not it.front.health.is_open[1])
            assert {0, 2} >= {await it.ask(str(k)) for k in range(9)}
            served, late = await asyncio.gather(*begun), await asyncio.gather(*waiting)
            assert {-1: GROUP_SLOTS, 0: GROUP_SLOTS, 2: GROUP_SLOTS} == Counter(served)
            assert num_pooled > 0
            assert {0, 2} >= set(late)
            assert 0 == it.num_in_flight(1)
            await it.set_faults(1, dead_group=False)
            await until(lambda: it.front.health.is_open[1])
            assert {0, 1, 2} == {await it.ask(str(k)) for k in range(20)}

    run(test())


def test_a_client_that_leaves_before_its_answer_begins() -> None:
    """Its request is aborted in its group, too, whether it runs or waits there."""

    async def test() -> None:
        async with fleet(1, constant_s=0.01) as it:
            await it.settle()
            asked = [
                asyncio.create_task(it.ask(output_tokens=500, is_streamed=False))
                for _ in range(GROUP_SLOTS + 3)
            ]
            inner = it.routers[0].group
            await until(lambda: inner.num_waiting == 3)
            for task in asked:
                task.cancel()
            await until(lambda: it.num_in_flight(0) == 0)
            await until(lambda: inner.num_waiting + inner.ledger.num_in_flight == 0)
            assert {0} == {await it.ask()}

    run(test())


def test_a_group_whose_router_is_gone() -> None:
    """Requests that come at that moment are served by the others, streamed or not."""

    async def test() -> None:
        with socket.socket() as gone:
            gone.bind(("127.0.0.1", 0))  # and nobody listens
            nowhere = f"http://127.0.0.1:{gone.getsockname()[1]}"
            async with fleet(2) as it, aiohttp.ClientSession() as session:
                flags = {"worker_urls": [*it.urls, nowhere], "policy": "br_fleet"}
                config = read_config(None, OFTEN | flags | {"health_check_interval_secs": 60.0})
                async with running_router(config) as (front, port):
                    url = f"http://127.0.0.1:{port}"
                    there = Fleet(it.groups, it.routers, it.urls, front, url, session)
                    asked = [there.ask(str(k), is_streamed=k % 2 == 0) for k in range(20)]
                    assert {0, 1} == set(await asyncio.gather(*asked))
                    assert [True, True, False] == front.health.is_open

    run(test())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "br_fleet", "barrier": True}, "do not share one --barrier"),
        ({"session_header": "X-Session-Id"}, "need --policy br_fleet"),
        ({"prefix_blocks": 5}, "need --policy br_fleet"),
        ({"policy": "br_fleet", "prefix_blocks": -1}, r"\$\.prefix_blocks"),
        ({"policy": "br_fleet,excess=1", "session_header": "a b"}, "session_header must be"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], message: str) -> None:
    """They are refused, with the cure."""
    with pytest.raises(ConfigError, match=message):
        read_config(None, {"worker_urls": ["http://a:1"]} | settings)


def test_what_is_usual_for_groups() -> None:
    """It goes for `br_fleet` only, and what is set goes before it."""
    urls = {"worker_urls": ["http://a:1"]}
    of_ranks = read_config(None, urls)
    of_groups = read_config(None, urls | {"policy": "br_fleet,excess=0.5", "prefix_blocks": 7})
    assert (True, "/health", None) == (
        of_ranks.barrier,
        of_ranks.health_check_endpoint,
        of_ranks.session_header,
    )
    assert (False, "/readiness", 7, "X-Session-Id") == (
        of_groups.barrier,
        of_groups.health_check_endpoint,
        of_groups.prefix_blocks,
        of_groups.session_header,
    )
    assert msgspec.structs.asdict(of_groups)["retry_max_attempts"] == 5
