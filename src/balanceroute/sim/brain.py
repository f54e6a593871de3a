"""The brain of a simulated group: its pool, what it sees of the ranks, and its plans."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.pool import Pool
from balanceroute.errors import PlanError
from balanceroute.kernels.ledger import Int64Array
from balanceroute.policies.base import Policy, checked_plan, follows_requests
from balanceroute.sim.config import SimConfig
from balanceroute.sim.delivery import Delivery
from balanceroute.sim.group import SimGroup
from balanceroute.sim.views import Observer


class Brain:
    """Takes requests in and lets a policy place them.

    Parameters
    ----------
    group : SimGroup
        The ranks, in the state in which they begin.
    policy : Policy
        A fresh one.
    config : SimConfig
        As the group's.
    rng : numpy.random.Generator
        For the jitter of delivery.
    clock_ns : callable
        By which plans are timed.

    Attributes
    ----------
    pool, observer
        What waits, and what is seen of the ranks.
    decision_ns : list of int
        Time of each call of the policy, nanoseconds.
    """

    def __init__(
        self,
        group: SimGroup,
        policy: Policy,
        config: SimConfig,
        *,
        rng: np.random.Generator,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._group, self._policy, self._clock_ns = group, policy, clock_ns
        self._follows_requests = follows_requests(policy)
        self._is_immediate = config.binding_of(policy.binding) == "immediate"
        self._delivery = Delivery(config.delivery_s, config.delivery_jitter_s, rng)
        num_requests = group.workload.num_requests
        self.pool = Pool(capacity=min(2 * config.pool_target, num_requests) + 1024)
        self.observer = Observer(
            group.ledger,
            group.num_slots,
            group.kv_tokens,
            staleness_s=config.staleness_s,
            is_immediate=self._is_immediate,
            costs=config.costs,
            speeds=np.array(config.rank_speeds) if config.rank_speeds else None,
        )
        self.decision_ns: list[int] = []

    def accept(
        self, rows: Int64Array, arrival_s: float | NDArray[np.float64], now_s: float
    ) -> None:
        """Pool rows of the workload, or bind them at once."""
        prompts = self._group.workload.prompt_tokens[rows]
        self.pool.append(rows, prompts, arrival_s, self._group.traits(rows))
        if not self._is_immediate:
            return
        self.plan(now_s)
        if len(self.pool) > 0:
            raise PlanError(f"under immediate binding {len(self.pool)} requests were left out")

    def plan(self, now_s: float) -> None:
        """Let the policy place what waits, as far as there is room."""
        view = self.observer.view(now_s)
        max_sends = view.max_sends
        if not max_sends.any():
            return
        if self._follows_requests:
            view = self.observer.view_of_requests(view)
        waiting_requests = self.pool.view()
        began_ns = self._clock_ns()
        plan = self._policy.plan(view, waiting_requests)
        self.decision_ns.append(self._clock_ns() - began_ns)
        requests, ranks = checked_plan(plan, len(self.pool), max_sends)
        if len(requests) == 0:
            return
        self.observer.note_sends(ranks, waiting_requests.prompt_tokens[requests])
        arrives_s = self._delivery.arrives_s(now_s, len(requests))
        self._group.dispatch(self.pool.take(requests), ranks, now_s, arrives_s)
