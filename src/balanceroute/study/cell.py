"""One run of a study, in whichever process it falls to."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from balanceroute.errors import ConfigError
from balanceroute.metrics import figure
from balanceroute.report.experiment import SLOT_FILLS, Experiment
from balanceroute.report.runs import run_policy
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.warm import warm
from balanceroute.study.plan import Cell
from balanceroute.types import Workload
from balanceroute.workload import PRESETS

#: Figures of a run that depend on nothing but its cell.
FIGURES = (
    "efficiency",
    "mean_imbalance_tokens",
    "mean_imbalance_before_refill_tokens",
    "idle_ratio",
    "throughput_tok_per_s",
    "tpot_s.mean",
    "tpot_s.p99",
    "ttft_s.p99",
    "longest_wait_ratio",
    "energy_per_token_j",
    "num_steps",
)

#: Figures that depend on the machine as well.
TIMINGS = ("decision_us.p50", "decision_us.p99", "wall_s")


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a run gave; None stands for what its window did not hold.

    Attributes
    ----------
    key : str
        Of the cell.
    cell : Cell
        What was run.
    figures, timings : dict of str to float or None
        By the names of `FIGURES` and `TIMINGS`.
    """

    key: str
    cell: Cell
    figures: dict[str, float | None]
    timings: dict[str, float | None]


def hash_of(source: str) -> str:
    """Return a hash of a trace file's content, empty for a preset."""
    if source in PRESETS:
        return ""
    if not Path(source).is_file():
        raise ConfigError(f"no preset or file is called {source!r}; `trace list` shows the presets")
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16]


def run_cell(cell: Cell) -> CellResult:
    """Simulate a cell.

    Raises
    ------
    ConfigError
        If it cannot be simulated, for instance because a setting is out of range.
    """
    config = _config(cell)
    _warm_once(cell.policy, config)
    workload = _with_bursts(_requests(cell, config), cell.setup.burst)
    result, _ = run_policy(cell.policy, workload, config, seed=cell.seed)
    return CellResult(
        key=cell.key,
        cell=cell,
        figures={name: figure(result.metrics, name) for name in FIGURES},
        timings={name: figure(result.metrics, name) for name in TIMINGS},
    )


def _config(cell: Cell) -> SimConfig:
    setup = cell.setup
    if setup.burst < 1:
        raise ConfigError(f"burst must be at least 1 request, got {setup.burst}")
    if setup.rate is None and setup.burst > 1:
        raise ConfigError(f"a burst of {setup.burst} needs --rate: a saturated pool has no bursts")
    return SimConfig(
        step_time=StepTime.parse(cell.step_time, num_slots=setup.slots),
        num_ranks=setup.ranks,
        num_slots=setup.slots,
        pool_size=setup.pool if setup.rate is None else None,
        arrivals="saturated" if setup.rate is None else "poisson",
        staleness_s=setup.staleness,
    )


def _requests(cell: Cell, config: SimConfig) -> Workload:
    least = SLOT_FILLS * config.num_ranks * config.num_slots if config.is_saturated else 0
    experiment = Experiment(
        source=cell.source,
        config=config,
        policies=(cell.policy,),
        num_requests=max(cell.num_requests, least),
        rate_per_s=cell.setup.rate,
        seed=cell.seed,
    )
    _, workload = experiment.requests(cell.seed)
    return workload


def _with_bursts(workload: Workload, num_at_once: int) -> Workload:
    """Let so many requests arrive at once, at the mean rate that they had."""
    if workload.arrival_s is None or num_at_once == 1:
        return workload
    first = np.arange(workload.num_requests) // num_at_once * num_at_once
    return replace(workload, arrival_s=workload.arrival_s[first])


@functools.lru_cache(maxsize=256)
def _warm_once(policy: str, config: SimConfig) -> None:
    warm(policy, config)
