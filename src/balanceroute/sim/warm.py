"""Compile, or load from disk, every kernel that a run will call, before anything is timed."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np

from balanceroute.policies.registry import make_policy
from balanceroute.sim.config import SimConfig, Start
from balanceroute.sim.run import simulate
from balanceroute.types import Workload

NUM_REQUESTS = 96


def warm(spec: str, config: SimConfig) -> None:
    """Run a policy on a toy group that binds as the real one will.

    Parameters
    ----------
    spec : str
        The policy, as for `make_policy`.
    config : SimConfig
        The real configuration; its size and limits are left aside.
    """
    lengths = np.arange(1, NUM_REQUESTS + 1, dtype=np.int32)
    workload = Workload(name="warm", prompt_tokens=lengths, output_tokens=1 + lengths % 5)
    policy = make_policy(spec, rng=np.random.default_rng(0), output_tokens=workload.output_tokens)
    toy = replace(
        config,
        num_ranks=2,
        num_slots=8,
        num_groups=1,
        kv_tokens=None,
        rank_speeds=(),
        prefill_budget_tokens=None,
        prefill_s_per_token=0.0,
        prefill_shared=0.0,
        mixed_step_s=0.0,
        prefix_cache=False,
        prefill_gate=None,
        arrivals="saturated",
        pool_size=24,
        binding=config.binding_of(policy.binding),
        warmup_steps=0,
        staleness_s=0.0,
        delivery_s=0.0,
        delivery_jitter_s=0.0,
    )
    # Empty at first, so that plans see many free slots and few; then full at first.
    for start in get_args(Start):
        simulate(workload, replace(toy, start=start), policy)
