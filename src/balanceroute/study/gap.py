"""Each policy's distance to the step optimum and to perfect balance: what ``gap`` reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import msgspec
import numpy as np

from balanceroute.metrics import summarize
from balanceroute.metrics.compare import spread_of
from balanceroute.policies.bf_io import BfIo
from balanceroute.policies.registry import make_policy
from balanceroute.report.experiment import Experiment
from balanceroute.report.result import GroupInfo
from balanceroute.report.runs import POLICY_STREAM, group_info
from balanceroute.report.workload import WorkloadInfo, workload_info
from balanceroute.sim.config import SimConfig
from balanceroute.sim.run import simulate
from balanceroute.sim.warm import warm
from balanceroute.study.gauge import Gauge
from balanceroute.types import Workload

Progress = Callable[[str, float], None]


class PolicyGap(msgspec.Struct, frozen=True, kw_only=True):
    """How far one policy is from the best, under one seed.

    Attributes
    ----------
    policy : str
        As the user wrote it.
    seed : int
        Of the run.
    num_plans, num_compared : int
        Plans of the run, and those solved to proven optimality.
    num_too_large, num_unproven : int
        Plans that were to be compared and had more pairs of request and rank than are tried, or
        met a limit of the search.
    mean_imbalance_tokens, mean_optimum_tokens : float or None
        Over the compared plans: imbalance of the step after the policy's plan, and after the best
        plan of as many requests from the same state. None without a compared plan.
    gap_ratio : float or None
        ``(mean imbalance - mean optimum) / mean imbalance``: the part of the imbalance that another
        plan for the same step would have avoided, in [0, 1].
    run_imbalance_tokens : float
        Mean imbalance of the whole run, after admission.
    bound_gap_ratio : float
        ``1 - η``: the part of their time that ranks wait, which perfect balance would save.
    longest_wait_ratio : float or None
        Longest wait in mean waits; the step optimum knows no fairness.
    """

    policy: str
    seed: int
    num_plans: int
    num_compared: int
    num_too_large: int
    num_unproven: int
    mean_imbalance_tokens: float | None
    mean_optimum_tokens: float | None
    gap_ratio: float | None
    run_imbalance_tokens: float
    bound_gap_ratio: float
    longest_wait_ratio: float | None


class GapResult(msgspec.Struct, frozen=True, kw_only=True):
    """The document ``balanceroute.gap.v1``."""

    workload: WorkloadInfo
    group: GroupInfo
    every: int
    max_pairs: int
    policies: tuple[PolicyGap, ...]
    schema: Literal["balanceroute.gap.v1"] = "balanceroute.gap.v1"


def measure_gaps(
    experiment: Experiment,
    *,
    every: int = 1,
    max_pairs: int = 2048,
    max_nodes: int = 200,
    time_limit_s: float = 60.0,
    on_progress: Progress | None = None,
) -> GapResult:
    """Run every policy of an experiment and compare its plans with the step optimum.

    Parameters
    ----------
    experiment : Experiment
        Policies, requests and group.
    every : int
        Plans from one that is compared to the next, at least 1.
    max_pairs, max_nodes, time_limit_s
        What is small enough to be solved, as for `BfIo`.
    on_progress : callable or None
        Told what is being done and how far it is, in [0, 1].

    Returns
    -------
    GapResult

    Raises
    ------
    MissingExtraError
        If highspy is not installed.
    """
    say = on_progress or (lambda _what, _done: None)
    limits = Limits(max_pairs=max_pairs, max_nodes=max_nodes, time_limit_s=time_limit_s)
    limits.solver()  # refuses what is out of range before anything runs
    gaps: list[PolicyGap] = []
    info: WorkloadInfo | None = None
    for seed in range(experiment.seed, experiment.seed + experiment.num_repeats):
        source, workload = experiment.requests(seed)
        info = info or workload_info(workload, None if source is None else source.num_requests)
        for spec in experiment.policies:
            say(f"compiling {spec}", 0.0)
            warm(spec, experiment.config)
            gauge = _gauge(spec, workload, seed, every, limits)
            told = partial(say, f"{spec}, seed {seed}")
            gaps.append(_measure(spec, experiment.config, workload, seed, gauge, told))
    assert info is not None
    return GapResult(
        workload=info,
        group=group_info(experiment.config, rate_scale=experiment.rate_scale),
        every=every,
        max_pairs=max_pairs,
        policies=tuple(gaps),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is small enough to be solved, as for `BfIo`."""

    max_pairs: int
    max_nodes: int
    time_limit_s: float

    def solver(self) -> BfIo:
        """Return a fresh policy that solves within these limits."""
        return BfIo(
            max_pairs=self.max_pairs, max_nodes=self.max_nodes, time_limit_s=self.time_limit_s
        )


def _gauge(spec: str, workload: Workload, seed: int, every: int, limits: Limits) -> Gauge:
    policy = make_policy(
        spec,
        rng=np.random.default_rng((seed, POLICY_STREAM)),
        output_tokens=workload.output_tokens,
    )
    return Gauge(policy, every=every, solver=limits.solver(), max_pairs=limits.max_pairs)


def _measure(
    spec: str,
    config: SimConfig,
    workload: Workload,
    seed: int,
    gauge: Gauge,
    on_progress: Callable[[float], None],
) -> PolicyGap:
    config = replace(config, binding=config.binding_of(gauge.natural_binding))
    records = simulate(workload, config, gauge, label=spec, seed=seed, on_progress=on_progress)
    metrics = summarize(records)
    imbalance = spread_of(each.imbalance_tokens for each in gauge.distances).mean
    optimum = spread_of(each.optimum_tokens for each in gauge.distances).mean
    gap_ratio = None
    if imbalance is not None and optimum is not None:
        gap_ratio = (imbalance - optimum) / imbalance if imbalance > 0 else 0.0
    return PolicyGap(
        policy=spec,
        seed=seed,
        num_plans=gauge.num_plans,
        num_compared=len(gauge.distances),
        num_too_large=gauge.num_too_large,
        num_unproven=gauge.num_unproven,
        mean_imbalance_tokens=imbalance,
        mean_optimum_tokens=optimum,
        gap_ratio=gap_ratio,
        run_imbalance_tokens=metrics.mean_imbalance_tokens,
        bound_gap_ratio=1.0 - metrics.efficiency,
        longest_wait_ratio=metrics.longest_wait_ratio,
    )


def gap_rows(result: GapResult) -> list[tuple[str, ...]]:
    """Return the rows of the table, one per policy, means over the seeds."""
    by_policy: dict[str, list[PolicyGap]] = {}
    for each in result.policies:
        by_policy.setdefault(each.policy, []).append(each)
    return [_row(policy, gaps) for policy, gaps in by_policy.items()]


def _row(policy: str, gaps: list[PolicyGap]) -> tuple[str, ...]:
    def mean(name: str, spec: str) -> str:
        value = spread_of(getattr(each, name) for each in gaps).mean
        return "–" if value is None else format(value, spec)

    num_compared = sum(each.num_compared for each in gaps)
    num_plans = sum(each.num_plans for each in gaps)
    return (
        policy,
        f"{num_compared:,}/{num_plans:,}",
        mean("mean_imbalance_tokens", ",.0f"),
        mean("mean_optimum_tokens", ",.0f"),
        mean("gap_ratio", ".1%"),
        mean("run_imbalance_tokens", ",.0f"),
        mean("bound_gap_ratio", ".2%"),
        mean("longest_wait_ratio", ".1f"),
    )
