"""The best set of requests for one rank: stage 2 of BR-0 (design section 4)."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.fscore import f_score
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import Int64Array

ENUMERATION_LIMIT = 4  # requests; larger windows go through reachable sums


@kernel
def best_subset_by_enumeration(
    sizes: Int64Array, margin: int, max_requests: int, limit: int, num_ranks: int
) -> int:
    """Return the set with the largest F as a bit mask over `sizes`; 0 if no set is allowed.

    Parameters
    ----------
    sizes : int64 array, shape (R,)
        Prompt tokens, oldest request first; R at most 20 or so, since 2**R sets are tried.
    margin : int
        Tokens up to the envelope.
    max_requests, limit : int
        Largest number of requests and of tokens that the rank can take.
    num_ranks : int
        G.

    Returns
    -------
    int
        Bit i stands for request i. Of equal sets the lowest mask wins.

    Examples
    --------
    >>> best_subset_by_enumeration(np.array([700, 400, 500, 90]), 1000, 4, 10**9, 8)
    14
    """
    best_mask, best_score = 0, 0
    for mask in range(1, 1 << len(sizes)):
        total, count = 0, 0
        for i in range(len(sizes)):
            if mask >> i & 1:
                total += sizes[i]
                count += 1
        if count > max_requests or total > limit:
            continue
        score = f_score(total, margin, num_ranks)
        if best_mask == 0 or score > best_score:
            best_mask, best_score = mask, score
    return best_mask


@kernel
def best_subset_by_sums(
    sizes: Int64Array, margin: int, max_requests: int, limit: int, num_ranks: int
) -> Int64Array:
    """Return the indices of a set with the largest F, through the sums that sets can reach.

    F depends on a set only through its sum, rises up to the margin and falls beyond it. So it is
    enough to know each sum up to the margin with the fewest requests that reach it, and the
    smallest sum beyond. Cost O(R * min(2**R, margin)).

    Parameters
    ----------
    sizes : int64 array, shape (R,)
        Prompt tokens, oldest request first.
    margin, max_requests, limit, num_ranks : int
        As in `best_subset_by_enumeration`.

    Returns
    -------
    int64 array, shape (K,)
        Indices into `sizes`, ascending; empty if no set is allowed.

    Examples
    --------
    >>> best_subset_by_sums(np.array([700, 400, 500, 90]), 1000, 4, 10**9, 8)
    array([1, 2, 3])
    """
    # States: a sum, the requests in it, its last request, and the state before that one.
    total = np.zeros(64, np.int64)
    count = np.zeros(64, np.int64)
    item = np.full(64, -1)
    parent = np.full(64, -1)
    num_states = 1
    by_sum = np.zeros(1, np.int64)  # states with different sums, ascending
    beyond_total, beyond_parent, beyond_item = -1, -1, -1
    for i in range(len(sizes)):
        if num_states + len(by_sum) > len(total):
            room = 2 * (num_states + len(by_sum))
            total, count = widen(total, room), widen(count, room)
            item, parent = widen(item, room), widen(parent, room)
        merged = np.empty(2 * len(by_sum), np.int64)
        num_merged, read = 0, 0
        for k in range(len(by_sum)):
            old = by_sum[k]
            reached = total[old] + sizes[i]
            if count[old] == max_requests or reached > limit:
                continue
            if reached > margin:
                if beyond_total < 0 or reached < beyond_total:
                    beyond_total, beyond_parent, beyond_item = reached, old, i
                break  # later sums are larger still
            while read < len(by_sum) and total[by_sum[read]] < reached:
                merged[num_merged] = by_sum[read]
                num_merged += 1
                read += 1
            if read < len(by_sum) and total[by_sum[read]] == reached:
                if count[by_sum[read]] <= count[old] + 1:
                    continue
                read += 1
            total[num_states], count[num_states] = reached, count[old] + 1
            item[num_states], parent[num_states] = i, old
            merged[num_merged] = num_states
            num_merged += 1
            num_states += 1
        while read < len(by_sum):
            merged[num_merged] = by_sum[read]
            num_merged += 1
            read += 1
        by_sum = merged[:num_merged].copy()
    state, extra = by_sum[-1], -1
    if beyond_total >= 0 and (
        state == 0
        or f_score(beyond_total, margin, num_ranks) > f_score(total[state], margin, num_ranks)
    ):
        state, extra = beyond_parent, beyond_item
    return trace_back(state, extra, item, parent)


@kernel
def widen(column: Int64Array, room: int) -> Int64Array:
    """Return a copy of `column` with `room` rows."""
    wider = np.empty(room, np.int64)
    for i in range(len(column)):
        wider[i] = column[i]
    return wider


@kernel
def trace_back(state: int, extra: int, item: Int64Array, parent: Int64Array) -> Int64Array:
    """Return the requests of a state, and `extra` if that is one, ascending."""
    num_items = int(extra >= 0)
    walk = state
    while item[walk] >= 0:
        num_items += 1
        walk = parent[walk]
    chosen = np.empty(num_items, np.int64)
    if extra >= 0:
        num_items -= 1
        chosen[num_items] = extra
    while item[state] >= 0:
        num_items -= 1
        chosen[num_items] = item[state]
        state = parent[state]
    return chosen
