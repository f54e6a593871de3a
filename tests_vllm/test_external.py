"""One port per rank: external balancing of a mixture of experts, and servers on their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests_vllm.checks import expect_whole
from tests_vllm.load import mixed_lengths, send_all
from tests_vllm.routers import refusal, running_router
from tests_vllm.servers import Server, free_port, running_server


@contextlib.contextmanager
def two_servers(folder: Path, model: Path, arguments: list[list[str]]) -> Iterator[list[Server]]:
    """Start two servers at once, since each may wait for the other."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(2) as threads:

        def start(of_one: list[str]) -> Server:
            # One rank each, which is the only one that it knows.
            return stack.enter_context(running_server(folder, model, *of_one, ranks=0))

        yield list(threads.map(start, arguments))


@pytest.fixture(scope="module")
def external(folder: Path, moe: Path) -> Iterator[list[Server]]:
    common = ["--data-parallel-size", "2", "--enable-expert-parallel", "--max-num-seqs", "8"]
    common += ["--data-parallel-address", "127.0.0.1"]
    common += ["--data-parallel-rpc-port", str(free_port())]
    arguments = [[*common, "--data-parallel-rank", str(rank)] for rank in (0, 1)]
    with two_servers(folder, moe, arguments) as servers:
        yield servers


def test_one_port_per_rank(external: list[Server], folder: Path) -> None:
    """Every answer is whole and both servers have worked."""
    lengths = mixed_lengths(30, seed=9)
    urls = [server.url for server in external]
    with running_router(folder, *urls, "--slots", "8") as router:
        outcomes = asyncio.run(send_all(router, lengths, concurrency=16))
    expect_whole(outcomes, lengths)
    tokens = [
        sum(v for n, v in server.metrics().items() if n.startswith("vllm:prompt_tokens_total"))
        for server in external
    ]
    # The ranks are level in what they hold at a time, not in all they ever had: two prompts are two
    # fifths of the tokens, and by timing alone a rank gets 16 to 50 % of them.
    assert min(tokens) > 0.1 * sum(tokens)


def test_ranks_behind_one_port_are_not_looked_for_there(external: list[Server]) -> None:
    """Each server knows of its own rank only, and the router says so."""
    status, message = refusal(external[0].url, "--intra-node-data-parallel-size", "2")
    assert status == 2
    assert "has no data-parallel rank 1" in message
