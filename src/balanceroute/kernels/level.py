"""LEVEL: plans that leave the ranks level."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.arrays import Int64Array
from balanceroute.kernels.berths import book
from balanceroute.kernels.filling import fill_slots, num_to_place
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.placing import NONE, Ranks, Waiting
from balanceroute.kernels.yardstick import counted, measure, moments


@kernel
def plan_level(
    ranks: Ranks,
    waiting: Waiting,
    age_weight: float,
    patience: float,
    exchange_passes: int,
    has_berths: bool,
) -> tuple[Int64Array, Int64Array]:
    """Fill the free slots from a pool that has more requests than there are free slots.

    Parameters
    ----------
    ranks : Ranks
        Before the plan; changed in place.
    waiting : Waiting
        At least one request.
    age_weight, patience : float
        As in `Yardstick`.
    exchange_passes : int
        Times that exchanges among the placed requests are looked for, at most.
    has_berths : bool
        Whether ranks are kept light for requests that none has room for; see `book`.

    Returns
    -------
    tuple of int64 arrays, shape (number placed,)
        Positions in the pool and their ranks.

    Examples
    --------
    Two ranks hold 100 and 60 tokens, with a slot free on each, and 10, 45 and 30 tokens wait.
    Level is 109 on each, so the rank with 60 gets 45 and the other 10:

    >>> ranks = Ranks(np.array([[100.0], [60.0]]), np.array([100.0, 60.0]), np.ones(2),
    ...               np.array([1, 1]), np.array([1000, 1000]))
    >>> prompts, nobody = np.array([10, 45, 30]), np.full(3, -1)
    >>> waiting = Waiting(prompts, prompts[:, None] * 1.0, np.zeros(3), nobody, nobody * 0,
    ...                   np.zeros(3, np.int64))
    >>> plan_level(ranks, waiting, 0.5, 4.0, 2, True)
    (array([1, 0]), array([1, 0]))
    """
    ranks, waiting, weights, mean, spread = counted(ranks, waiting)
    yard = measure(ranks, weights, mean, spread, age_weight, patience, False)
    num_spare = len(waiting.waits) - num_to_place(ranks, waiting) if has_berths else 0
    berths = book(ranks, waiting, yard, num_spare)
    return fill_slots(ranks, waiting, yard, berths, exchange_passes)


@kernel
def plan_below_envelope(
    ranks: Ranks, waiting: Waiting, age_weight: float, patience: float, exchange_passes: int
) -> tuple[Int64Array, Int64Array]:
    """Do the same where the first column is work that is done once and then gone, as a prefill is.

    The ranks wait for the busiest one anyway, so what the others do meanwhile is free: they aim at
    its work if that is above the mean. All columns count alike, in the unit that they are given in.

    Parameters
    ----------
    ranks, waiting, age_weight, patience, exchange_passes
        As for `plan_level`.

    Examples
    --------
    As above, but the rank with 100 is not full, and the slots free are on two others:

    >>> ranks = Ranks(np.array([[100.0], [0.0], [60.0]]), np.array([100.0, 0.0, 60.0]), np.ones(3),
    ...               np.array([0, 1, 1]), np.array([1000, 1000, 1000]))
    >>> prompts, nobody = np.array([10, 35, 90]), np.full(3, -1)
    >>> waiting = Waiting(prompts, prompts[:, None] * 1.0, np.zeros(3), nobody, nobody * 0,
    ...                   np.zeros(3, np.int64))
    >>> plan_below_envelope(ranks, waiting, 0.5, 4.0, 2)
    (array([2, 1]), array([1, 2]))
    """
    mean, spread = moments(waiting.gains)
    weights = np.full(len(mean), 1.0 / len(mean))
    yard = measure(ranks, weights, mean, spread, age_weight, patience, True)
    berths = np.full(len(ranks.work), NONE)
    return fill_slots(ranks, waiting, yard, berths, exchange_passes)
