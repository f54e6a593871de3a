"""Pairwise exchanges among the requests that a plan has just placed."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.placing import Ranks, Waiting


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
        After the plan; ``free_kv`` is changed in place, the loads are not.
    waiting : Waiting
        The pool.
    weights : float64 array, shape (K,)
        Of each horizon.
    requests, places, is_fixed : int64 array, shape (number placed,)
        Positions in the pool, the rank of each (changed in place), and 1 for those that stay.
    max_passes : int
        Passes over all pairs, at most.
    """
    gains, work, used = counted_columns(ranks, waiting, weights, requests)
    for _ in range(max_passes):
        has_swapped = False
        for i in range(len(requests)):
            for j in range(i + 1, len(requests)):
                if places[i] == places[j] or is_fixed[i] == 1 or is_fixed[j] == 1:
                    continue
                if change_by(gains[i], gains[j], work, used, places[i], places[j]) >= 0.0:
                    continue
                a, b = places[i], places[j]
                heavier = waiting.prompt_tokens[requests[i]] - waiting.prompt_tokens[requests[j]]
                if heavier > ranks.free_kv[b] or -heavier > ranks.free_kv[a]:
                    continue
                for k in range(len(used)):
                    work[a, k] -= gains[i, k] - gains[j, k]
                    work[b, k] += gains[i, k] - gains[j, k]
                ranks.free_kv[a] += heavier
                ranks.free_kv[b] -= heavier
                places[i], places[j] = b, a
                has_swapped = True
        if not has_swapped:
            return


@kernel
def counted_columns(
    ranks: Ranks, waiting: Waiting, weights: Float64Array, requests: Int64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return gains of the requests, loads of the ranks, and weights, where the weight is not 0.

    The last column of the loads is the ranks' speed. Pairs are many, so what does not count is
    left out once and for all.
    """
    num_used = 0
    for weight in weights:
        num_used += weight > 0.0
    gains = np.empty((len(requests), num_used))
    loads = np.empty((len(ranks.work), num_used + 1))
    used, column = np.empty(num_used), 0
    for k in range(len(weights)):
        if weights[k] > 0.0:
            used[column] = weights[k]
            for i in range(len(requests)):
                gains[i, column] = waiting.gains[requests[i], k]
            for g in range(len(ranks.work)):
                loads[g, column] = ranks.projected[g, k]
            column += 1
    for g in range(len(ranks.work)):
        loads[g, num_used] = ranks.speeds[g]
    return gains, loads, used


@kernel
def change_by(
    one: Float64Array, other: Float64Array, loads: Float64Array, used: Float64Array, a: int, b: int
) -> float:
    """Return by how much the squared work rises if `one` goes from a to b and `other` back.

    Examples
    --------
    120 and 80 become 100 and 100, so 20,800 becomes 20,000:

    >>> loads = np.array([[120.0, 1.0], [80.0, 1.0]])
    >>> change_by(np.array([50.0]), np.array([30.0]), loads, np.ones(1), 0, 1)
    -800.0
    """
    speed_a, speed_b = loads[a, len(used)], loads[b, len(used)]
    change = 0.0
    for k in range(len(used)):
        moved = one[k] - other[k]
        down, up = moved / speed_a, moved / speed_b
        change += used[k] * down * (down - 2.0 * loads[a, k] / speed_a)
        change += used[k] * up * (up + 2.0 * loads[b, k] / speed_b)
    return change
