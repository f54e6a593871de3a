"""Rates that a policy measures while it works: how long requests wait, how long outputs get."""

from __future__ import annotations

import math

from balanceroute.cluster.view import GroupView
from balanceroute.kernels.berths import FEWEST_SLOTS_PER_WAIT

FEWEST_ADMISSIONS = 100  # that the measured rate of admissions rests on, at least
MEMORY_ENDS = 4096  # ended requests after which the older half counts half
FEWEST_ENDS = 32  # before the mean output is believed


class WaitPace:
    """The mean wait of those that wait, by Little's law: their number over the rate of admissions.

    The rate is that of the latest admissions, about as many as there are requests waiting.

    Examples
    --------
    Two admissions a second, ten requests waiting, one rank:

    >>> pace = WaitPace()
    >>> for second in range(500):
    ...     pace.note(float(second), num_placed=2, num_waiting=10)
    >>> round(pace.mean_wait_s(num_waiting=10, num_ranks=1), 2)
    5.0
    """

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._elapsed_s = 0.0
        self._num_placed = 0.0

    def note(self, now_s: float, *, num_placed: int, num_waiting: int) -> None:
        """Take in what a plan has placed, and how many waited for it."""
        if self._last_s is not None:
            kept = math.exp(-num_placed / max(num_waiting, FEWEST_ADMISSIONS))
            self._elapsed_s = kept * self._elapsed_s + now_s - self._last_s
            self._num_placed = kept * self._num_placed + num_placed
        self._last_s = now_s

    def mean_wait_s(self, *, num_waiting: int, num_ranks: int) -> float:
        """Return the mean wait, at least what a rank needs for two admissions; infinite at first.

        A wait much shorter than the time between a rank's admissions is no measure of fairness.
        """
        if self._num_placed <= 0.0 or self._elapsed_s <= 0.0:
            return math.inf
        num_admissions = max(num_waiting, FEWEST_SLOTS_PER_WAIT * num_ranks)
        return num_admissions * self._elapsed_s / self._num_placed


class OutputPace:
    """The mean output length: tokens generated per request that ends.

    Unlike the mean over requests that have ended, this does not favour short ones at the start.
    """

    def __init__(self) -> None:
        self._last_tokens: int | None = None
        self._num_tokens = 0.0
        self._num_ends = 0.0

    def see(self, view: GroupView, num_ends: int) -> None:
        """Take in a view, and how many requests have ended since the last one."""
        tokens = int(view.generated_tokens.sum())
        if self._last_tokens is not None:
            self._num_tokens += max(tokens - self._last_tokens, 0)
            self._num_ends += num_ends
        self._last_tokens = tokens
        if self._num_ends > MEMORY_ENDS:
            self._num_tokens *= 0.5
            self._num_ends *= 0.5

    @property
    def mean_tokens(self) -> float | None:
        """Return the mean output length in tokens, or None while too few have ended."""
        return self._num_tokens / self._num_ends if self._num_ends >= FEWEST_ENDS else None
