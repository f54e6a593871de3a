"""Small workloads, configurations and policies for the tests of the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.policies.base import Binding, Plan, Policy, follows_requests
from balanceroute.policies.registry import make_policy
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.types import RequestRecords, RunRecords, StepRecords, Workload

# Sums of eighths are exact in binary, so times worked by hand are compared with ==.
EIGHTH_S = 1 / 8
SECOND_A_STEP = StepTime(name="a second a step", constant_s=1.0, s_per_token=0.0)
EIGHTH_A_TOKEN = StepTime(name="and an eighth a token", constant_s=1.0, s_per_token=EIGHTH_S)


class Scripted:
    """Sends the requests, oldest first, to the ranks of a script; waits for a full rank."""

    binding: ClassVar[Binding] = "pooled"

    def __init__(self, ranks: Sequence[int]) -> None:
        self._ranks = list(ranks)

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Follow the script as far as the ranks can take requests."""
        left = view.max_sends
        chosen: list[int] = []
        while self._ranks and len(chosen) < len(pool) and left[self._ranks[0]] > 0:
            chosen.append(self._ranks.pop(0))
            left[chosen[-1]] -= 1
        return Plan.oldest(np.array(chosen, np.int64))


class Holding:
    """Sends nothing, ever."""

    binding: ClassVar[Binding] = "pooled"

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Hold everything back."""
        return Plan.oldest(np.zeros(0, np.int64))


class Watched:
    """Another policy, with a note of what it was shown at each call."""

    binding: ClassVar[Binding] = "pooled"

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.follows_requests = follows_requests(policy)
        self.now_s: list[float] = []
        self.num_pooled: list[int] = []
        self.num_running: list[list[int]] = []
        self.num_waiting: list[list[int]] = []

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Note the view and let the other policy choose."""
        self.now_s.append(view.now_s)
        self.num_pooled.append(len(pool))
        self.num_running.append(view.num_running_reqs.tolist())
        self.num_waiting.append(view.num_waiting_reqs.tolist())
        return self._policy.plan(view, pool)


def make_workload(
    prompts: Sequence[int] | np.ndarray[Any, Any],
    outputs: Sequence[int] | np.ndarray[Any, Any],
    arrivals_s: Sequence[float] | np.ndarray[Any, Any] | None = None,
) -> Workload:
    return Workload(
        name="test",
        prompt_tokens=np.array(prompts, np.int32),
        output_tokens=np.array(outputs, np.int32),
        arrival_s=None if arrivals_s is None else np.array(arrivals_s, np.float64),
    )


def cached(workload: Workload, cached_tokens: list[int]) -> Workload:
    return replace(workload, cached_tokens=np.array(cached_tokens, np.int32))


def make_config(**settings: Any) -> SimConfig:
    """Return a configuration: one rank, one slot, a second a step, the trace's arrivals."""
    defaults: dict[str, Any] = {
        "step_time": SECOND_A_STEP,
        "num_ranks": 1,
        "num_slots": 1,
        "arrivals": "trace",
    }
    return SimConfig(**(defaults | settings))


def named(spec: str, seed: int = 0) -> Policy:
    return make_policy(spec, rng=np.random.default_rng(seed))


def run(workload: Workload, policy: Policy | str, *, seed: int = 0, **settings: Any) -> RunRecords:
    """Simulate with `make_config` of the settings; a policy may be given by name."""
    chosen = named(policy, seed) if isinstance(policy, str) else policy
    return simulate(workload, make_config(**settings), chosen, seed=seed)


def columns(records: StepRecords | RequestRecords) -> dict[str, list[Any]]:
    """Return every column of step or request records as a list."""
    return {f.name: getattr(records, f.name).tolist() for f in fields(records)}
