"""An emulated group, a router in front of it and load on both, for those who look at the page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import IO

from balanceroute.loadgen import LoadConfig, read_requests, replay
from examples.demo import NUM_RANKS, NUM_SLOTS, SCENARIOS, command

FLAGS = SCENARIOS[1].flags
PACE = ("--speedup", "0.3", "--stream-interval", "16")
FULL = NUM_RANKS * NUM_SLOTS + 32  # requests at a time
LONG_S = 86_400.0  # more than anybody looks


@contextlib.contextmanager
def emulated_group(log: IO[bytes]) -> Iterator[str]:
    """Run the demo's group that prefills and decodes, slowly; give its URL."""
    size = ["--ranks", str(NUM_RANKS), "--slots", str(NUM_SLOTS), "--port", "0"]
    with command(["emulate", *size, *PACE, *FLAGS], log) as url:
        yield url


@contextlib.contextmanager
def router_of(engine: str, log: IO[bytes], port: int = 0) -> Iterator[str]:
    """Run a router in front of that group; give its URL."""
    where = ["--worker-urls", engine, "--intra-node-data-parallel-size", str(NUM_RANKS)]
    limits = ["--slots", str(NUM_SLOTS), "--port", str(port)]
    with command(["serve", *where, *limits, *FLAGS], log) as url:
        yield url


@contextlib.asynccontextmanager
async def loaded(url: str, preset: str, concurrency: int) -> AsyncIterator[None]:
    """Keep so many requests on a router."""
    config = LoadConfig(url=url, concurrency=concurrency, duration_s=LONG_S)
    workload, _ = read_requests(preset, config)
    stop = asyncio.Event()
    load = asyncio.create_task(replay(workload, config, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await load
