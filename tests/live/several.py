"""A router in several processes in front of an emulated group, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from balanceroute.emulator.group import EmulatedGroup
from tests.live.starting import NUM_RANKS, NUM_SLOTS, Process, ask, group, router

STEP_S = 0.02
BRAIN = "brain"


async def fetch(session: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON of a page."""
    async with session.get(url) as answer:
        return answer.status, await answer.json(content_type=None)


async def until_async(condition: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> None:
    """Wait until something is the case that has to be asked for."""
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.02)


async def is_closed(url: str) -> bool:
    """Tell whether nobody listens there any more."""
    try:
        async with aiohttp.ClientSession() as other:
            await fetch(other, url + "/liveness")
    except aiohttp.ClientConnectorError:
        return True
    return False


class Parts:
    """A router in two data planes in front of an emulated group, and a client."""

    def __init__(self, it: Process, engine: EmulatedGroup, session: aiohttp.ClientSession) -> None:
        self.it, self.engine, self.session = it, engine, session

    async def pids(self) -> dict[str, int]:
        """Return the processes by their names."""
        _, shown = await fetch(self.session, self.it.url + "/workers")
        return {its["process"]: its["pid"] for its in shown["processes"]}

    def ask(self, num: int, output_tokens: int) -> list[asyncio.Task[tuple[int, list[bytes]]]]:
        """Begin so many streams, each over a connection of its own."""
        return [
            asyncio.create_task(ask(self.session, self.it.url, output_tokens)) for _ in range(num)
        ]

    @property
    def num_running(self) -> list[int]:
        """Return how many requests the engine runs on each rank."""
        return [rank.num_running for rank in self.engine.engine.ranks]

    async def is_exact(self) -> bool:
        """Tell whether the ledger has what the engine has, to within two steps."""
        ranks = self.engine.engine.ranks
        least = [rank.load_tokens - 2 * rank.num_running for rank in ranks]
        status, shown = await fetch(self.session, self.it.url + "/workers")
        if status != 200:
            return False
        booked = shown["workers"]
        most = [rank.load_tokens + rank.num_running for rank in ranks]
        return self.num_running == [its["num_inflight"] for its in booked] and all(
            low <= its["load_tokens"] <= high
            for low, its, high in zip(least, booked, most, strict=True)
        )

    async def has_all_ranks(self) -> bool:
        """Tell whether every rank of the group may have requests."""
        _, shown = await fetch(self.session, self.it.url + "/workers")
        return [its["is_open"] for its in shown["workers"]] == [True] * NUM_RANKS

    async def is_ready(self) -> bool:
        """Tell whether every part is up."""
        return (await fetch(self.session, self.it.url + "/readiness"))[0] == 200


@contextlib.asynccontextmanager
async def parts(
    log: Path, *arguments: str, step_s: float = STEP_S, file: Path | None = None
) -> AsyncIterator[Parts]:
    """Start all of them; the ranks are named in a file, if there is one, but for the last."""
    async with group(constant_s=step_s) as engine, aiohttp.ClientSession() as session:
        where = ["--worker-urls", engine.url, "--intra-node-data-parallel-size", str(NUM_RANKS)]
        if file is not None:
            name_ranks(file, engine.url, range(NUM_RANKS - 1))
            where = ["--config", str(file)]
        more = [
            "--processes",
            "2",
            "--health-check-interval-secs",
            "0.2",
            "--policy",
            "br_0",
            "--slots",
            str(NUM_SLOTS),
        ]
        async with router(*where, *more, *arguments, log=log) as it:
            yield Parts(it, engine, session)


def name_ranks(file: Path, url: str, ranks: Iterable[int]) -> None:
    """Write settings that name these ranks."""
    file.write_bytes(msgspec.yaml.encode({"worker-urls": [f"{url}@{rank}" for rank in ranks]}))


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, whether or not anybody has taken note of that."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"
