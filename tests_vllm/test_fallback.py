"""A policy that fails on a real server: vLLM's own rule answers every request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests_vllm.checks import expect_whole
from tests_vllm.load import Outcome, mixed_lengths, send_all
from tests_vllm.servers import Server, running_server

# It fails once a file is there, which is put there with requests held and on both ranks.
POLICY = '''
from pathlib import Path

from balanceroute.policies.classic import LeastTokens

class Failing(LeastTokens):
    """Works for a while."""

    binding = "pooled"

    def plan(self, view, pool):
        if Path(FLAG).exists():
            raise ZeroDivisionError("as the test wants it")
        return super().plan(view, pool)
'''
FLAG = "fail"
FEWEST_IN_FLIGHT = 6  # of eight slots


@pytest.fixture(scope="module", params=["pooled", "immediate"])
def server(request: pytest.FixtureRequest, folder: Path, moe: Path) -> Iterator[Server]:
    policy = folder / "failing.py"
    policy.write_text(POLICY.replace("FLAG", repr(str(folder / FLAG))))
    (folder / FLAG).unlink(missing_ok=True)
    arguments = ["--data-parallel-size", "2", "--enable-expert-parallel", "--max-num-seqs", "4"]
    environment = {
        "BALANCEROUTE_VLLM": "1",
        "BALANCEROUTE_POLICY": f"{policy}:Failing",
        "BALANCEROUTE_BINDING": request.param,
    }
    with running_server(folder, moe, *arguments, environment=environment) as server:
        yield server


def test_every_request_is_answered(server: Server, folder: Path) -> None:
    """Those before the failure, those held at that moment, and those after it."""
    lengths = mixed_lengths(60, seed=13)

    async def story() -> list[Outcome]:
        sending = asyncio.create_task(send_all(server, lengths, concurrency=30))
        while await asyncio.to_thread(_num_in_flight, server) < FEWEST_IN_FLIGHT:
            assert not sending.done()
        (folder / FLAG).touch()
        return await sending

    expect_whole(asyncio.run(story()), lengths)
    assert server.log.count("vLLM's own choice of ranks is back in force") == 1
    assert "as the test wants it" in server.log
    metrics = server.metrics()
    assert [v for name, v in metrics.items() if "balanceroute_plugin_info" in name] == [0.0]


def _num_in_flight(server: Server) -> float:
    metrics = server.metrics()
    return sum(metrics.get(f"balanceroute_rank_inflight_requests@{rank}", 0.0) for rank in (0, 1))
