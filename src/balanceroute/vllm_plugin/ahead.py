"""Which slots are given away before they are free, so that one that gets free is not left empty."""

from __future__ import annotations

# From the step that frees a slot to the one in which a request that is sent then is computed: vLLM
# has scheduled a step by the time it tells of one, and begins another before the request is there.
LAG_STEPS = 3
FORESIGHT_STEPS = LAG_STEPS - 1  # for one that is told of that many steps before, none is lost
FIRST_STEPS, MEMORY_STEPS = 32, 512  # of ranks: without ends to begin with, and kept in the mean


class Ahead:
    """Requests ahead of the slots of a rank: as many as end on it until others could follow.

    Those that end at their own limit of output are seen coming, and followed in time. For the
    others, as many as end unforeseen on average. More would be chosen earlier than they need to be,
    with less known of what ends meanwhile. Where hardly any end in that time, none, for one would
    be chosen long before its slot gets free.

    Parameters
    ----------
    fixed : int or None
        What an operator wants, at least 0, and nobody is seen coming then; None: it is learned
        from how many requests end.

    Examples
    --------
    Where a request ends in two of three steps, two end in three:

    >>> ahead = Ahead()
    >>> for number in range(999):
    ...     ahead.note(int(number % 3 > 0))
    >>> ahead.num_reqs
    2
    """

    def __init__(self, fixed: int | None = None) -> None:
        self._fixed = fixed
        self._num_steps, self._mean_ends = FIRST_STEPS, 0.0

    def note(self, num_ended: int) -> None:
        """Note how many requests have ended unforeseen in a step of a rank."""
        self._num_steps = min(self._num_steps + 1, MEMORY_STEPS)
        self._mean_ends += (num_ended - self._mean_ends) / self._num_steps

    @property
    def lag_steps(self) -> int:
        """Return how many steps before its end, where that is certain, a request is followed."""
        return FORESIGHT_STEPS if self._fixed is None else 0

    @property
    def num_reqs(self) -> int:
        """Return how many requests a rank is to have beyond its slots."""
        if self._fixed is not None:
            return self._fixed
        return round(LAG_STEPS * self._mean_ends)
