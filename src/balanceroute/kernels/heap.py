"""A small binary heap of ranks, ordered by up to three integer keys."""

from __future__ import annotations

from typing import NamedTuple

from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import Int64Array


class RankHeap(NamedTuple):
    """Ranks with the lowest keys on top; keys are looked up by rank."""

    ranks: Int64Array  # shape (G,), heap order
    size: Int64Array  # shape (1,)
    first: Int64Array  # shape (G,), by rank
    second: Int64Array
    third: Int64Array


@kernel
def is_before(heap: RankHeap, a: int, b: int) -> bool:
    """Tell whether rank a comes before rank b."""
    if heap.first[a] != heap.first[b]:
        return heap.first[a] < heap.first[b]
    if heap.second[a] != heap.second[b]:
        return heap.second[a] < heap.second[b]
    return heap.third[a] < heap.third[b]


@kernel
def sift_down(heap: RankHeap, index: int) -> None:
    """Restore the order after the keys of the rank at `index` rose."""
    ranks, size = heap.ranks, heap.size[0]
    rank = ranks[index]
    while True:
        child = 2 * index + 1
        if child >= size:
            break
        if child + 1 < size and is_before(heap, ranks[child + 1], ranks[child]):
            child += 1
        if not is_before(heap, ranks[child], rank):
            break
        ranks[index] = ranks[child]
        index = child
    ranks[index] = rank


@kernel
def heapify(heap: RankHeap) -> None:
    """Order the heap from scratch, O(G)."""
    for index in range(heap.size[0] // 2 - 1, -1, -1):
        sift_down(heap, index)


@kernel
def pop(heap: RankHeap) -> None:
    """Drop the rank on top."""
    heap.size[0] -= 1
    if heap.size[0] > 0:
        heap.ranks[0] = heap.ranks[heap.size[0]]
        sift_down(heap, 0)
