"""The best set of requests for one rank over a horizon: stage 2 of BR-H (design section 5)."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.discounted import (
    Ahead,
    Curve,
    f_score_ahead,
    margins_of,
    peak_of,
    score_on,
)
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.subset import ENUMERATION_LIMIT, NONE, nearest_sums, trace_back, weigh


@kernel
def best_set_on(
    curve: Curve, sizes: Int64Array, max_requests: int, limit: int, is_wide: bool | None
) -> Int64Array:
    """Return the indices of the set with the largest F on a curve, ascending; none if none fits.

    Ties as in `kernels.subset`: up to four requests the lowest mask, else the fewest requests.
    """
    if is_wide is not None and len(sizes) > ENUMERATION_LIMIT:
        sums, within, beyond, item = nearest_sums(sizes, peak_of(curve)[1], max_requests, limit)
        if beyond == NONE:
            return trace_back(sums, within, NONE)
        f_beyond = score_on(curve, sums.total[beyond] + sizes[item])
        if within == 0 or f_beyond > score_on(curve, sums.total[within]):
            return trace_back(sums, beyond, item)
        return trace_back(sums, within, NONE)
    best_mask, best_score = 0, 0.0
    for mask in range(1, 1 << len(sizes)):
        tokens, count = weigh(mask, sizes)
        if count > max_requests or tokens > limit:
            continue
        score = score_on(curve, tokens)
        if best_mask == 0 or score > best_score:
            best_mask, best_score = mask, score
    return bits_of(best_mask, len(sizes))


@kernel
def best_set_by_gain(
    ahead: Ahead,
    rank: int,
    seen: Int64Array,
    sizes: Int64Array,
    gains: Float64Array,
    max_requests: int,
    limit: int,
) -> Int64Array:
    """Return the indices of the set with the largest F, ascending (ties: the lowest mask)."""
    margins = margins_of(ahead, rank)
    added = np.zeros((1 << len(sizes), len(margins)))  # by mask: that without its highest, and it
    best_mask, best_score, highest = 0, 0.0, 0
    for mask in range(1, 1 << len(sizes)):
        if mask >> (highest + 1):
            highest += 1
        for k in range(len(margins)):
            added[mask, k] = added[mask ^ (1 << highest), k] + gains[seen[highest], k]
        tokens, count = weigh(mask, sizes)
        if count > max_requests or tokens > limit:
            continue
        score = f_score_ahead(added[mask], margins, ahead.discounts, ahead.alpha, ahead.beta)
        if best_mask == 0 or score > best_score:
            best_mask, best_score = mask, score
    return bits_of(best_mask, len(sizes))


@kernel
def bits_of(mask: int, num_bits: int) -> Int64Array:
    """Return the indices of the bits that are set, ascending."""
    indices, num_set = np.empty(num_bits, np.int64), 0
    for i in range(num_bits):
        if mask >> i & 1:
            indices[num_set] = i
            num_set += 1
    return indices[:num_set]
