"""What is asked of a server again and again."""

from __future__ import annotations

import time

from tests_vllm.load import Outcome
from tests_vllm.servers import Server

REST_S = 15.0
REPORT_S = 0.5  # the plug-in's metrics are a quarter of a second late


def at_rest(server: Server, ranks: int = 2) -> dict[str, float]:
    """Return a server's metrics once it does nothing, and the plug-in's accounts are empty."""
    time.sleep(REPORT_S)
    deadline_s = time.monotonic() + REST_S
    while True:
        metrics = server.metrics()
        names = [
            f"{name}@{rank}"
            for name in (
                "vllm:num_requests_running",
                "vllm:num_requests_waiting",
                "balanceroute_rank_load_tokens",
                "balanceroute_rank_due_tokens",
                "balanceroute_rank_inflight_requests",
            )
            for rank in range(ranks)
        ]
        busy = {name: metrics[name] for name in names if metrics.get(name, 0.0) != 0.0}
        if not busy:
            return metrics
        assert time.monotonic() < deadline_s, f"not at rest after {REST_S:g} s: {busy}"
        time.sleep(0.3)


def expect_whole(outcomes: list[Outcome], lengths: list[tuple[int, int]]) -> None:
    """Fail unless every request was answered with as many tokens as it asked for."""
    asked = [(200, output_tokens) for _, output_tokens in lengths]
    assert asked == [(outcome.status, outcome.output_tokens) for outcome in outcomes]


def added(before: dict[str, float], after: dict[str, float], name: str) -> float:
    """Return by how much a counter has grown."""
    return after.get(name, 0.0) - before.get(name, 0.0)
