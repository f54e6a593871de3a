"""Engines driven in virtual time, and their configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from balanceroute.cluster.costs import StepCosts
from balanceroute.emulator.config import EngineConfig
from balanceroute.emulator.engine import Engine
from balanceroute.emulator.request import Request

# Sums of eighths are exact in binary, so times worked by hand are compared with ==.
EIGHTH_S = 1 / 8
COSTS = ("prefill_s_per_token", "prefill_shared", "mixed_step_s", "budget_tokens", "kappa0_tokens")


def engine_config(**settings: Any) -> EngineConfig:
    """Return one rank, one slot, blocks of one token, a second a step; costs by their names."""
    costs = {name: settings.pop(name) for name in COSTS if name in settings}
    costs["constant_s"] = settings.pop("constant_s", 1.0)
    costs["s_per_token"] = settings.pop("s_per_token", 0.0)
    defaults: dict[str, Any] = {"num_ranks": 1, "num_slots": 1, "block_size": 1}
    return EngineConfig(costs=StepCosts(**costs), **(defaults | settings))


class Lives:
    """When each request got its first token and finished; NaN if it did not."""

    def __init__(self, num_requests: int) -> None:
        self.first_token_s = [float("nan")] * num_requests
        self.finished_s = [float("nan")] * num_requests


def drive(
    engine: Engine, requests: Sequence[Request], arrivals_s: Sequence[float] | None = None
) -> Lives:
    """Run requests to their end; steps follow each other, an idle engine waits for an arrival."""
    arrivals_s = [0.0] * len(requests) if arrivals_s is None else arrivals_s
    lives, rows = Lives(len(requests)), {request: i for i, request in enumerate(requests)}
    now_s, num_arrived = 0.0, 0
    while True:
        while num_arrived < len(requests) and arrivals_s[num_arrived] <= now_s:
            engine.submit(requests[num_arrived])
            num_arrived += 1
        duration_s = engine.begin_step(now_s)
        if duration_s is None:
            if num_arrived == len(requests):
                return lives
            now_s = arrivals_s[num_arrived]
            continue
        # As the simulator sums: the constant and what the load adds, one after the other.
        _, records = engine.log.since(engine.num_steps_ended)
        end_s = now_s + engine.config.costs.constant_s + float(records.max_work_s[0])
        while num_arrived < len(requests) and arrivals_s[num_arrived] <= end_s:
            engine.submit(requests[num_arrived])
            num_arrived += 1
        for request in engine.end_step():
            if request.generated_tokens == 1:
                lives.first_token_s[rows[request]] = end_s
            if request.is_finished:
                lives.finished_s[rows[request]] = end_s
        now_s = end_s
