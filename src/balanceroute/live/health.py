"""Which ranks are fit for requests: by their own account, and by what becomes of requests."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class Health:
    """Counts what goes well and badly on each rank.

    Ranks that share a barrier share their fate: one that is away stops all, and so the group. One
    that has come later counts once it has been well.

    Parameters
    ----------
    names : list of str
        Of the ranks, for the log.
    failure_threshold, success_threshold : int
        Failures in a row that close a rank, and successes in a row that open it again.
    shares_fate : bool
        Whether one rank's failure closes all.
    on_change : callable
        Called whenever it may have changed which ranks are open.

    Examples
    --------
    >>> health = Health(["a", "b"], failure_threshold=2, success_threshold=1, shares_fate=True,
    ...                 on_change=lambda: print(health.is_open))
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
        shares_fate: bool,
        on_change: Callable[[], object] = bool,
    ) -> None:
        self._names, self.on_change = names, on_change
        self.set_terms(
            failure_threshold=failure_threshold,
            success_threshold=success_threshold,
            shares_fate=shares_fate,
        )
        self._num_failures, self._num_successes = [0] * len(names), [0] * len(names)
        self.is_well = [True] * len(names)
        self._is_proven = [True] * len(names)
        self.is_draining = [False] * len(names)
        self.reasons = [""] * len(names)

    def set_terms(
        self, *, failure_threshold: int, success_threshold: int, shares_fate: bool
    ) -> None:
        """Judge by other terms from now on."""
        self._failure_threshold, self._success_threshold = failure_threshold, success_threshold
        self._shares_fate = shares_fate

    def add(self, name: str) -> None:
        """Look after one more rank, which has to show first that it is well."""
        self._names.append(name)
        self._num_failures.append(0)
        self._num_successes.append(0)
        self.is_well.append(False)
        self._is_proven.append(False)
        self.is_draining.append(False)
        self.reasons.append("it has not shown yet that it is well")

    @property
    def is_open(self) -> list[bool]:
        """Return which ranks may have new requests."""
        states = list(zip(self.is_well, self.is_draining, self._is_proven, strict=True))
        if self._shares_fate and any(
            is_proven and not is_well and not drains for is_well, drains, is_proven in states
        ):
            return [False] * len(states)
        return [is_well and not drains for is_well, drains, _ in states]

    def fail(self, rank: int, reason: str) -> None:
        """Count a failure of a rank."""
        self._num_failures[rank] += 1
        self._num_successes[rank] = 0
        self.reasons[rank] = reason
        if self.is_well[rank] and self._num_failures[rank] >= self._failure_threshold:
            log.error("rank %s is away: %s", self._names[rank], reason)
            self._set(rank, is_well=False)

    def succeed(self, rank: int) -> None:
        """Count a success of a rank."""
        self._num_failures[rank] = 0
        self._num_successes[rank] += 1
        if not self.is_well[rank] and self._num_successes[rank] >= self._success_threshold:
            log.warning("rank %s is back", self._names[rank])
            self.reasons[rank] = ""
            self._set(rank, is_well=True)

    def drain(self, rank: int, *, is_draining: bool) -> None:
        """Keep new requests from a rank, or let them come again; what runs goes on."""
        if self.is_draining[rank] != is_draining:
            self.is_draining[rank] = is_draining
            self.on_change()

    def _set(self, rank: int, *, is_well: bool) -> None:
        self.is_well[rank] = is_well
        self._is_proven[rank] |= is_well
        self.on_change()
