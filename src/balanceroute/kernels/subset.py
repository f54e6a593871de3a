"""The best set of requests for one rank: stage 2 of BR-0 (design section 4)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.fscore import f_score
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import Int64Array

ENUMERATION_LIMIT = 4  # requests; larger windows go through reachable sums
NONE = -1


class Sums(NamedTuple):
    """Sums of tokens that sets of requests reach, one a row; row 0 is the empty set."""

    total: Int64Array  # tokens
    num_items: Int64Array  # requests in the set
    item: Int64Array  # the youngest of them
    rest: Int64Array  # row of the set without it


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
        total, count = weigh(mask, sizes)
        if count > max_requests or total > limit:
            continue
        score = f_score(total, margin, num_ranks)
        if best_mask == 0 or score > best_score:
            best_mask, best_score = mask, score
    return best_mask


@kernel
def weigh(mask: int, sizes: Int64Array) -> tuple[int, int]:
    """Return the tokens of the requests whose bits are set, and how many these are."""
    total, count = 0, 0
    for i in range(len(sizes)):
        if mask >> i & 1:
            total += sizes[i]
            count += 1
    return total, count


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
    sums, within, beyond, beyond_item = nearest_sums(sizes, margin, max_requests, limit)
    if beyond == NONE:
        return trace_back(sums, within, NONE)
    f_within = f_score(sums.total[within], margin, num_ranks)
    f_beyond = f_score(sums.total[beyond] + sizes[beyond_item], margin, num_ranks)
    if within == 0 or f_beyond > f_within:
        return trace_back(sums, beyond, beyond_item)
    return trace_back(sums, within, NONE)


@kernel
def nearest_sums(
    sizes: Int64Array, peak: int, max_requests: int, limit: int
) -> tuple[Sums, int, int, int]:
    """Return the largest sum up to `peak`, and the smallest beyond it, that sets can reach.

    Returns
    -------
    tuple of Sums and three int
        All sums up to the peak; the row of the largest of them (0, the empty set, if no other is
        allowed); and a row and the request that together make the smallest sum beyond the peak,
        both `NONE` if there is no such sum.

    Examples
    --------
    >>> sums, within, beyond, item = nearest_sums(np.array([7, 4, 5]), 10, 3, 99)
    >>> sums.total[[within, beyond]], item  # 4 + 5, and 7 with the 4 at position 1
    (array([9, 7]), 1)
    """
    sums, num_sums = room_for_sums(64), 1
    by_total = np.zeros(1, np.int64)  # rows with different totals, ascending
    beyond, beyond_item = NONE, NONE
    for i in range(len(sizes)):
        if num_sums + len(by_total) > len(sums.total):
            sums = widen(sums, 2 * (num_sums + len(by_total)))
        row = first_beyond(sums, by_total, sizes[i], peak, max_requests)
        if row != NONE and sums.total[row] + sizes[i] <= limit:
            reached = sums.total[row] + sizes[i]
            if beyond == NONE or reached < sums.total[beyond] + sizes[beyond_item]:
                beyond, beyond_item = row, i
        most = min(peak, limit)
        by_total, num_sums = add_request(sums, num_sums, by_total, i, sizes[i], max_requests, most)
    return sums, by_total[-1], beyond, beyond_item


@kernel
def room_for_sums(num_rows: int) -> Sums:
    """Return a table whose row 0 is the empty set."""
    nothing, none = np.zeros(num_rows, np.int64), np.empty(num_rows, np.int64)
    for row in range(num_rows):
        none[row] = NONE
    return Sums(nothing, nothing.copy(), none, none.copy())


@kernel
def widen(sums: Sums, num_rows: int) -> Sums:
    """Return a copy with `num_rows` rows."""
    wider = room_for_sums(num_rows)
    for row in range(len(sums.total)):
        wider.total[row], wider.num_items[row] = sums.total[row], sums.num_items[row]
        wider.item[row], wider.rest[row] = sums.item[row], sums.rest[row]
    return wider


@kernel
def first_beyond(
    sums: Sums, by_total: Int64Array, size: int, margin: int, max_requests: int
) -> int:
    """Return the row with the smallest total that `size` lifts beyond the margin, or `NONE`."""
    for row in by_total:
        if sums.num_items[row] < max_requests and sums.total[row] + size > margin:
            return row
    return NONE


@kernel
def add_request(
    sums: Sums,
    num_sums: int,
    by_total: Int64Array,
    item: int,
    size: int,
    max_requests: int,
    most: int,
) -> tuple[Int64Array, int]:
    """Add the sums up to `most` that one more request makes; return rows in order, and how many.

    Of two sets with the same total, the one with fewer requests stays.
    """
    merged, num_merged, read = np.empty(2 * len(by_total), np.int64), 0, 0
    for old in by_total:
        reached = sums.total[old] + size
        if reached > most:
            break  # later totals are larger still
        if sums.num_items[old] == max_requests:
            continue
        while read < len(by_total) and sums.total[by_total[read]] < reached:
            merged[num_merged] = by_total[read]
            num_merged, read = num_merged + 1, read + 1
        if read < len(by_total) and sums.total[by_total[read]] == reached:
            if sums.num_items[by_total[read]] <= sums.num_items[old] + 1:
                continue
            read += 1
        sums.total[num_sums], sums.num_items[num_sums] = reached, sums.num_items[old] + 1
        sums.item[num_sums], sums.rest[num_sums] = item, old
        merged[num_merged] = num_sums
        num_merged, num_sums = num_merged + 1, num_sums + 1
    for left in range(read, len(by_total)):
        merged[num_merged] = by_total[left]
        num_merged += 1
    return merged[:num_merged].copy(), num_sums


@kernel
def trace_back(sums: Sums, row: int, extra: int) -> Int64Array:
    """Return the requests of a row, and `extra` if that is one, ascending."""
    num_items = sums.num_items[row] + (extra != NONE)
    chosen = np.empty(num_items, np.int64)
    if extra != NONE:
        num_items -= 1
        chosen[num_items] = extra
    while row != 0:
        num_items -= 1
        chosen[num_items] = sums.item[row]
        row = sums.rest[row]
    return chosen
