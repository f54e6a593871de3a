"""Servers on their own, one rank each, behind the router."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests_vllm.checks import expect_whole
from tests_vllm.load import mixed_lengths, send_all
from tests_vllm.routers import running_router
from tests_vllm.test_external import two_servers


def test_independent_servers(folder: Path, dense: Path) -> None:
    """Every answer is whole; the ranks are no group with a barrier, and the router is told so."""
    lengths = mixed_lengths(30, seed=11)
    with two_servers(folder, dense, [["--max-num-seqs", "8"]] * 2) as servers:
        urls = [server.url for server in servers]
        with running_router(folder, *urls, "--no-barrier", "--slots", "8") as router:
            outcomes = asyncio.run(send_all(router, lengths, concurrency=16))
    expect_whole(outcomes, lengths)
