"""Bundles of several sizes, simulated with the same loads, beside what was predicted."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from balanceroute.afd.cycle import Bundle, barrier_s, gaussian_s, mean_field_s, pipeline_s
from balanceroute.afd.loads import WorkerLoad, worker_load
from balanceroute.afd.optimum import Weights, throughput
from balanceroute.afd.simulate import (
    MAX_CELLS,
    Idle,
    Loads,
    Order,
    run_cycles,
    simulate_loads,
)
from balanceroute.afd.slots import SlotLoad, slot_load
from balanceroute.errors import ConfigError
from balanceroute.sim.config import Start
from balanceroute.types import Workload


class SweepPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One r: simulated, and predicted by each rule.

    Attributes
    ----------
    r : int
        Attention workers.
    cycle_s, cycle_error_s, tpot_s, tokens_per_s : float
        Simulated, as of `balanceroute.afd.simulate.BundleRun`.
    value : float
        Simulated tokens per second and unit of the weights.
    max_load_tokens : float
        Simulated mean of the largest load.
    idle : Idle
        Simulated idleness by cause.
    pipeline_s, barrier_s, gaussian_s, mean_field_s : float
        Predicted cycles.
    predicted_max_tokens : float
        Predicted mean of the largest load, from the loads' own distribution.
    """

    r: int
    cycle_s: float
    cycle_error_s: float
    tpot_s: float
    tokens_per_s: float
    value: float
    max_load_tokens: float
    idle: Idle
    pipeline_s: float
    barrier_s: float
    gaussian_s: float
    mean_field_s: float
    predicted_max_tokens: float


def sweep(
    workload: Workload,
    bundle: Bundle,
    weights: Weights,
    choices: Sequence[int],
    *,
    num_cycles: int = 20_000,
    seed: int = 0,
    start: Start = "stationary",
    order: Order = "shuffled",
) -> tuple[SweepPoint, ...]:
    """Simulate bundles of several sizes.

    The workers of a smaller bundle are the first of the largest, so that the sizes differ by what
    size does and hardly by chance.

    Parameters
    ----------
    workload, bundle, num_cycles, seed, start, order
        As of `balanceroute.afd.simulate.simulate_bundle`.
    weights : Weights
        What throughput is counted per.
    choices : sequence of int
        Values of r, each at least 1.

    Raises
    ------
    ConfigError
        If a number is out of range.
    """
    if not choices or min(choices) < 1 or num_cycles < 1:
        raise ConfigError(
            f"--workers and --cycles must be at least 1, got {list(choices)} and {num_cycles}"
        )
    if num_cycles * max(choices) > MAX_CELLS:
        raise ConfigError(
            f"--cycles times the largest of --workers must be at most {MAX_CELLS:,}, got "
            f"{num_cycles} times {max(choices)}"
        )
    slot = slot_load(workload)
    load = worker_load(slot, bundle.num_slots)
    groups = [
        simulate_loads(
            workload, bundle.num_slots, max(choices),
            num_cycles=num_cycles, rng=rng, start=start, order=order,
        )
        for rng in np.random.default_rng(seed).spawn(bundle.num_microbatches)
    ]  # fmt: skip
    most = [np.maximum.accumulate(group, axis=1) for group in groups]
    sums = [np.cumsum(group, axis=1) for group in groups]
    points = []
    for r in sorted(set(choices)):
        loads = [
            Loads(max_tokens=largest[:, r - 1].astype(np.float64), mean_tokens=total[:, r - 1] / r)
            for largest, total in zip(most, sums, strict=True)
        ]
        points.append(_point(bundle, weights, slot, load, r, loads))
    return tuple(points)


def simulated_best(points: Sequence[SweepPoint]) -> SweepPoint:
    """Return the point with the most simulated tokens per unit of the weights."""
    return max(points, key=lambda each: each.value)


def _point(
    bundle: Bundle,
    weights: Weights,
    slot: SlotLoad,
    load: WorkerLoad,
    num_workers: int,
    loads: list[Loads],
) -> SweepPoint:
    run = run_cycles(bundle, num_workers, loads)
    theta, nu = slot.theta_tokens.value, slot.nu_tokens.value
    return SweepPoint(
        r=num_workers,
        cycle_s=run.cycle_s,
        cycle_error_s=run.cycle_error_s,
        tpot_s=run.tpot_s,
        tokens_per_s=run.tokens_per_s,
        value=throughput(bundle, weights, num_workers, run.cycle_s),
        max_load_tokens=run.max_load_tokens,
        idle=run.idle,
        pipeline_s=pipeline_s(bundle, load, num_workers),
        barrier_s=barrier_s(bundle, load, num_workers),
        gaussian_s=gaussian_s(bundle, theta, nu, num_workers),
        mean_field_s=mean_field_s(bundle, theta, num_workers),
        predicted_max_tokens=load.expected_max(num_workers),
    )
