"""Berths: ranks that are kept light, each for a waiting request that no rank has room for."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.jit import bare_kernel, kernel
from balanceroute.kernels.placing import FREE, HELD, NONE, Ranks, Waiting
from balanceroute.kernels.yardstick import Yardstick

FEWEST_SLOTS_PER_WAIT = 2.0  # that a rank frees in a mean wait, which is stretched if need be


@kernel
def book(ranks: Ranks, waiting: Waiting, yard: Yardstick, num_spare: int) -> Int64Array:
    """Keep the lightest ranks for the requests that they have to be drained for from now on.

    The longest such request gets the lightest rank, and so on. The rank counts as if it had the
    request, in place of a mean one, so that its slots get short ones until there is room.

    Parameters
    ----------
    ranks : Ranks
        ``projected`` with mean requests in the free slots, see `measure`; changed in place.
    waiting : Waiting
        ``is_taken`` is changed in place. Requests that prefer a rank are left to it.
    yard : Yardstick
        The level and the patience.
    num_spare : int
        Requests that this plan can do without.

    Returns
    -------
    int64 array, shape (G,)
        The request that each rank is kept for, or `NONE`.

    Examples
    --------
    With ten requests for two ranks, a rank frees five slots in a mean wait, and a slot that gets
    at most a mean request, of 19, sheds 8.1 on average. At the level, a rank has room for 19. So
    it takes two mean waits to make room for 100. That has to be done by 3.2:

    >>> ranks = Ranks(np.full((2, 1), 119.0), np.full(2, 100.0), np.ones(2),
    ...               np.array([1, 1]), np.array([1000, 1000]))
    >>> prompts, nobody = np.array([100] + [10] * 9), np.full(10, -1)
    >>> yard = Yardstick(np.ones(1), np.array([19.0]), np.array([27.0]), np.array([119.0]), 1.0,
    ...                  0.5, 4.0, False)
    >>> for wait in (1.1, 1.3):
    ...     waits = np.array([wait] + [0.0] * 9)
    ...     book(ranks, Waiting(prompts, prompts[:, None] * 1.0, waits, nobody, nobody * 0,
    ...                         np.zeros(10, np.int64)), yard, 8)
    array([-1, -1])
    array([ 0, -1])
    """
    num_ranks = len(ranks.work)
    berths = np.full(num_ranks, NONE)
    shed = shed_per_wait(waiting, yard.mean_gain[0], num_ranks)
    for _ in range(min(num_ranks - 1, num_spare)):
        rank = lightest(ranks, berths)
        if rank == NONE:
            break
        request = longest_pressed(ranks, waiting, yard, shed, rank)
        if request == NONE:
            break
        berths[rank] = request
        waiting.is_taken[request] = HELD
        for k in range(len(yard.mean_gain)):
            ranks.projected[rank, k] += waiting.gains[request, k] - yard.mean_gain[k]
    return berths


@bare_kernel
def slots_per_wait(num_waiting: int, num_ranks: int) -> float:
    """Return how many slots a rank frees in a mean wait, by Little's law."""
    return max(num_waiting / num_ranks, FEWEST_SLOTS_PER_WAIT)


@bare_kernel
def shed_per_wait(waiting: Waiting, mean_gain: float, num_ranks: int) -> float:
    """Return the load that a rank sheds in a mean wait if no slot of it gets more than a mean one.

    Against a rank that gets what comes: a slot sheds ``mean of max(0, mean_gain - gain)``.
    """
    num_waiting, shed = len(waiting.waits), 0.0
    for i in range(num_waiting):
        shed += max(0.0, mean_gain - waiting.gains[i, 0])
    return shed / num_waiting * slots_per_wait(num_waiting, num_ranks)


@bare_kernel
def last_call(yard: Yardstick, num_waiting: int, num_ranks: int) -> float:
    """Return the mean waits after which a request takes the next slot of the rank kept for it.

    Until its patience ends, that rank frees about ``patience`` slots.
    """
    return yard.patience * (1.0 - 1.0 / slots_per_wait(num_waiting, num_ranks))


@bare_kernel
def lightest(ranks: Ranks, berths: Int64Array) -> int:
    """Return the rank that will have the least work now, of those kept for nobody, or `NONE`.

    A rank with neither work nor a slot is away.
    """
    best, least = NONE, np.inf
    for g in range(len(ranks.work)):
        if berths[g] != NONE or (ranks.sends[g] == 0 and ranks.work[g] == 0.0):
            continue
        work = ranks.projected[g, 0] / ranks.speeds[g]
        if work < least:
            best, least = g, work
    return best


@bare_kernel
def longest_pressed(ranks: Ranks, waiting: Waiting, yard: Yardstick, shed: float, rank: int) -> int:
    """Return the longest request for which the time left is what `rank` needs to make room.

    It has room when, with the request in place of a mean one, it is at the level.
    """
    level = yard.target[0] * ranks.speeds[rank]
    room = level - ranks.projected[rank, 0] + yard.mean_gain[0]
    latest = last_call(yard, len(waiting.waits), len(ranks.work))
    best, most = NONE, max(room, 0.0)
    for i in range(len(waiting.waits)):
        gain = waiting.gains[i, 0]
        if gain <= most or waiting.is_taken[i] != FREE or waiting.preferred[i] != NONE:
            continue
        if gain - room >= (latest - waiting.waits[i]) * shed:
            best, most = i, gain
    return best


@bare_kernel
def due(ranks: Ranks, waiting: Waiting, yard: Yardstick, berths: Int64Array, rank: int) -> int:
    """Return the request that `rank` is kept for, if there is room or no time left, or `NONE`."""
    request = berths[rank]
    if request == NONE or waiting.prompt_tokens[request] > ranks.free_kv[rank]:
        return NONE
    has_room = ranks.projected[rank, 0] <= yard.target[0] * ranks.speeds[rank]
    latest = last_call(yard, len(waiting.waits), len(ranks.work))
    return request if has_room or waiting.waits[request] > latest else NONE


@bare_kernel
def give_up(
    ranks: Ranks, waiting: Waiting, mean_gain: Float64Array, berths: Int64Array, request: int
) -> None:
    """Keep no rank for a request any longer, because it is placed."""
    for g in range(len(berths)):
        if berths[g] == request:
            berths[g] = NONE
            for k in range(len(mean_gain)):
                ranks.projected[g, k] -= waiting.gains[request, k] - mean_gain[k]
