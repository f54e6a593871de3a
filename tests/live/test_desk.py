"""A data plane's bookings and the brain's, over a socket that breaks and comes again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from balanceroute.live.answers import Refusal
from balanceroute.live.config import ServeConfig
from balanceroute.live.parts import Parts
from balanceroute.live.processes.desk import Desk
from balanceroute.live.processes.planes import Planes
from balanceroute.live.processes.sockets import listen_at
from balanceroute.live.processes.stopgap import Stopgap
from balanceroute.live.processes.words import Loads, Talk, brain_decoder
from balanceroute.live.prompts import PromptCounter
from balanceroute.live.reading import read_config
from balanceroute.live.ticket import NO_HANDLE, Ticket
from balanceroute.live.tokens import Usage
from balanceroute.live.warm import warm
from balanceroute.live.wire import RequestFacts, read_request
from tests.live.fake_engine import run, until

URLS = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
LIMIT_S = 90.0  # kernels may have to be compiled
FACTS: RequestFacts = read_request("/v1/completions", b'{"prompt": [1, 2, 3]}')


def settings(**more: Any) -> ServeConfig:
    """Return two ranks of two slots."""
    flags = {"worker_urls": URLS, "policy": "least_tokens", "binding": "pooled", "slots": 2}
    return read_config(None, flags | {"processes": 2} | more)


@contextlib.asynccontextmanager
async def brain(path: Path, **more: Any) -> AsyncIterator[Parts]:
    """Run what decides, on a socket that another brain may have had before."""
    warm("least_tokens", num_ranks=len(URLS), costs=None)
    with listen_at(path) as listener:
        listener.setblocking(False)
        async with aiohttp.ClientSession() as session:
            parts = Parts.of(settings(**more), None, session)
            planes = Planes(parts, lambda _: None)
            async with planes.serving(listener):
                planes.begin()
                yield parts
            parts.planner.stop()
    path.unlink()


async def connect(desk: Desk, path: Path) -> Talk:
    """Put a desk in touch with a brain, and wait until it knows the ranks."""

    def hear(words: list[Any]) -> None:
        for word in words:
            if isinstance(word, Loads):
                known.set()
            desk.take(word)

    known = asyncio.Event()
    loop = asyncio.get_running_loop()
    make: Callable[[], Talk] = lambda: Talk(brain_decoder, hear, desk.leave)  # noqa: E731
    _, talk = await loop.create_unix_connection(make, str(path))
    await known.wait()
    desk.join(talk.say)
    return talk


def exact(parts: Parts) -> tuple[list[int], list[int]]:
    """Return requests and tokens of each rank as the ledger has them, which adds up."""
    parts.group.check()
    ranks = parts.group.ledger.ranks
    return (ranks["num_running"] + ranks["num_waiting"]).tolist(), ranks["load_tokens"].tolist()


def test_all_that_becomes_of_a_request(tmp_path: Path) -> None:
    """It waits, grows, ends, fails or is given up here, and the ledger there says the same."""
    path = tmp_path / "s"

    async def test() -> None:
        desk = Desk(0, 2, PromptCounter())
        async with brain(path) as parts:
            talk = await connect(desk, path)
            tickets = [Ticket(prompt_tokens=10) for _ in range(5)]
            placing = [asyncio.create_task(desk.place(its, None, LIMIT_S)) for its in tickets]
            await until(lambda: sum(task.done() for task in placing) == 4)
            assert [2, 2] == exact(parts)[0]
            assert 1 == parts.group.num_waiting
            assert {0, 1} == {its.rank for its in tickets if its.handle != NO_HANDLE}
            for its in tickets[:4]:
                desk.grow(its, 1)
            await until(lambda: exact(parts)[1] == [22, 22])
            for _ in range(2):
                desk.grow(tickets[0], 2)
            rank = tickets[0].rank
            # Its neighbour has grown with it, since they step together.
            await until(lambda: exact(parts)[1][rank] == 30)
            assert 22 == exact(parts)[1][1 - rank]
            desk.complete(tickets[0], Usage(12, 5), FACTS)
            await asyncio.wait_for(placing[4], LIMIT_S)
            assert 5.0 == parts.meters.tokens._value.get()
            desk.settle(tickets[1])
            desk.settle(tickets[1])  # once more, as a proxy may
            await until(lambda: sum(exact(parts)[0]) == 3)
            # Given up while it waits.
            last = [Ticket(prompt_tokens=10) for _ in range(2)]
            entering = [asyncio.create_task(desk.place(its, None, LIMIT_S)) for its in last]
            await until(lambda: parts.group.num_waiting == 1)
            for task, its in zip(entering, last, strict=True):
                task.cancel()
                desk.settle(its)
            await until(lambda: parts.group.num_waiting == 0)
            desk.fail(0, "gone")
            desk.fail(0, "gone")
            await until(lambda: not parts.health.is_well[0])
            await until(lambda: not any(desk.is_open))
            with pytest.raises(Refusal, match="no rank is fit"):
                desk.expect_room(None)
            # The end of the connection is that of all that is booked over it.
            talk.close()
            await until(lambda: exact(parts) == ([0, 0], [0, 0]))

    run(test(), LIMIT_S)


def test_a_refusal_comes_through(tmp_path: Path) -> None:
    """As the brain says it; and who waits too long is told so here."""
    path = tmp_path / "s"

    async def test() -> None:
        desk = Desk(0, 2, PromptCounter())
        async with brain(path, queue_size=0) as parts:
            await connect(desk, path)
            for rank in range(2):
                parts.group.set_open(rank, is_open=False)
            with pytest.raises(Refusal, match="0 requests are waiting") as refused:
                await desk.place(Ticket(prompt_tokens=1), None, LIMIT_S)
            assert (429, "queue_full") == (refused.value.status, refused.value.reason)
            parts.config = settings(slots=1)
            late = Ticket(prompt_tokens=1)
            with pytest.raises(Refusal, match=r"no rank within 0\.1 s"):
                await desk.place(late, None, 0.1)
            desk.settle(late)
            await until(lambda: parts.group.num_waiting == 0)

    run(test(), LIMIT_S)


def test_another_brain_knows_all_of_it(tmp_path: Path) -> None:
    """Requests go on by the last loads meanwhile, each once; then the ledger is as it was."""
    path = tmp_path / "s"

    async def test() -> None:
        desks = [Desk(number, 2, PromptCounter()) for number in range(2)]
        async with brain(path):
            talks = [await connect(desk, path) for desk in desks]
            first = [Ticket(prompt_tokens=100 * (n + 1)) for n in range(2)]
            for its in first:
                await desks[0].place(its, None, LIMIT_S)
                desks[0].grow(its, 7)
            await asyncio.sleep(0.15)  # the loads are told
            for talk in talks:
                talk.close()
            await until(lambda: all(desk._say is None for desk in desks))
        # There is one place on each rank, which cannot be halved, so both are the first desk's.
        more = [Ticket(prompt_tokens=10) for _ in range(5)]
        placing = [
            asyncio.create_task(desk.place(its, None, LIMIT_S))
            for desk, its in zip([desks[0], desks[1], desks[0], *desks], more, strict=True)
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 2 == sum(its.handle != NO_HANDLE for its in more)
        # A place that gets free is taken by who waits there.
        desks[0].complete(first[0], None, FACTS)
        await until(lambda: sum(its.handle != NO_HANDLE for its in more) == 3)
        async with brain(path) as parts:
            for desk in desks:
                await connect(desk, path)
            await until(lambda: parts.group.ledger.num_in_flight == 4)
            assert [2, 2] == exact(parts)[0]
            await until(lambda: parts.group.num_waiting == 2)
            assert 207 in exact(parts)[1]
            for its in (first[1], more[0]):
                desks[0].complete(its, None, FACTS)
            await asyncio.gather(*placing)

    run(test(), LIMIT_S)


def test_no_part_of_the_room_is_used_twice() -> None:
    """Together data planes fill what there is, however many they are; ranks away get nothing."""
    for num_planes in (1, 2, 3, 5):
        gaps = [Stopgap(plane, num_planes) for plane in range(num_planes)]
        taken = []
        for gap in gaps:
            gap.begin(Loads(is_open=[True, True, False], load_tokens=[0, 5, 0], room=[7, 4, 9]))
            while (rank := gap.take(1)) >= 0:
                taken.append(rank)
        assert [7, 4, 0] == [taken.count(rank) for rank in range(3)]
