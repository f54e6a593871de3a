"""Which ranks are fit for requests: by their own account, and by what becomes of requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

MAX_HOLD_S = 60.0  # that a rank stays closed though it says that it is well
ANSWERED_SHARE = 0.1

log = logging.getLogger(__name__)


class Health:
    """Counts what goes well and badly on each rank.

    A rank whose requests fail stays closed for a while whatever it says of itself, and, unless it
    shares its fate, for twice as long each time that its next request fails again; a request that
    succeeds ends that.

    Ranks that share a barrier share their fate: one that is away stops all, and so the group. One
    that has come later counts once it has been well.

    Parameters
    ----------
    names : list of str
        Of the ranks, for the log.
    failure_threshold, success_threshold : int
        Failures in a row that close a rank, and successes in a row that open it again.
    hold_s : float
        How long requests that fail close a rank the first time.
    shares_fate : bool
        Whether one rank's failure closes all.
    clock : callable
        Returns seconds.
    on_change : callable
        Called whenever it may have changed which ranks are open.

    Attributes
    ----------
    is_open : list of bool
        Which ranks may have new requests; for reading only.

    Examples
    --------
    >>> health = Health(["a", "b"], failure_threshold=2, success_threshold=1, hold_s=0.0,
    ...                 shares_fate=True, on_change=lambda: print(health.is_open))
    >>> health.fail(1, "refused")
    >>> health.fail(1, "refused")
    [False, False]
    >>> health.succeed(1)
    [True, True]
    >>> health.add("c")
    >>> health.is_open
    [True, True, False]
    """

    def __init__(
        self,
        names: list[str],
        *,
        failure_threshold: int,
        success_threshold: int,
        hold_s: float,
        shares_fate: bool,
        on_change: Callable[[], object] = bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names, self.on_change, self._clock = names, on_change, clock
        self._num_trips, self._closed_until_s = [0] * len(names), [0.0] * len(names)
        self._num_failures, self._num_successes = [0.0] * len(names), [0] * len(names)
        self._num_bad_checks = [0] * len(names)
        self.is_well = [True] * len(names)
        self._is_proven = [True] * len(names)
        self.is_draining = [False] * len(names)
        self.reasons = [""] * len(names)
        self.set_terms(
            failure_threshold=failure_threshold,
            success_threshold=success_threshold,
            hold_s=hold_s,
            shares_fate=shares_fate,
        )

    def set_terms(
        self, *, failure_threshold: int, success_threshold: int, hold_s: float, shares_fate: bool
    ) -> None:
        """Judge by other terms from now on."""
        self._hold_s = hold_s
        self._failure_threshold, self._success_threshold = failure_threshold, success_threshold
        self._shares_fate = shares_fate
        self.is_open = self._open_ranks()

    def add(self, name: str) -> None:
        """Look after one more rank, which has to show first that it is well."""
        self._names.append(name)
        self._num_failures.append(0.0)
        self._num_successes.append(0)
        self._num_bad_checks.append(0)
        self._num_trips.append(0)
        self._closed_until_s.append(0.0)
        self.is_well.append(False)
        self._is_proven.append(False)
        self.is_draining.append(False)
        self.reasons.append("it has not shown yet that it is well")
        self.is_open = self._open_ranks()

    def _open_ranks(self) -> list[bool]:
        """Return which ranks may have new requests; each request asks, and it seldom changes."""
        states = list(zip(self.is_well, self.is_draining, self._is_proven, strict=True))
        if self._shares_fate and any(
            is_proven and not is_well and not drains for is_well, drains, is_proven in states
        ):
            return [False] * len(states)
        return [is_well and not drains for is_well, drains, _ in states]

    def fail(self, rank: int, reason: str, *, has_answered: bool = False) -> None:
        """Count a request that has failed on a rank.

        Where that may close the whole group, one that the rank has answered, with an error that
        may be the request's own fault, counts for a tenth.
        """
        is_doubtful = has_answered and self._shares_fate
        self._num_failures[rank] += ANSWERED_SHARE if is_doubtful else 1.0
        is_away = (
            self._num_failures[rank] > self._failure_threshold - ANSWERED_SHARE / 2
        )  # rounding
        if is_away and self._close(rank, reason):
            # With a barrier there is no other rank to go to, so a group is never closed for long.
            factor = 1.0 if self._shares_fate else 2.0 ** self._num_trips[rank]
            hold_s = min(self._hold_s * factor, MAX_HOLD_S)
            self._closed_until_s[rank] = self._clock() + hold_s
            self._num_trips[rank] += 1

    def succeed(self, rank: int) -> None:
        """Count a request that has succeeded on a rank."""
        self._num_failures[rank], self._num_trips[rank] = 0.0, 0
        self._count_success(rank)

    def check(self, rank: int, trouble: str) -> None:
        """Count what a rank says of itself; no `trouble`: it is well."""
        if trouble:
            self._num_bad_checks[rank] += 1
            if self._num_bad_checks[rank] >= self._failure_threshold:
                self._close(rank, trouble)
            return
        self._num_bad_checks[rank] = 0
        if self._clock() >= self._closed_until_s[rank]:
            self._count_success(rank)

    def _close(self, rank: int, reason: str) -> bool:
        """Close a rank; False if it is closed already."""
        self._num_successes[rank] = 0
        self.reasons[rank] = reason
        if not self.is_well[rank]:
            return False
        log.error("rank %s is away: %s", self._names[rank], reason)
        self._set(rank, is_well=False)
        return True

    def _count_success(self, rank: int) -> None:
        self._num_successes[rank] += 1
        if self.is_well[rank] or self._num_successes[rank] < self._success_threshold:
            return
        log.warning("rank %s is back", self._names[rank])
        self.reasons[rank] = ""
        # One more failure of a request is enough, until one has succeeded.
        has_tripped = self._num_trips[rank] > 0
        self._num_failures[rank] = self._failure_threshold - 1.0 if has_tripped else 0.0
        self._set(rank, is_well=True)

    def drain(self, rank: int, *, is_draining: bool) -> None:
        """Keep new requests from a rank, or let them come again; what runs goes on."""
        if self.is_draining[rank] != is_draining:
            self.is_draining[rank] = is_draining
            self._change()

    def _set(self, rank: int, *, is_well: bool) -> None:
        self.is_well[rank] = is_well
        self._is_proven[rank] |= is_well
        self._change()

    def _change(self) -> None:
        self.is_open = self._open_ranks()
        self.on_change()
