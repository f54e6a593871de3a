"""`balanceroute serve` as a process in front of an emulated group, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from balanceroute.emulator.group import EmulatedGroup
from balanceroute.emulator.serve import emulated_groups
from tests.emulator.serving import server_config
from tests.live.fake_engine import until

COMMAND = [sys.executable, "-c", "from balanceroute.cli import main; main()", "serve"]
LIMIT_S = 90.0  # kernels may have to be compiled
NUM_RANKS, NUM_SLOTS = 4, 8


class Process:
    """A router in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self.log, self.url = process, log, ""

    async def wait_ready(self) -> None:
        """Wait for the line that says where it listens."""
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        assert "in front of" in line, self.log.read_text()
        self.url = line.split()[-1]

    async def said(self, text: str) -> None:
        """Wait until the log says something."""
        await until(lambda: text in self.log.read_text())


@contextlib.asynccontextmanager
async def started(*arguments: str, log: Path) -> AsyncIterator[Process]:
    """Start the command; it is killed at the end if it still runs."""
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=errors
        )
    try:
        yield Process(process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def router(*arguments: str, log: Path) -> AsyncIterator[Process]:
    """Start a router and wait until it serves."""
    async with started("--port", "0", *arguments, log=log) as process:
        await process.wait_ready()
        yield process


async def expect_refusal(*arguments: str, message: str, log: Path) -> None:
    """Expect that it does not start, says why in one line, and ends with 2."""
    async with started(*arguments, log=log) as it:
        assert 2 == await asyncio.wait_for(it.process.wait(), LIMIT_S)
    *_, line = log.read_text().splitlines()  # behind the one that says what it does
    assert message in line


@contextlib.asynccontextmanager
async def group(**settings: Any) -> AsyncIterator[EmulatedGroup]:
    """Run an emulated group in this process."""
    config = server_config(num_ranks=NUM_RANKS, num_slots=NUM_SLOTS, **settings)
    async with emulated_groups(config) as groups:
        yield groups[0]


def body(output_tokens: int, prompt_tokens: int = 20) -> dict[str, Any]:
    """Return a request that streams so many tokens, at 2 ms each."""
    return {
        "model": "emulated",
        "prompt": [1] * prompt_tokens,
        "max_tokens": output_tokens,
        "ignore_eos": True,
        "stream": True,
    }


async def ask(
    session: aiohttp.ClientSession, url: str, output_tokens: int
) -> tuple[int, list[bytes]]:
    """Send a request; return the status and the events, or the lines of an error."""
    url += "/v1/completions"
    async with session.post(url, json=body(output_tokens)) as answer:
        return answer.status, (await answer.read()).removesuffix(b"\n\n").split(b"\n\n")


def is_whole(ended: tuple[int, list[bytes]], output_tokens: int) -> bool:
    """Tell whether a stream has all its tokens and its end."""
    status, events = ended
    return status == 200 and events[-1] == b"data: [DONE]" and len(events) == output_tokens + 1


async def workers(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    """Return what the router says of its ranks."""
    async with session.get(url + "/workers") as answer:
        shown: list[dict[str, Any]] = (await answer.json())["workers"]
        return shown


async def emulator_state(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    """Return what the engine says of its ranks."""
    async with session.get(url + "/emulator/state") as answer:
        ranks: list[dict[str, Any]] = (await answer.json())["ranks"]
        return ranks
