"""Routers whose live page is looked at."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import aiohttp
import aiohttp.test_utils

from balanceroute.live.app import running_router
from balanceroute.live.reading import read_config
from tests.live.fake_engine import Client, FakeEngine, metrics_of, routing, serving

BASE_LOAD = 10_000


@contextlib.asynccontextmanager
async def a_group(num_ranks: int, **settings: object) -> AsyncIterator[Client]:
    """Run a router in front of ranks that seem to be busy."""
    async with serving(FakeEngine()) as engine:
        engine.metrics = metrics_of([(0, 0)] * num_ranks)
        more: dict[str, object] = {"intra_node_data_parallel_size": num_ranks, **settings}
        async with routing(engine, **more) as client:
            yield client


def load(client: Client, turn: int = 0) -> None:
    """Let the ranks seem to hold something."""
    ranks = client.router.group.ledger.ranks
    for rank in range(len(ranks)):
        ranks["load_tokens"][rank] = BASE_LOAD * (rank % 5 + 3) + (turn * 131 + rank * 977) % 5000
        ranks["due_tokens"][rank] = 2000 * (rank % 3)
        ranks["num_running"][rank] = 40 + rank % 20


@contextlib.asynccontextmanager
async def administered(engine: FakeEngine) -> AsyncIterator[tuple[Client, str]]:
    """Run a router with a port for administrators; give that port's URL, too."""
    with_port = aiohttp.test_utils.unused_port()
    flags = {
        "worker_urls": [engine.url],
        "policy": "fcfs",
        "slots": 4,
        "port": 0,
        "admin_port": with_port,
        "admin_token": "token",
    }
    async with running_router(read_config(None, flags)) as (router, port):
        async with aiohttp.ClientSession() as session:
            client = Client(session, router, f"http://127.0.0.1:{port}")
            yield client, f"http://127.0.0.1:{with_port}"
