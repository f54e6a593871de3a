"""Pairwise exchanges among the requests that a plan has just placed."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.jit import bare_kernel, kernel
from balanceroute.kernels.placing import NONE, Ranks, Waiting


@kernel
def swap(
    ranks: Ranks,
    waiting: Waiting,
    weights: Float64Array,
    requests: Int64Array,
    places: Int64Array,
    is_fixed: Int64Array,
    max_passes: int,
) -> None:
    """Exchange the ranks of two placed requests while that lowers the sum of squared work.

    Parameters
    ----------
    ranks : Ranks
        After the plan; ``projected`` and ``free_kv`` are changed in place.
    waiting : Waiting
        The pool.
    weights : float64 array, shape (K,)
        Of each horizon, above 0.
    requests, places, is_fixed : int64 array, shape (number placed,)
        Positions in the pool, the rank of each (changed in place), and 1 for those that stay.
    max_passes : int
        Times that each request looks for the best one to exchange with, at most.
    """
    gains = waiting.gains[requests].T.copy()  # by horizon, so that the pairs' loop runs along rows
    prompts = waiting.prompt_tokens[requests]
    pace, work = 1.0 / ranks.speeds[places], np.empty(gains.shape)
    changes = np.empty(len(requests))
    for k in range(len(weights)):
        work[k] = ranks.projected[places, k] * pace
    for _ in range(max_passes):
        has_swapped = False
        for i in range(len(requests)):
            if is_fixed[i] == 1:
                continue
            changes_with(i, gains, work, pace, weights, changes)
            j = best_partner(i, changes, prompts, places, is_fixed, ranks.free_kv)
            if j == NONE:
                continue
            a, b = places[i], places[j]
            for k in range(len(weights)):
                ranks.projected[a, k] -= gains[k, i] - gains[k, j]
                ranks.projected[b, k] += gains[k, i] - gains[k, j]
            ranks.free_kv[a] += prompts[i] - prompts[j]
            ranks.free_kv[b] -= prompts[i] - prompts[j]
            places[i], places[j] = b, a
            for other in range(len(requests)):
                rank = places[other]
                if rank in (a, b):
                    pace[other] = 1.0 / ranks.speeds[rank]
                    for k in range(len(weights)):
                        work[k, other] = ranks.projected[rank, k] * pace[other]
            has_swapped = True
        if not has_swapped:
            return


@bare_kernel
def changes_with(
    i: int,
    gains: Float64Array,
    work: Float64Array,
    pace: Float64Array,
    weights: Float64Array,
    changes: Float64Array,
) -> None:
    """Write by how much the squared work rises if request i changes places with each other one.

    Parameters
    ----------
    i : int
        A placed request.
    gains, work : float64 array, shape (K, n)
        Load that each placed request adds, and the work of the rank that it is on, by horizon.
    pace : float64 array, shape (n,)
        One over the speed of that rank.
    weights : float64 array, shape (K,)
        Of each horizon.
    changes : float64 array, shape (n,)
        Overwritten; 0 for i itself.

    Examples
    --------
    120 and 80 become 100 and 100, so 20,800 becomes 20,000:

    >>> gains, work, changes = np.array([[50.0, 30.0]]), np.array([[120.0, 80.0]]), np.empty(2)
    >>> changes_with(0, gains, work, np.ones(2), np.ones(1), changes)
    >>> changes
    array([   0., -800.])
    """
    changes[:] = 0.0
    for k in range(len(weights)):
        gain, there = gains[k, i], 2.0 * work[k, i]
        for j in range(len(pace)):
            moved = gain - gains[k, j]
            down, up = moved * pace[i], moved * pace[j]
            changes[j] += weights[k] * (down * (down - there) + up * (up + 2.0 * work[k, j]))


@bare_kernel
def best_partner(
    i: int,
    changes: Float64Array,
    prompts: Int64Array,
    places: Int64Array,
    is_fixed: Int64Array,
    free_kv: Int64Array,
) -> int:
    """Return the request that i gains most by changing places with, or `NONE`."""
    best, least = NONE, 0.0
    for j in range(len(changes)):
        if changes[j] >= least or is_fixed[j] == 1 or places[j] == places[i]:
            continue
        heavier = prompts[i] - prompts[j]
        if heavier <= free_kv[places[j]] and -heavier <= free_kv[places[i]]:
            best, least = j, changes[j]
    return best
