"""Ranks that make their steps together tell of them one after the other; a plan waits for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

# Of a step. The next one runs already, and what is sent in it is computed in the one after it, so
# nobody loses by a plan that is made this late; one that knows half of the group is worse.
PATIENCE_RATIO, MOST_PATIENCE_S = 0.25, 0.05
# How much of the difference a new step makes: fast downwards, since pauses are no long steps.
SHORTER_WEIGHT, LONGER_WEIGHT = 0.5, 0.05


class StepRounds:
    """Says how long a plan is to wait for those ranks whose outputs of a step are not in yet.

    Parameters
    ----------
    num_ranks : int
        G.
    settle_s : float
        The least that is waited for a rank that has not reported, seconds.
    has_barrier : bool
        Whether the ranks make their steps together; else no more than that is waited.
    clock : callable
        Returns seconds.

    Examples
    --------
    >>> times_s = iter([0.0, 0.001, 0.1, 0.102])
    >>> rounds = StepRounds(2, settle_s=0.002, has_barrier=True, clock=lambda: next(times_s))
    >>> waits_s = []
    >>> for rank in (0, 1, 0, 1):
    ...     rounds.hear(rank)
    ...     waits_s.append(round(rounds.wait_s([3, 3]), 4))
    >>> waits_s
    [0.002, 0.0, 0.025, 0.0]
    """

    def __init__(
        self,
        num_ranks: int,
        *,
        settle_s: float,
        has_barrier: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settle_s, self._clock = settle_s, clock
        self._patience_ratio = PATIENCE_RATIO if has_barrier else 0.0
        self._has_told = [False] * num_ranks
        self._told_s: list[float | None] = [None] * num_ranks
        self._step_s = 0.0

    def hear(self, rank: int) -> None:
        """Note that a rank has told of a step."""
        now_s, last_s = self._clock(), self._told_s[rank]
        if last_s is not None:
            self._note_step(now_s - last_s)
        self._told_s[rank] = now_s
        if self._has_told[rank]:  # this is its next step, and the others' are to come
            self._has_told = [False] * len(self._has_told)
        self._has_told[rank] = True

    def _note_step(self, took_s: float) -> None:
        if self._step_s == 0.0:
            self._step_s = took_s
        weight = SHORTER_WEIGHT if took_s < self._step_s else LONGER_WEIGHT
        self._step_s += weight * (min(took_s, 2.0 * self._step_s) - self._step_s)

    def wait_s(self, num_reqs: Sequence[int]) -> float:
        """Return for how long a plan is to wait, given the requests on each rank."""
        for has_told, num_here in zip(self._has_told, num_reqs, strict=True):
            if num_here > 0 and not has_told:
                patience_s = min(MOST_PATIENCE_S, self._patience_ratio * self._step_s)
                return max(self._settle_s, patience_s)
        return 0.0
