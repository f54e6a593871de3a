"""BR-0's placement loops (design section 4)."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.heap import RankHeap, heapify, pop, sift_down
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import Int64Array
from balanceroute.kernels.plain import largest, pick, total
from balanceroute.kernels.subset import (
    ENUMERATION_LIMIT,
    best_subset_by_enumeration,
    best_subset_by_sums,
)
from balanceroute.kernels.window import best_single, open_window, remove


@kernel
def plan_singles(
    load_tokens: Int64Array,
    max_sends: Int64Array,
    free_kv_tokens: Int64Array,
    keys: Int64Array,
    emptiest_first: bool,
    num_left_free: int,
    first_rank: int,
) -> tuple[Int64Array, Int64Array]:
    """Pick a rank, give it the one request with the largest F there, and so on.

    The rank is the one with the most free slots (stage 1 of BR-0; ties: lowest load), or simply
    the one with the largest margin. Costs O(log G + log N) per request.

    Parameters
    ----------
    load_tokens : int64 array, shape (G,)
        Loads before the plan. Changed in place.
    max_sends, free_kv_tokens : int64 array, shape (G,)
        Requests and prompt tokens that each rank may take. Changed in place.
    keys : int64 array, shape (N,)
        ``prompt tokens << 32 | position in the pool``, ascending.
    emptiest_first : bool
        Rank by free slots before margin.
    num_left_free : int
        Stop when no more than this many slots of the group are free.
    first_rank : int
        Of ranks that are equal, the first from here on is taken.

    Returns
    -------
    tuple of int64 arrays, shape (K,)
        Positions in the pool and their ranks, in order of admission.

    Examples
    --------
    >>> keys = np.sort(np.array([10, 45, 5]) << 32 | np.arange(3))
    >>> room = np.array([10**6, 10**6])
    >>> plan_singles(np.array([100, 60]), np.array([2, 1]), room.copy(), keys, False, 0, 0)
    (array([1, 2, 0]), array([1, 0, 0]))
    >>> plan_singles(np.array([100, 60]), np.array([2, 1]), room.copy(), keys, True, 1, 0)
    (array([2, 1]), array([0, 1]))
    """
    num_ranks = len(load_tokens)
    window = open_window(keys)
    most = min(len(keys), max(total(max_sends) - num_left_free, 0))
    positions, ranks = np.empty(most, np.int64), np.empty(most, np.int64)
    heap = open_heap(load_tokens, max_sends, emptiest_first, first_rank)
    envelope = largest(load_tokens)
    num_placed = 0
    while heap.size[0] > 0 and num_placed < most:
        rank = heap.ranks[0]
        best = best_single(window, envelope - load_tokens[rank], free_kv_tokens[rank], num_ranks)
        if best < 0:
            pop(heap)
            continue
        size = window.sizes[best]
        positions[num_placed], ranks[num_placed] = window.positions[best], rank
        num_placed += 1
        remove(window, best)
        load_tokens[rank] += size
        free_kv_tokens[rank] -= size
        envelope = max(envelope, load_tokens[rank])
        use_slots(heap, max_sends, 1, emptiest_first)
    return positions[:num_placed], ranks[:num_placed]


@kernel
def open_heap(
    load_tokens: Int64Array, max_sends: Int64Array, emptiest_first: bool, first_rank: int
) -> RankHeap:
    """Queue up the ranks with free slots: by free slots if asked for, then by load, then in turn.

    The heap looks loads up in `load_tokens` itself, so a caller that raises the load of the rank
    on top follows up with `use_slots`.
    """
    num_ranks = len(load_tokens)
    able, num_able = np.empty(num_ranks, np.int64), 0
    first, turn = np.zeros(num_ranks, np.int64), np.empty(num_ranks, np.int64)
    for rank in range(num_ranks):
        turn[rank] = (rank - first_rank) % num_ranks
        if emptiest_first:
            first[rank] = -max_sends[rank]
        if max_sends[rank] > 0:
            able[num_able] = rank
            num_able += 1
    size = np.empty(1, np.int64)
    size[0] = num_able
    heap = RankHeap(able, size, first, load_tokens, turn)
    heapify(heap)
    return heap


@kernel
def use_slots(heap: RankHeap, max_sends: Int64Array, num_slots: int, emptiest_first: bool) -> None:
    """Book slots of the rank on top and move the rank to where it then belongs."""
    rank = heap.ranks[0]
    max_sends[rank] -= num_slots
    if emptiest_first:
        heap.first[rank] += num_slots
    if max_sends[rank] == 0:
        pop(heap)
    else:
        sift_down(heap, 0)


@kernel
def plan_subsets(
    load_tokens: Int64Array,
    max_sends: Int64Array,
    free_kv_tokens: Int64Array,
    prompt_tokens: Int64Array,
    is_taken: Int64Array,
    r_max: int,
    first_rank: int,
    is_wide: bool | None,
) -> tuple[Int64Array, Int64Array]:
    """Stage 2 of BR-0: rank by rank, the set with the largest F among the oldest `r_max` requests.

    Parameters
    ----------
    load_tokens, max_sends, free_kv_tokens : int64 array, shape (G,)
        As in `plan_singles`. Changed in place.
    prompt_tokens : int64 array, shape (N,)
        Prompt lengths, oldest request first.
    is_taken : int64 array, shape (N,)
        1 for requests that stage 1 placed. Changed in place.
    r_max : int
        Requests to choose from, at least 1.
    first_rank : int
        Of ranks equal in free slots and margin, the first from here on is taken.
    is_wide : bool or None
        True if `r_max` is more than 4, else None: the programme over reachable sums is then left
        out of the machine code, which spares most users a seventh of the first start.

    Returns
    -------
    tuple of int64 arrays, shape (K,)
        Positions in the pool and their ranks, in order of admission.

    Examples
    --------
    >>> plan_subsets(
    ...     np.array([100, 60]), np.array([1, 2]), np.array([10**6] * 2),
    ...     np.array([30, 25, 15]), np.array([0, 0, 0]), 4, 0, None,
    ... )
    (array([1, 2, 0]), array([1, 1, 0]))
    """
    num_ranks = len(load_tokens)
    most = min(len(prompt_tokens) - total(is_taken), total(max_sends))
    positions, ranks = np.empty(most, np.int64), np.empty(most, np.int64)
    heap = open_heap(load_tokens, max_sends, True, first_rank)
    envelope = largest(load_tokens)
    oldest, num_placed = 0, 0
    while heap.size[0] > 0 and num_placed < most:
        rank = heap.ranks[0]
        while is_taken[oldest] == 1:
            oldest += 1
        seen = first_waiting(is_taken, oldest, r_max)
        chosen = best_subset(
            pick(prompt_tokens, seen),
            envelope - load_tokens[rank],
            max_sends[rank],
            free_kv_tokens[rank],
            num_ranks,
            is_wide,
        )
        if len(chosen) == 0:
            pop(heap)
            continue
        for i in chosen:
            positions[num_placed], ranks[num_placed] = seen[i], rank
            num_placed += 1
            is_taken[seen[i]] = 1
            load_tokens[rank] += prompt_tokens[seen[i]]
            free_kv_tokens[rank] -= prompt_tokens[seen[i]]
        envelope = max(envelope, load_tokens[rank])
        use_slots(heap, max_sends, len(chosen), True)
    return positions[:num_placed], ranks[:num_placed]


@kernel
def first_waiting(is_taken: Int64Array, start: int, most: int) -> Int64Array:
    """Return the first positions from `start` on that are not taken, at most `most`."""
    seen = np.empty(most, np.int64)
    num_seen = 0
    for position in range(start, len(is_taken)):
        if num_seen == most:
            break
        if is_taken[position] == 0:
            seen[num_seen] = position
            num_seen += 1
    return seen[:num_seen]


@kernel
def best_subset(
    sizes: Int64Array,
    margin: int,
    max_requests: int,
    limit: int,
    num_ranks: int,
    is_wide: bool | None,
) -> Int64Array:
    """Return the indices of the set with the largest F, by the method that suits its size."""
    if is_wide is not None and len(sizes) > ENUMERATION_LIMIT:
        return best_subset_by_sums(sizes, margin, max_requests, limit, num_ranks)
    mask = best_subset_by_enumeration(sizes, margin, max_requests, limit, num_ranks)
    chosen, num_chosen = np.empty(len(sizes), np.int64), 0
    for i in range(len(sizes)):
        if mask >> i & 1:
            chosen[num_chosen] = i
            num_chosen += 1
    return chosen[:num_chosen]
