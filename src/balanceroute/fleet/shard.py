"""Some of the groups of a fleet, simulated together in one process."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from balanceroute.fleet.config import FleetConfig
from balanceroute.kernels.arrays import BoolArray
from balanceroute.kernels.ledger import Int64Array, RecordArray
from balanceroute.policies.registry import make_policy
from balanceroute.sim.fed import REPORT, FedGroup
from balanceroute.sim.group import request_log
from balanceroute.types import StepRecords, Workload

GROUP_STREAM, POLICY_STREAM = 5, 2  # which random numbers of a seed groups and policies use
TO_BYTES = 1 if sys.platform == "darwin" else 1024  # what the system counts memory in


class Sent(NamedTuple):
    """What is sent to groups in one stretch of time, in order of arrival."""

    rows: Int64Array  # of the workload
    groups: Int64Array  # of each row
    arrival_s: NDArray[np.float64]
    cached_tokens: NDArray[np.int32]  # that its group has of it

    def where(self, chosen: BoolArray) -> Sent:
        """Return some of it."""
        rows, groups, arrival_s, cached_tokens = self
        return Sent(rows[chosen], groups[chosen], arrival_s[chosen], cached_tokens[chosen])


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSums:
    """What the steps of one group come to within the window.

    Attributes
    ----------
    group, num_ranks, num_steps, num_tokens : int
        Its number, ranks, steps, output tokens.
    level_s, spent_s : float
        Seconds that its steps would have taken had the ranks been level, and that they took.
    """

    group: int
    num_ranks: int
    num_steps: int
    num_tokens: int
    level_s: float
    spent_s: float


class Outcome(NamedTuple):
    """What has become of the groups of a shard."""

    rows: Int64Array  # that were sent to them
    requests: RecordArray  # REQUEST_LOG of each row
    sums: list[GroupSums]
    decision_ns: Int64Array
    memory_bytes: int


class Shard:
    """Groups by their numbers in the fleet.

    Parameters
    ----------
    config : FleetConfig
        The whole fleet.
    workload : Workload
        All requests.
    groups : sequence of int
        Which groups are here.
    seed : int
        Of the run. A group's chance depends on it and on the group's number.
    """

    def __init__(
        self, config: FleetConfig, workload: Workload, groups: Sequence[int], seed: int
    ) -> None:
        if config.group.prefix_cache:
            cached = np.zeros(workload.num_requests, np.int32)
            workload = replace(workload, cached_tokens=cached)
        self._workload = workload
        self._log = request_log(workload.num_requests)
        self._numbers = list(groups)
        ends = np.cumsum(workload.output_tokens, dtype=np.int64)
        self._groups = [
            FedGroup(
                config.config_of(group),
                workload,
                make_policy(config.policy, rng=np.random.default_rng((seed, POLICY_STREAM, group))),
                requests=self._log,
                rng=np.random.default_rng((seed, GROUP_STREAM, group)),
                ends=ends if config.starts_stationary else None,
            )
            for group in groups
        ]
        self._ranks_of = config.ranks_of[self._numbers].tolist()
        self._reports: RecordArray = np.zeros(len(self._groups), REPORT)
        self._sent: list[Int64Array] = []

    def run(self, until_s: float, sent: Sent) -> RecordArray:
        """Run all groups to `until_s`, and return what each tells then."""
        self._sent.append(sent.rows)
        if self._workload.cached_tokens is not None:
            self._workload.cached_tokens[sent.rows] = sent.cached_tokens
        order = np.argsort(sent.groups, kind="stable")
        rows, arrival_s, groups = sent.rows[order], sent.arrival_s[order], sent.groups[order]
        firsts = np.searchsorted(groups, self._numbers)
        lasts = np.searchsorted(groups, self._numbers, side="right")
        for i, (first, last) in enumerate(zip(firsts.tolist(), lasts.tolist(), strict=True)):
            self._groups[i].run(until_s, rows[first:last], arrival_s[first:last])
            self._groups[i].report(self._reports[i])
        return self._reports

    def finish(self, window_s: tuple[float, float]) -> Outcome:
        """Return what has become of the groups and their requests."""
        rows = np.concatenate([np.zeros(0, np.int64), *self._sent])
        decisions = [np.array(group.decision_ns, np.int64) for group in self._groups]
        return Outcome(
            rows=rows,
            requests=self._log[rows],
            sums=[
                _sums(its.steps, group, num_ranks, window_s)
                for its, group, num_ranks in zip(
                    self._groups, self._numbers, self._ranks_of, strict=True
                )
            ],
            decision_ns=np.concatenate([np.zeros(0, np.int64), *decisions]),
            memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * TO_BYTES,
        )


def _sums(
    steps: StepRecords, group: int, num_ranks: int, window_s: tuple[float, float]
) -> GroupSums:
    inside = (steps.start_s >= window_s[0]) & (steps.start_s < window_s[1])
    spent_s = steps.duration_s[inside]
    waited_s = steps.max_work_s[inside] - steps.mean_work_s[inside]
    return GroupSums(
        group=group,
        num_ranks=num_ranks,
        num_steps=len(spent_s),
        num_tokens=int(steps.num_tokens[inside].sum()),
        level_s=float(np.sum(spent_s - waited_s)),
        spent_s=float(spent_s.sum()),
    )
