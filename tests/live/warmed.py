"""Print the kernels that are compiled after the warm-up of a policy, when requests come."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

import balanceroute.kernels
from balanceroute.cluster.costs import StepCosts
from balanceroute.emulator.config import EngineConfig
from balanceroute.emulator.engine import Engine
from balanceroute.live.warm import warm
from tests.live.virtual import Virtual

COSTS = {
    "decode": StepCosts(constant_s=0.01, s_per_token=1e-7),
    "prefill": StepCosts(
        constant_s=0.01, s_per_token=1e-7, prefill_s_per_token=2e-5, budget_tokens=512
    ),
}


def kernels() -> Iterator[tuple[str, Any]]:
    """Give every compiled function of the package by its name."""
    for module in pkgutil.iter_modules(balanceroute.kernels.__path__):
        there = importlib.import_module(f"balanceroute.kernels.{module.name}")
        for name, value in vars(there).items():
            if isinstance(value, Dispatcher):
                yield f"{module.name}.{name}", value


def compiled() -> dict[str, int]:
    """Return how many signatures each kernel has been compiled for."""
    return {name: len(kernel.signatures) for name, kernel in kernels()}


def main(policy: str, kind: str) -> None:
    """Serve short and long requests, with slots short and slots free."""
    knows_costs = kind in COSTS
    costs = COSTS[kind] if knows_costs else COSTS["prefill"]
    config = EngineConfig(costs=costs, num_ranks=4, num_slots=8, block_size=1)
    Engine(config)
    warm(policy, num_ranks=4, costs=costs if knows_costs else None)
    before = compiled()
    rng = np.random.default_rng(1)
    is_long = rng.random(900) < 0.5
    unlike = np.column_stack([rng.geometric(0.003, 900), rng.geometric(0.05, 900)])
    foretold = np.column_stack([20 + 20 * is_long, 4 + 56 * is_long])  # a reason to look ahead
    for num_waiting, lengths in ((40, unlike), (1, unlike), (40, foretold)):
        served = Virtual(
            config, lengths, policy=policy, num_waiting=num_waiting, knows_costs=knows_costs
        )
        for _ in served.steps():
            pass
    after = compiled()
    print(*sorted(name for name in after if after[name] > before.get(name, 0)))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
