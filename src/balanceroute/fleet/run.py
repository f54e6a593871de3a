"""Simulate a fleet: the front sends, the groups run, and tell the front how they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.fleet.config import FleetConfig
from balanceroute.fleet.figures import FleetFigures, figures_of
from balanceroute.fleet.front import Front
from balanceroute.fleet.processes import Shards, running_shards
from balanceroute.fleet.shard import POLICY_STREAM, Sent
from balanceroute.policies.registry import make_policy
from balanceroute.sim.checks import check_workload
from balanceroute.types import Workload

MOST_AT_ONCE = 16  # that the front plans for together, so that the first does not wait for many
DRAIN_S = 3600.0  # after the last arrival: no simulated request takes longer, or something is wrong

Progress = Callable[[float], None]


def simulate_fleet(
    workload: Workload,
    config: FleetConfig,
    front: str,
    *,
    seed: int = 0,
    num_processes: int = 1,
    on_progress: Progress | None = None,
) -> FleetFigures:
    """Simulate groups that serve a workload behind one front.

    Time goes on in stretches of ``config.report_s``. In each the front chooses a group for every
    request that comes; then all groups run, apart from each other, and tell it their state. So a
    choice is as well informed as that of a real front which hears of its groups that often.

    Parameters
    ----------
    workload : Workload
        Requests in order, with arrival times unless ``config.arrivals`` is ``"saturated"``.
    config : FleetConfig
        The groups, and how requests come.
    front : str
        Policy that chooses the group, as for `make_policy`.
    seed : int
        Of all chance. The same seed gives the same figures, but for times and memory.
    num_processes : int
        Among which the groups are shared out; the figures do not depend on it.
    on_progress : callable or None
        Called now and then with the fraction of requests that have come in, in [0, 1].

    Returns
    -------
    FleetFigures

    Raises
    ------
    ConfigError
        If a request can never fit a rank, arrivals are missing, or nothing is left to measure.

    Examples
    --------
    Two groups of one rank with one slot, two requests, a second a step:

    >>> from balanceroute.sim.config import SimConfig, StepTime
    >>> lengths = np.array([10, 10], np.int32), np.array([2, 2], np.int32)
    >>> workload = Workload(name="two", prompt_tokens=lengths[0], output_tokens=lengths[1],
    ...                     arrival_s=np.zeros(2))
    >>> step_time = StepTime(name="example", constant_s=1.0, s_per_token=0.0)
    >>> group = SimConfig(step_time=step_time, num_ranks=1, num_slots=1, arrivals="trace")
    >>> config = FleetConfig(group=group, num_groups=2, least_ranks=1, most_ranks=1,
    ...                      policy="least_tokens", arrivals="trace")
    >>> simulate_fleet(workload, config, "br_fleet").ttft_s.p99
    1.0
    """
    if config.group.is_saturated:
        raise ConfigError("a group of a fleet gets what the front sends: its arrivals are a trace")
    at_once = np.zeros(workload.num_requests) if config.is_saturated else workload.arrival_s
    check_workload(replace(workload, arrival_s=at_once), config.group_alone)
    if config.cache_tokens > 0 and workload.block_ids is None:
        raise ConfigError(
            f"{workload.name} does not name the blocks of its prompts; take a trace with a column "
            "hash_ids, or leave out --cache-tokens"
        )
    rng = np.random.default_rng((seed, POLICY_STREAM))
    began_s = time.perf_counter()
    with running_shards(config, workload, seed=seed, num_processes=num_processes) as shards:
        run = _Run(workload, config, Front(config, workload, make_policy(front, rng=rng)), shards)
        run.to_the_end(on_progress or (lambda _: None))
        window_s = run.window_s()
        return figures_of(
            shards.finish(window_s),
            run.front,
            workload,
            config,
            spec=front,
            seed=seed,
            arrival_s=run.arrival_s,
            window_s=window_s,
            wall_s=time.perf_counter() - began_s,
        )


class _Run:
    """One run, stretch by stretch."""

    def __init__(
        self, workload: Workload, config: FleetConfig, front: Front, shards: Shards
    ) -> None:
        self._config, self._shards, self.front = config, shards, front
        self._num_requests = workload.num_requests
        self._is_saturated = config.is_saturated
        self.arrival_s: NDArray[np.float64] = np.full(workload.num_requests, np.nan)
        if not self._is_saturated:
            assert workload.arrival_s is not None
            self.arrival_s = workload.arrival_s
        self._num_slots = int(config.ranks_of.sum()) * config.group.num_slots
        self._next, self._now_s, self._warm_s = 0, 0.0, config.warmup_s
        self._sent_s = 0.0  # when the last request has been sent
        if not self._is_saturated and self._warm_s is None:
            self._warm_s = 0.0

    def to_the_end(self, on_progress: Progress) -> None:
        """Run until all requests have been sent, and, unless saturated, served."""
        while self._next < self._num_requests:
            self._stretch(self._due())
            on_progress(self._next / self._num_requests)
        self._sent_s = self._now_s
        if self._is_saturated:
            return
        reports = self.front.reports
        while (reports["num_running"] + reports["num_waiting"]).any():
            if self._now_s > self._sent_s + DRAIN_S:
                raise ConfigError(
                    f"requests are still running {DRAIN_S:g} s after the last one has come; lower "
                    "the rate, or take --arrivals saturated"
                )
            self._stretch(self._next)

    def window_s(self) -> tuple[float, float]:
        """Return the time that the figures cover."""
        end_s = self._sent_s
        if self._warm_s is None or self._warm_s >= end_s:
            raise ConfigError(
                f"nothing is left to measure: {self._num_requests} requests were used up before "
                f"the warm-up was over; raise --requests to at least {4 * self._num_slots}"
            )
        return self._warm_s, end_s

    def _due(self) -> int:
        """Return the row up to which requests come in the stretch that begins."""
        if not self._is_saturated:
            until_s = self._now_s + self._config.report_s
            return int(np.searchsorted(self.arrival_s, until_s, side="left"))
        held = self.front.reports["num_waiting"]
        missing = int(np.maximum(self._config.pools - held, 0).sum())
        if self._now_s == 0.0 and not self._config.starts_stationary:
            missing += self._num_slots
        end = min(self._next + missing, self._num_requests)
        self.arrival_s[self._next : end] = self._now_s
        return end

    def _stretch(self, end: int) -> None:
        """Let the front send the requests up to row `end`, and the groups run."""
        rows = np.arange(self._next, end)
        arrival_s = self.arrival_s[self._next : end]
        groups = np.empty(len(rows), np.int64)
        first = 0
        while first < len(rows):
            last = min(first + MOST_AT_ONCE, len(rows))
            now_s = float(arrival_s[first])
            last = first + int(np.searchsorted(arrival_s[first:last], now_s, side="right"))
            groups[first:last] = self.front.place(rows[first:last], now_s)
            first = last
        self._next, self._now_s = end, self._now_s + self._config.report_s
        sent = Sent(rows, groups, arrival_s, self.front.cached_tokens[rows])
        self._shards.run(self._now_s, sent, self.front.reports)
        if self._warm_s is None and self.front.reports["num_admitted"].sum() >= self._num_slots:
            self._warm_s = self._now_s
