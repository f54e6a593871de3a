"""How level the ranks are: efficiency and imbalance on real lengths, saturated pool."""

from __future__ import annotations

import numpy as np

from balanceroute.report.experiment import Experiment
from balanceroute.report.result import SimulationResult
from balanceroute.sim.config import SimConfig, Start, StepTime
from bench.machine import TRACES, spread

POLICIES = ("br_0,select_by=margin", "br_0", "round_robin", "fcfs")
NUM_SLOTS = 72
# Ranks, waiting requests, and requests simulated, of one cell.
GROUPS = ((16, 256, 60_000), (144, 1024, 240_000))
NUM_REPEATS = 3
BURSTGPT_REPEATS = 8


def measure_balance() -> list[dict[str, object]]:
    """Return efficiency and longest wait per trace, group and policy."""
    cells: list[dict[str, object]] = []
    for trace in ("azure2023_conv", "azure2023_code"):
        for num_ranks, pool_size, num_requests in GROUPS:
            result = _run(trace, num_ranks, pool_size, num_requests, "paper", NUM_REPEATS)
            for policy in POLICIES:
                metrics = [run.metrics for run in result.runs if run.policy == policy]
                ratios = [m.longest_wait_ratio for m in metrics if m.longest_wait_ratio is not None]
                cells.append(
                    {
                        "trace": trace,
                        "ranks": num_ranks,
                        "pool": pool_size,
                        "requests": num_requests,
                        "policy": policy,
                        "repeats": NUM_REPEATS,
                        "efficiency": spread([m.efficiency for m in metrics]),
                        "longest_wait_ratio": spread(ratios),
                    }
                )
    return cells


def measure_burstgpt() -> list[dict[str, object]]:
    """Return imbalance before refill and simulation time of the BurstGPT comparison of [B].

    The public code of [B] starts with empty slots and averages from the first step on; the
    stationary start is what our figures use elsewhere.
    """
    cells: list[dict[str, object]] = []
    starts: tuple[Start, ...] = ("empty", "stationary")
    for start in starts:
        trace, repeats = "lengths_burstgpt_8000", BURSTGPT_REPEATS
        result = _run(trace, 16, 128, 20_000, "bf-io", repeats, start=start)
        for policy in POLICIES:
            metrics = [run.metrics for run in result.runs if run.policy == policy]
            imbalances = [m.mean_imbalance_before_refill_tokens for m in metrics]
            cells.append(
                {
                    "start": start,
                    "policy": policy,
                    "repeats": repeats,
                    "mean_imbalance_before_refill_tokens": {
                        **spread(imbalances),
                        "mean": float(np.mean(imbalances)),
                        "by_seed": [round(value) for value in imbalances],
                    },
                    "simulation_s": spread([m.wall_s for m in metrics]),
                }
            )
    return cells


def _run(
    trace: str,
    num_ranks: int,
    pool_size: int,
    num_requests: int,
    step_time: str,
    num_repeats: int,
    *,
    start: Start = "stationary",
) -> SimulationResult:
    config = SimConfig(
        step_time=StepTime.parse(step_time, num_slots=NUM_SLOTS),
        num_ranks=num_ranks,
        num_slots=NUM_SLOTS,
        pool_size=pool_size,
        start=start,
        warmup_steps=0 if start == "empty" else None,
    )
    experiment = Experiment(
        source=str(TRACES / f"{trace}.csv.gz"),
        config=config,
        policies=POLICIES,
        num_requests=num_requests,
        num_repeats=num_repeats,
    )
    return experiment.run()[0]
