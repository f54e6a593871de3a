"""How far a policy's plans are from the best that each step could do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.policies.base import Binding, Plan, Policy, follows_requests
from balanceroute.policies.bf_io import BfIo
from balanceroute.policies.step_program import step_imbalance


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """One plan beside the step optimum of the same state.

    Attributes
    ----------
    imbalance_tokens, optimum_tokens : float
        Imbalance of the step after the policy's plan, and after the best one of as many requests.
    """

    imbalance_tokens: float
    optimum_tokens: float


class Gauge:
    """Passes a policy's plans on, and solves some of the steps to the optimum.

    Parameters
    ----------
    policy : Policy
        Who plans.
    every : int
        Plans from one that is compared to the next, at least 1.
    solver : BfIo
        With horizon 0. Each search starts from the policy's own plan, not from a warm start.
    max_pairs : int
        Pairs of a waiting request and a rank with a free slot above which nothing is solved.

    Attributes
    ----------
    distances : list of Distance
        Of the plans that were compared and whose optimum was proven.
    natural_binding : str
        The policy's own.
    num_plans : int
        Plans made.
    num_too_large, num_unproven : int
        Plans that were due and had too many pairs, or met a limit of the search.
    """

    binding: ClassVar[Binding] = "pooled"  # unused: the configuration names the policy's own

    def __init__(self, policy: Policy, *, every: int, solver: BfIo, max_pairs: int) -> None:
        if every < 1:
            raise ConfigError(f"--every must be at least 1 plan, got {every}")
        self.follows_requests = follows_requests(policy)
        self.natural_binding = policy.binding
        self.distances: list[Distance] = []
        self.num_too_large = 0
        self.num_unproven = 0
        self.num_plans = 0
        self._policy, self._every, self._solver = policy, every, solver
        self._max_pairs = max_pairs

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Plan as the policy does."""
        plan = self._policy.plan(view, pool)
        self.num_plans += 1
        if self.num_plans % self._every == 0 and len(plan) > 0 and view.num_ranks > 1:
            self._compare(view, pool, plan)
        return plan

    def _compare(self, view: GroupView, pool: PoolView, plan: Plan) -> None:
        if len(pool) * int(np.count_nonzero(view.max_sends)) > self._max_pairs:
            self.num_too_large += 1
            return
        problem = self._solver.problem(view, pool)
        num_before = self._solver.num_unproven
        best = self._solver.improve(problem, plan)
        if self._solver.num_unproven > num_before:
            self.num_unproven += 1
            return
        imbalance, optimum = step_imbalance(problem, plan), step_imbalance(problem, best)
        self.distances.append(Distance(imbalance_tokens=imbalance, optimum_tokens=optimum))
