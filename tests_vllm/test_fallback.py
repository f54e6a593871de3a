"""A policy that fails on a real server: vLLM's own rule answers every request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests_vllm.checks import expect_whole
from tests_vllm.load import mixed_lengths, send_all
from tests_vllm.servers import Server, running_server

# It fails at its twentieth plan, with requests held and on both ranks.
POLICY = '''
from balanceroute.policies.classic import LeastTokens

class Failing(LeastTokens):
    """Works for a while."""

    binding = "pooled"
    num_plans = 0

    def plan(self, view, pool):
        self.num_plans += 1
        if self.num_plans > 20:
            raise ZeroDivisionError("as the test wants it")
        return super().plan(view, pool)
'''


@pytest.fixture(scope="module", params=["pooled", "immediate"])
def server(request: pytest.FixtureRequest, folder: Path, moe: Path) -> Iterator[Server]:
    policy = folder / "failing.py"
    policy.write_text(POLICY)
    arguments = ["--data-parallel-size", "2", "--enable-expert-parallel", "--max-num-seqs", "4"]
    environment = {
        "BALANCEROUTE_VLLM": "1",
        "BALANCEROUTE_POLICY": f"{policy}:Failing",
        "BALANCEROUTE_BINDING": request.param,
    }
    with running_server(folder, moe, *arguments, environment=environment) as server:
        yield server


def test_every_request_is_answered(server: Server) -> None:
    """Those before the failure, those held at that moment, and those after it."""
    lengths = mixed_lengths(60, seed=13)
    outcomes = asyncio.run(send_all(server, lengths, concurrency=30))
    expect_whole(outcomes, lengths)
    assert server.log.count("vLLM's own choice of ranks is back in force") == 1
    assert "as the test wants it" in server.log
    metrics = server.metrics()
    assert [v for name, v in metrics.items() if "balanceroute_plugin_info" in name] == [0.0]
