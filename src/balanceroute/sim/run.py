"""Run one policy on one workload: requests in, records out."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError, PlanError
from balanceroute.kernels.lockstep import ALWAYS, BOUNDARY, DUE, NEVER, WHEN_SLOT_FREE
from balanceroute.policies.base import Policy, follows_requests
from balanceroute.sim.brain import Brain
from balanceroute.sim.checks import arrival_times, check_workload
from balanceroute.sim.config import SimConfig
from balanceroute.sim.group import SimGroup
from balanceroute.types import RunRecords, Workload

# Which random numbers of a seed the stationary start and the ways to the ranks use.
START_STREAM, DELIVERY_STREAM = 1, 4
TURNS_PER_REPORT = 256

Progress = Callable[[float], None]


def simulate(
    workload: Workload,
    config: SimConfig,
    policy: Policy,
    *,
    label: str = "",
    seed: int = 0,
    on_progress: Progress | None = None,
) -> RunRecords:
    """Simulate a group that serves `workload` under `policy`.

    Parameters
    ----------
    workload : Workload
        Requests in order. Needs arrival times unless ``config.arrivals`` is ``"saturated"``; they
        are taken as they are (`balanceroute.report.experiment` draws and scales them).
    config : SimConfig
        Ranks, costs and how requests come.
    policy : Policy
        A fresh one; policies keep state.
    label : str
        Name of the policy in the records.
    seed : int
        For the stationary start and the jitter of delivery. The same seed gives the same records,
        but for wall times.
    on_progress : callable or None
        Called now and then with the fraction of requests that have come in, in [0, 1].

    Returns
    -------
    RunRecords

    Raises
    ------
    ConfigError
        If a request can never fit a rank, arrivals are missing, or nothing is left to measure.
    PlanError
        If the policy breaks its contract, or holds requests back while no request runs and none is
        to come.

    Examples
    --------
    Two ranks with one slot each; a step costs 1 s plus 1 ms per token of the fuller rank:

    >>> from balanceroute.policies.registry import make_policy
    >>> from balanceroute.sim.config import SimConfig, StepTime
    >>> lengths = np.array([10, 30], np.int32), np.array([2, 1], np.int32)
    >>> workload = Workload(name="two", prompt_tokens=lengths[0], output_tokens=lengths[1],
    ...                     arrival_s=np.zeros(2))
    >>> config = SimConfig(step_time=StepTime(name="example", constant_s=1, s_per_token=1e-3),
    ...                    num_ranks=2, num_slots=1, arrivals="trace")
    >>> policy = make_policy("round_robin", rng=np.random.default_rng(0))
    >>> records = simulate(workload, config, policy)
    >>> records.steps.duration_s.round(6).tolist()
    [1.03, 1.011]
    >>> records.requests.finished_s.round(6).tolist()
    [2.041, 1.03]
    """
    check_workload(workload, config)
    return _Run(workload, config, policy, label, seed).records(on_progress)


class _Run:
    """The router's side of a simulation: arrivals, pool, plans."""

    def __init__(
        self, workload: Workload, config: SimConfig, policy: Policy, label: str, seed: int
    ) -> None:
        self._workload = workload
        self._config = config
        self._policy = policy
        self._label = label
        self._seed = seed
        self._binding = config.binding_of(policy.binding)
        self._is_immediate = self._binding == "immediate"
        self._group = SimGroup(config, workload, keeps_events=follows_requests(policy))
        self._arrival_s = arrival_times(workload, config)
        self._next_row = 0
        self._now_s = 0.0
        self._warm_s: float | None = None  # when the warm-up of a saturated run was over
        self._dry_s = np.inf  # when its pool could no longer be kept full
        if config.starts_stationary:
            self._group.fill_stationary(np.random.default_rng((seed, START_STREAM)))
        self._brain = Brain(
            self._group, policy, config, rng=np.random.default_rng((seed, DELIVERY_STREAM))
        )
        self._pool, self._observer = self._brain.pool, self._brain.observer

    def records(self, on_progress: Progress | None) -> RunRecords:
        """Run to the end."""
        began_ns = time.perf_counter_ns()
        num_turns = 0
        while self._turn():
            num_turns += 1
            if on_progress is not None and num_turns % TURNS_PER_REPORT == 0:
                on_progress(self._next_row / self._workload.num_requests)
        wall_s = (time.perf_counter_ns() - began_ns) * 1e-9
        return RunRecords(
            policy=self._label,
            seed=self._seed,
            num_ranks=self._config.ranks_per_barrier,
            binding=self._binding,
            steps=self._group.step_records(),
            requests=self._group.request_records(self._arrival_s),
            samples=self._group.samples(),
            window_s=self._window_s(),
            decision_ns=np.array(self._brain.decision_ns, np.int64),
            wall_s=wall_s,
        )

    def _turn(self) -> bool:
        """Act at this moment, run the group to the next one, and tell whether there is more."""
        self._receive()
        if self._group.is_at_boundary and len(self._pool) > 0:
            # Once per step, also if a small saturated pool leaves slots free that its successors
            # could take: a router plans once per step, and the public code of BF-IO does too.
            self._brain.plan(self._now_s)
            self._receive()
        due_s = min(self._next_arrival_s(), self._observer.next_publication_s)
        reason = self._group.advance(due_s, self._pause())
        if reason == BOUNDARY:
            self._now_s = self._group.now_s
        elif reason == DUE:
            self._now_s = due_s
        elif not self._wait_idle():
            return False
        if self._now_s >= self._observer.next_publication_s:
            self._observer.publish(self._now_s, quiet_until_s=self._group.quiet_until_s)
        self._note_warmth()
        return True

    def _wait_idle(self) -> bool:
        """Let an idle group wait for the next event; False if there is none."""
        due_s = self._next_arrival_s()
        if len(self._pool) > 0 and not self._observer.shows_idle:
            due_s = min(due_s, self._observer.next_publication_s)
        if due_s < np.inf:
            self._now_s = due_s
            self._group.wait_until(due_s)
            return True
        if len(self._pool) > 0:
            name = self._label or type(self._policy).__name__
            raise PlanError(
                f"{name} holds back {len(self._pool)} requests while the group is idle and no "
                "event is ahead; a policy must place one when no request runs"
            )
        return False

    def _pause(self) -> int:
        if self._is_immediate:
            return ALWAYS if self._config.is_saturated else NEVER
        return WHEN_SLOT_FREE if len(self._pool) > 0 else NEVER

    def _next_arrival_s(self) -> float:
        if self._config.is_saturated or self._next_row == self._workload.num_requests:
            return np.inf
        return float(self._arrival_s[self._next_row])

    def _receive(self) -> None:
        """Take in the requests that have arrived by now."""
        if self._config.is_saturated:
            self._top_up()
            return
        while self._next_arrival_s() <= self._now_s:
            # One instant at a time, so that each immediate decision sees the ones before it.
            instant_s = self._next_arrival_s() if self._is_immediate else self._now_s
            end = int(np.searchsorted(self._arrival_s, instant_s, side="right"))
            self._accept(end, self._arrival_s[self._next_row : end])

    def _top_up(self) -> None:
        """Keep a saturated pool full."""
        if self._dry_s < np.inf or not self._group.is_at_boundary:
            return
        while (num_missing := self._config.pool_target - self._num_held_back()) > 0:
            end = self._next_row + num_missing
            if end > self._workload.num_requests:
                self._dry_s, end = self._now_s, self._workload.num_requests
            if end > self._next_row:
                self._arrival_s[self._next_row : end] = self._now_s
                self._accept(end, self._now_s)
            if self._dry_s < np.inf:
                return

    def _num_held_back(self) -> int:
        """Count the requests that wait for a slot, in the pool or beyond the slots of a rank."""
        if not self._is_immediate:
            return len(self._pool)
        ranks = self._group.ledger.ranks
        num_excess = ranks["num_running"] + ranks["num_waiting"] - self._group.num_slots
        return int(np.maximum(num_excess, 0).sum())

    def _accept(self, end: int, arrival_s: float | NDArray[np.float64]) -> None:
        """Pool the requests up to row `end`, or bind them at once."""
        begin, self._next_row = self._next_row, end
        self._brain.accept(np.arange(begin, end), arrival_s, self._now_s)

    def _note_warmth(self) -> None:
        num_slots = self._config.num_ranks * self._config.num_slots
        is_warm = self._group.is_at_boundary and self._group.num_admitted >= num_slots
        if self._warm_s is None and is_warm:
            self._warm_s = self._now_s

    def _window_s(self) -> tuple[float, float]:
        """Return the time that the figures cover (see `SimConfig.warmup_steps`)."""
        starts_s = self._group.step_records().start_s
        begin_s: float | None = 0.0
        if self._config.warmup_steps is not None:
            skipped = self._config.warmup_steps
            if skipped >= len(starts_s):
                raise ConfigError(
                    f"--warmup-steps {skipped} leaves nothing to measure, because the run has "
                    f"{len(starts_s)} steps; lower it or raise --requests"
                )
            begin_s = float(starts_s[skipped])
        elif self._config.is_saturated:
            begin_s = self._warm_s
        if begin_s is None or begin_s >= self._dry_s:
            raise ConfigError(
                f"nothing is left to measure: {self._workload.num_requests} requests were used up "
                f"before the warm-up was over; raise --requests to at least "
                f"{6 * self._config.num_ranks * self._config.num_slots} or lower --warmup-steps"
            )
        return begin_s, self._dry_s
