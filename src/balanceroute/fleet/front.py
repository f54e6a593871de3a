"""The front of a simulated fleet: what it knows of the groups, and which one it chooses."""

from __future__ import annotations

import time

import numpy as np

from balanceroute.cluster.ledger import add_sends
from balanceroute.cluster.prefixes import PrefixIndex
from balanceroute.cluster.traits import request_traits
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import PlanError
from balanceroute.fleet.config import FleetConfig
from balanceroute.kernels.ledger import Int64Array, RecordArray
from balanceroute.policies.base import Policy
from balanceroute.sim.fed import REPORT
from balanceroute.types import Workload


class Front:
    """Chooses a group for each request as it comes, and for those that come together at once.

    It knows what the groups have last told of themselves, and what it has sent since.

    Parameters
    ----------
    config : FleetConfig
        The groups.
    workload : Workload
        The requests.
    policy : Policy
        A fresh one, which takes each group for a rank.

    Attributes
    ----------
    reports : REPORT array, shape (K,)
        What is known of each group.
    decision_ns : list of int
        Processor time of each choice, nanoseconds.
    cached_tokens : int32 array, shape (N,)
        Prompt tokens that the chosen group has cached, of each request that has come.
    """

    def __init__(self, config: FleetConfig, workload: Workload, policy: Policy) -> None:
        self._policy = policy
        self._prompts = workload.prompt_tokens.astype(np.int64)
        self._costs = config.group.costs
        ranks_of = config.ranks_of
        self._slots: Int64Array = ranks_of * config.group.num_slots
        kv_tokens = config.group.kv_tokens
        self._kv_tokens = np.full_like(ranks_of, 1 << 62)
        if kv_tokens is not None:
            self._kv_tokens = ranks_of * kv_tokens
        self._blocks, self._block_tokens = workload.block_ids, workload.block_tokens
        self._index: PrefixIndex | None = None
        if config.cache_tokens > 0 and self._blocks is not None:
            limits = config.cache_tokens * ranks_of // self._block_tokens
            self._index = PrefixIndex(np.maximum(limits, 1).tolist())
        self.reports: RecordArray = np.zeros(config.num_groups, REPORT)
        self.decision_ns: list[int] = []
        self.cached_tokens = np.zeros(workload.num_requests, np.int32)

    def place(self, rows: Int64Array, now_s: float) -> Int64Array:
        """Return the groups for rows of the workload that come at once; they are sent there."""
        began_ns = time.thread_time_ns()
        prompts = self._prompts[rows]
        traits = None if self._index is None else self._traits(rows, self._index)
        arrival_s = np.full(len(rows), now_s)
        pool = PoolView(ids=rows, prompt_tokens=prompts, arrival_s=arrival_s, traits=traits)
        plan = self._policy.plan(self._view(now_s), pool)
        if len(plan) != len(rows):
            raise PlanError(f"the front placed {len(plan)} of {len(rows)} requests")
        groups = np.empty(len(rows), np.int64)
        groups[plan.requests] = plan.ranks
        add_sends(self.reports, groups, prompts)
        if self._index is not None:
            for row, group in zip(rows.tolist(), groups.tolist(), strict=True):
                self._note(row, group, self._index)
        self.decision_ns.append(time.thread_time_ns() - began_ns)
        return groups

    def _view(self, now_s: float) -> GroupView:
        return GroupView.of_accounts(
            self.reports,
            self.reports,
            now_s=now_s,
            is_immediate=True,
            num_slots=self._slots,
            kv_capacity_tokens=self._kv_tokens,
            kappa0_tokens=self._costs.kappa0_tokens,
            costs=self._costs,
        )

    def _traits(self, rows: Int64Array, index: PrefixIndex) -> RecordArray:
        assert self._blocks is not None
        found = [index.match(self._blocks[row]) for row in rows.tolist()]
        owners, num_blocks = np.array(found, np.int64).reshape(-1, 2).T
        saved = np.minimum(num_blocks * self._block_tokens, self._prompts[rows] - 1)
        return request_traits(len(rows), preferred_ranks=owners, saved_tokens=saved)

    def _note(self, row: int, group: int, index: PrefixIndex) -> None:
        assert self._blocks is not None
        num_tokens = index.held(group, self._blocks[row]) * self._block_tokens
        self.cached_tokens[row] = min(num_tokens, int(self._prompts[row]) - 1)
        index.note(group, self._blocks[row])
