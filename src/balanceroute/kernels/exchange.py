"""Pairwise exchanges among the requests that a plan has just placed."""

from __future__ import annotations

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
    """Exchange the ranks of two placed requests while that lowers the sum of squared work."""
    for _ in range(max_passes):
        has_swapped = False
        for i in range(len(requests)):
            for j in range(i + 1, len(requests)):
                if places[i] == places[j] or is_fixed[i] == 1 or is_fixed[j] == 1:
                    continue
                if exchange(
                    ranks, waiting, weights, requests[i], requests[j], places[i], places[j]
                ):
                    places[i], places[j] = places[j], places[i]
                    has_swapped = True
        if not has_swapped:
            return


@kernel
def exchange(
    ranks: Ranks, waiting: Waiting, weights: Float64Array, one: int, other: int, a: int, b: int
) -> bool:
    """Move request `one` from rank a to b and `other` back if the squared work falls by it."""
    heavier = waiting.prompt_tokens[one] - waiting.prompt_tokens[other]
    if heavier > ranks.free_kv[b] or -heavier > ranks.free_kv[a]:
        return False
    change = 0.0
    for k in range(len(weights)):
        if weights[k] > 0.0:
            moved = waiting.gains[one, k] - waiting.gains[other, k]
            down, up = moved / ranks.speeds[a], moved / ranks.speeds[b]
            at_a, at_b = ranks.projected[a, k], ranks.projected[b, k]
            change += weights[k] * down * (down - 2.0 * at_a / ranks.speeds[a])
            change += weights[k] * up * (up + 2.0 * at_b / ranks.speeds[b])
    if change >= 0.0:
        return False
    for k in range(len(weights)):
        moved = waiting.gains[one, k] - waiting.gains[other, k]
        ranks.projected[a, k] -= moved
        ranks.projected[b, k] += moved
    moved = waiting.gains[one, 0] - waiting.gains[other, 0]
    ranks.work[a] -= moved / ranks.speeds[a]
    ranks.work[b] += moved / ranks.speeds[b]
    ranks.free_kv[a] += heavier
    ranks.free_kv[b] -= heavier
    return True
