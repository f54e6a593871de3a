"""One policy's run, and how runs are described in a result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from balanceroute.metrics import summarize
from balanceroute.policies.registry import make_policy
from balanceroute.report.result import GroupInfo, RunResult, StepTimeInfo
from balanceroute.sim.config import SimConfig
from balanceroute.sim.run import simulate
from balanceroute.types import RunRecords, Workload

POLICY_STREAM = 2  # which random numbers of a seed the policies use


def run_policy(
    spec: str,
    workload: Workload,
    config: SimConfig,
    *,
    seed: int,
    label: str | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[RunResult, RunRecords]:
    """Simulate a policy under one seed.

    Parameters
    ----------
    spec : str
        The policy, as for `make_policy`; `warm` has compiled what it needs.
    workload, config, seed, on_progress
        As for `simulate`.
    label : str or None
        Name of the policy in the result; None takes the specification.

    Returns
    -------
    tuple
        The figures, and the records that they were taken from.
    """
    policy = make_policy(
        spec,
        rng=np.random.default_rng((seed, POLICY_STREAM)),
        output_tokens=workload.output_tokens,
    )
    name = spec if label is None else label
    records = simulate(workload, config, policy, label=name, seed=seed, on_progress=on_progress)
    binding = config.binding_of(policy.binding)
    result = RunResult(
        policy=name,
        seed=seed,
        binding=binding,
        metrics=summarize(records),
        window_s=records.window_s,
    )
    return result, records


def group_info(config: SimConfig, *, rate_scale: float = 1.0) -> GroupInfo:
    """Return a group as it stands in a result."""
    step_time = config.step_time
    prefills = config.prefill_budget_tokens is not None
    return GroupInfo(
        ranks=config.num_ranks,
        slots=config.num_slots,
        kv_tokens=config.kv_tokens,
        step_time=StepTimeInfo(
            name=step_time.name,
            constant_s=step_time.constant_s,
            seconds_per_token=step_time.s_per_token,
            kappa0_tokens=step_time.kappa0_tokens,
        ),
        arrivals=config.arrivals,
        rate_scale=rate_scale,
        pool=config.pool_target if config.is_saturated else None,
        binding=config.binding or ("pooled" if config.is_saturated else None),
        start="stationary" if config.starts_stationary else "empty",
        staleness_s=config.staleness_s,
        delivery_s=config.delivery_s,
        delivery_jitter_s=config.delivery_jitter_s,
        prefill_budget_tokens=config.prefill_budget_tokens,
        prefill_s_per_token=config.prefill_s_per_token if prefills else None,
        prefill_shared=config.prefill_shared if prefills else None,
        mixed_step_s=config.mixed_step_s if prefills else None,
        prefix_cache=config.prefix_cache,
        prefill_gate=config.prefill_gate,
        warmup_steps=config.warmup_steps,
        rank_speeds=config.rank_speeds or None,
        barrier=config.has_barrier,
        groups=config.num_groups,
    )
