"""The router in front of a server that has two ranks behind one port; no plug-in there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests_vllm.checks import added, at_rest, expect_whole
from tests_vllm.load import mixed_lengths, send_all
from tests_vllm.routers import refusal, running_router
from tests_vllm.servers import Server, running_server

RANKS = ["--intra-node-data-parallel-size", "2"]


@pytest.fixture(scope="module")
def server(folder: Path, moe: Path) -> Iterator[Server]:
    arguments = ["--data-parallel-size", "2", "--enable-expert-parallel", "--max-num-seqs", "8"]
    with running_server(folder, moe, *arguments) as server:
        yield server


def test_without_its_variable_the_plugin_does_nothing(server: Server) -> None:
    """It is installed, but neither on the metrics nor in the log."""
    assert [name for name in server.metrics() if name.startswith("balanceroute")] == []
    assert "balanceroute" not in server.log


@pytest.mark.parametrize("streams", [True, False])
def test_ranks_are_named_by_header(server: Server, folder: Path, streams: bool) -> None:
    """Both ranks serve, every answer is whole, and the router's ledger is empty at rest."""
    lengths, before = mixed_lengths(40, seed=7 + streams), server.metrics()
    with running_router(folder, server.url, *RANKS, "--slots", "8") as router:
        outcomes = asyncio.run(send_all(router, lengths, concurrency=24, streams=streams))
        expect_whole(outcomes, lengths)
        own = router.metrics()
    after = at_rest(server)
    assert {0.0} == {own[n] for n in own if n.startswith("balanceroute_rank_load_tokens")}
    assert own["balanceroute_load_signals_up"] == 1.0
    prompts = [added(before, after, f"vllm:prompt_tokens_total@{rank}") for rank in (0, 1)]
    assert sum(prompt for prompt, _ in lengths) == sum(prompts)
    assert min(prompts) > 0.3 * sum(prompts)


@pytest.mark.parametrize(
    ("address", "cure"),
    [
        ("{url}", "use --intra-node-data-parallel-size 2"),
        ("{url}@2", "has no data-parallel rank 2: its metrics show [0, 1]"),
    ],
)
def test_a_wrong_mode_is_refused_with_the_cure(server: Server, address: str, cure: str) -> None:
    """Before a request is sent to the wrong rank."""
    status, message = refusal(address.format(url=server.url))
    assert status == 2
    assert cure in message
