"""A simulated group that somebody else sends requests to, a stretch of time at a time."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels.ledger import Int64Array, RecordArray
from balanceroute.kernels.lockstep import BOUNDARY, IDLE, NEVER, WHEN_SLOT_FREE
from balanceroute.policies.base import Policy, follows_requests
from balanceroute.sim.brain import Brain
from balanceroute.sim.config import SimConfig
from balanceroute.sim.group import SimGroup
from balanceroute.types import StepRecords, Workload

NUM_SAMPLES = 2  # of loads: nobody looks at them

#: What a group tells of itself, the sums over its ranks and its pool.
REPORT = np.dtype(
    [
        ("load_tokens", np.int64),
        ("due_tokens", np.int64),
        ("prompt_tokens", np.int64),
        ("generated_tokens", np.int64),
        ("num_running", np.int64),
        ("num_waiting", np.int64),
        ("num_pooled", np.int64),
        ("num_admitted", np.int64),
    ]
)
SUMMED = ("load_tokens", "due_tokens", "prompt_tokens", "generated_tokens", "num_running")


class FedGroup:
    """A group, its brain, and what it has been sent.

    Parameters
    ----------
    config : SimConfig
        Of this group.
    workload : Workload
        Of which rows are sent to it; the other rows go elsewhere.
    policy : Policy
        A fresh one, which chooses the rank.
    requests : REQUEST_LOG array, shape (N,)
        Where it is noted what becomes of each row; groups share it.
    rng : numpy.random.Generator
        For the start and the jitter of delivery.
    ends : int64 array, shape (N,), or None
        Running sums of the output lengths, to begin in the stationary state; None: empty.
    """

    def __init__(
        self,
        config: SimConfig,
        workload: Workload,
        policy: Policy,
        *,
        requests: RecordArray,
        rng: np.random.Generator,
        ends: Int64Array | None,
    ) -> None:
        keeps_events = follows_requests(policy)
        self._group = SimGroup(
            config, workload, keeps_events=keeps_events, requests=requests, num_samples=NUM_SAMPLES
        )
        if ends is not None:
            self._group.fill_stationary(rng, ends)
        # By the processor's time, since other processes simulate other groups meanwhile.
        clock_ns = time.thread_time_ns
        self._brain = Brain(self._group, policy, config, rng=rng, clock_ns=clock_ns)
        self._is_immediate = config.binding_of(policy.binding) == "immediate"
        self._rows: Int64Array = np.zeros(0, np.int64)
        self._arrival_s: NDArray[np.float64] = np.zeros(0)
        self._next = 0
        self._now_s = 0.0

    @property
    def decision_ns(self) -> list[int]:
        """Return the processor time of each plan so far, nanoseconds."""
        return self._brain.decision_ns

    @property
    def steps(self) -> StepRecords:
        """Return what the steps so far have logged."""
        return self._group.step_records()

    def run(self, until_s: float, rows: Int64Array, arrival_s: NDArray[np.float64]) -> None:
        """Run to `until_s`; rows of the workload come at `arrival_s`, ascending, before that."""
        self._rows, self._arrival_s, self._next = rows, arrival_s, 0
        while self._now_s < until_s:
            self._turn(until_s)

    def _turn(self, until_s: float) -> None:
        """Act at this moment, and run the ranks to the next one."""
        self._receive()
        if self._group.is_at_boundary and len(self._brain.pool) > 0:
            self._brain.plan(self._now_s)
        due_s = min(self._next_arrival_s, until_s)
        waits = len(self._brain.pool) > 0 and not self._is_immediate
        reason = self._group.advance(due_s, WHEN_SLOT_FREE if waits else NEVER)
        if reason == BOUNDARY:
            self._now_s = self._group.now_s
            return
        self._now_s = due_s
        if reason == IDLE:
            self._group.wait_until(due_s)

    @property
    def _next_arrival_s(self) -> float:
        return float(self._arrival_s[self._next]) if self._next < len(self._rows) else np.inf

    def _receive(self) -> None:
        """Take in what has arrived by now, one instant at a time, as each decision sees it."""
        while self._next_arrival_s <= self._now_s:
            end = int(np.searchsorted(self._arrival_s, self._next_arrival_s, side="right"))
            arrived = slice(self._next, end)
            self._next = end
            self._brain.accept(self._rows[arrived], self._arrival_s[arrived], self._now_s)

    def report(self, into: RecordArray) -> None:
        """Write a `REPORT` of the state at this moment."""
        ranks = self._group.ledger.ranks
        for name in SUMMED:
            into[name] = ranks[name].sum()
        pool = self._brain.pool.view()
        into["due_tokens"] += pool.prompt_tokens.sum()
        into["num_pooled"] = len(pool)
        into["num_waiting"] = ranks["num_waiting"].sum() + len(pool)
        into["num_admitted"] = self._group.num_admitted
