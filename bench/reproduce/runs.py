"""One run of ours, with what the public code of [B] measures besides."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from balanceroute.metrics.steps import counted_steps
from balanceroute.report.experiment import Experiment
from balanceroute.report.runs import run_policy
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.warm import warm
from balanceroute.study.interval import interval_of
from balanceroute.types import Workload
from balanceroute.workload import fingerprint
from bench.machine import TRACES
from bench.reproduce.kept import kept

#: Figures by seed, or their means.
Figures = dict[str, float]

CUSTOM_POLICIES = Path(__file__).with_name("restarting.py")


def authors_config(num_ranks: int, num_slots: int, pool_size: int | None) -> SimConfig:
    """Return the group as the public code of [B] has it: empty at first, all steps counted."""
    return SimConfig(
        step_time=StepTime.parse("bf-io", num_slots=num_slots),
        num_ranks=num_ranks,
        num_slots=num_slots,
        pool_size=pool_size,
        start="empty",
        warmup_steps=0,
    )


def saturated(
    trace: str,
    policies: tuple[str, ...],
    size: tuple[int, int, int],
    num_requests: int,
    *,
    warmup_steps: int | None = None,
) -> Experiment:
    """Return a saturated group of `size`: ranks, slots and waiting requests."""
    num_ranks, num_slots, pool_size = size
    config = SimConfig(
        step_time=StepTime.parse("paper", num_slots=num_slots),
        num_ranks=num_ranks,
        num_slots=num_slots,
        pool_size=pool_size,
        warmup_steps=warmup_steps,
    )
    source = str(TRACES / f"{trace}.csv.gz")
    return Experiment(source=source, config=config, policies=policies, num_requests=num_requests)


def run(spec: str, workload: Workload, config: SimConfig, *, seed: int = 0) -> Figures:
    """Return the figures of a run, also at the measuring point of [B]: before the refill."""
    measure = partial(_measure, spec, workload, config, seed)
    return kept(measure, spec, fingerprint(workload), config, seed)


def _measure(spec: str, workload: Workload, config: SimConfig, seed: int) -> Figures:
    warm(spec, config)
    result, records = run_policy(spec, workload, config, seed=seed)
    metrics, steps = result.metrics, counted_steps(records)
    full = np.maximum(steps.refill_max_load_tokens * config.num_ranks, 1)
    return {
        "imbalance_before_refill": metrics.mean_imbalance_before_refill_tokens,
        "imbalance": metrics.mean_imbalance_tokens,
        "idle_before_refill": float(np.mean(1.0 - steps.refill_sum_load_tokens / full)),
        "idle": metrics.idle_ratio,
        "throughput": metrics.throughput_tok_per_s or 0.0,
        "energy_kj": metrics.energy_j / 1e3,
        "energy_per_token_j": metrics.energy_per_token_j or 0.0,
        "efficiency": metrics.efficiency,
        "longest_wait": metrics.longest_wait_ratio or 0.0,
        "num_steps": float(metrics.num_steps),
        "wall_s": metrics.wall_s,
        "plan_us": metrics.decision_us.p50 or 0.0,
    }


def mean_of(runs: Sequence[Figures]) -> dict[str, dict[str, float | None]]:
    """Return mean and half of the 95 % interval of each figure over repeats."""
    means: dict[str, dict[str, float | None]] = {}
    for name in runs[0]:
        interval = interval_of([figures[name] for figures in runs])
        reach = None
        if interval.mean is not None and interval.high is not None:
            reach = interval.high - interval.mean
        means[name] = {"mean": interval.mean, "reach": reach}
    return means
