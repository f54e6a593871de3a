"""The F-score over a horizon (design section 5): Eq. (2) of BalanceRoute, arXiv 2605.06113.

F of one rank is a sum of concave, piecewise linear functions of what is added to it. Where that is
the same at every horizon, F itself is one: a `Curve`, which is worked out once for a rank and then
answers in O(log K).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.plain import num_below, sort_ascending
from balanceroute.kernels.window import Window, find_down, find_up

HORIZON_BITS = 9  # a key is a margin shifted left by these, plus the index of its horizon
EVERYTHING = 1 << 62  # tokens


class Ahead(NamedTuple):
    """What the ranks will hold at K horizons, and how F weighs it."""

    loads: Float64Array  # shape (G, K), tokens; the first column is that of today
    envelope: Float64Array  # shape (K,): the largest load at each horizon
    discounts: Float64Array  # shape (K,): γ^h, or the sum of them that a horizon stands for
    alpha: float
    beta: float


class Curve(NamedTuple):
    """F of one rank: ``slopes[k] * added + offsets[k]`` beyond k of its margins."""

    keys: Int64Array  # shape (K,), work space
    margins: Int64Array  # shape (K,), tokens, ascending: where F bends
    slopes: Float64Array  # shape (K + 1,), falling
    offsets: Float64Array  # shape (K + 1,)


@kernel
def f_score_ahead(
    added_tokens: Float64Array,
    margins_tokens: Float64Array,
    discounts: Float64Array,
    alpha: float,
    beta: float,
) -> float:
    """Score placing requests on a rank over a horizon; higher is better.

    Implements Eq. (2) of [1]_, with Δ that may change with the horizon::

        F = alpha * sum_h γ^h * Δ_h - beta * sum_h γ^h * max(0, Δ_h - m_h)

    Parameters
    ----------
    added_tokens : float64 array, shape (K,)
        Δ: what the requests add to the load at each horizon. Eq. (2) has the same at all.
    margins_tokens : float64 array, shape (K,)
        m: the largest load at each horizon minus the rank's.
    discounts : float64 array, shape (K,)
        γ^h, or the sum of them that a horizon stands for.
    alpha, beta : float
        Worth of a token added, and cost of one beyond the margin.

    Returns
    -------
    float
        Tokens, summed over the horizon with its discounts.

    References
    ----------
    .. [1] BalanceRoute, arXiv 2605.06113.

    Examples
    --------
    100 tokens fit a margin of 120 today; in a step, at half the weight, 30 are too many.

    >>> f_score_ahead(
    ...     np.full(2, 100.0), np.array([120.0, 70.0]), np.array([1.0, 0.5]), 1.0, 8.0
    ... )
    30.0
    """
    score = 0.0
    for k in range(len(discounts)):
        excess = max(0.0, added_tokens[k] - margins_tokens[k])
        score += discounts[k] * (alpha * added_tokens[k] - beta * excess)  # Eq. (2)
    return score


@kernel
def margins_of(ahead: Ahead, rank: int) -> Float64Array:
    """Return the margins of a rank, shape (K,), tokens."""
    margins = np.empty(len(ahead.envelope))
    for k in range(len(margins)):
        margins[k] = ahead.envelope[k] - ahead.loads[rank, k]
    return margins


@kernel
def new_curve(num_horizons: int) -> Curve:
    """Return room for the curve of a rank."""
    keys, margins = np.empty(num_horizons, np.int64), np.empty(num_horizons, np.int64)
    slopes, offsets = np.empty(num_horizons + 1), np.empty(num_horizons + 1)
    return Curve(keys, margins, slopes, offsets)


@kernel
def bend(curve: Curve, ahead: Ahead, rank: int) -> None:
    """Make `curve` that of a rank whose loads are whole tokens: Eq. (2) for the same Δ throughout.

    Parameters
    ----------
    curve : Curve
        Overwritten.
    ahead : Ahead
        With at most ``2**HORIZON_BITS`` horizons.
    rank : int
        Whose curve it is to be.

    Examples
    --------
    Margins 120 today and, at half the weight, 70 in a step; see `f_score_ahead`.

    >>> loads = np.array([[500.0, 430.0], [380.0, 360.0]])
    >>> ahead = Ahead(loads, np.array([500.0, 430.0]), np.array([1.0, 0.5]), 1.0, 8.0)
    >>> curve = new_curve(2)
    >>> bend(curve, ahead, 1)
    >>> curve.margins, curve.slopes, curve.offsets
    (array([ 70, 120]), array([  1.5,  -2.5, -10.5]), array([   0.,  280., 1240.]))
    >>> score_on(curve, 100)
    30.0
    """
    discount = 0.0
    for k in range(len(curve.keys)):
        margin = int(ahead.envelope[k] - ahead.loads[rank, k])
        curve.keys[k] = margin << HORIZON_BITS | k
        discount += ahead.discounts[k]
    sort_ascending(curve.keys)
    curve.slopes[0], curve.offsets[0] = ahead.alpha * discount, 0.0
    for i in range(len(curve.keys)):
        margin = curve.keys[i] >> HORIZON_BITS
        cost = ahead.beta * ahead.discounts[curve.keys[i] & ((1 << HORIZON_BITS) - 1)]
        curve.margins[i] = margin
        curve.slopes[i + 1] = curve.slopes[i] - cost
        curve.offsets[i + 1] = curve.offsets[i] + cost * margin


@kernel
def score_on(curve: Curve, added_tokens: int) -> float:
    """Return F of so many tokens; higher is better."""
    k = num_below(curve.margins, added_tokens)
    return curve.slopes[k] * added_tokens + curve.offsets[k]


@kernel
def peak_of(curve: Curve) -> tuple[int, int]:
    """Return between which numbers of tokens F is largest; `EVERYTHING` if it never falls.

    The two differ only where a slope is exactly 0, for instance one that α Σ γ^h = β γ^h k makes
    so with γ = 1.

    Examples
    --------
    >>> nothing, margins = np.empty(0, np.int64), np.array([70, 120])
    >>> peak_of(Curve(nothing, margins, np.array([2.0, 0.0, -2.0]), np.zeros(3)))
    (70, 120)
    >>> peak_of(Curve(nothing, margins, np.array([2.0, 1.0, -2.0]), np.zeros(3)))
    (120, 120)
    """
    low, high = EVERYTHING, EVERYTHING
    for k in range(len(curve.margins), 0, -1):
        if curve.slopes[k] < 0.0:
            high = curve.margins[k - 1]
        if curve.slopes[k] <= 0.0:
            low = curve.margins[k - 1]
    return low, high


@kernel
def best_on(curve: Curve, window: Window, limit: int) -> int:
    """Return the index of the request with the largest F (ties: oldest), or -1 if none fits.

    F rises up to its peak and falls beyond it, so only the largest request within and the smallest
    beyond can win, or the oldest of those on a level peak. Requests above `limit` are left out.

    Parameters
    ----------
    curve : Curve
        F of the rank.
    window : Window
        The waiting requests by size.
    limit : int
        Prompt tokens that the rank can take.
    """
    sizes = window.sizes
    low, high = peak_of(curve)
    within = find_down(window, num_below(sizes, min(high, limit) + 1) - 1)
    beyond = find_up(window, num_below(sizes, high + 1))
    if within >= 0:
        within = oldest_between(window, min(low, sizes[within]), sizes[within])
    if beyond == len(sizes) or sizes[beyond] > limit:
        return within
    if within < 0:
        return beyond
    f_within, f_beyond = score_on(curve, sizes[within]), score_on(curve, sizes[beyond])
    if f_within != f_beyond:
        return within if f_within > f_beyond else beyond
    return within if window.positions[within] < window.positions[beyond] else beyond


@kernel
def oldest_between(window: Window, low: int, high: int) -> int:
    """Return the index of the oldest request of `low` to `high` tokens; there is one of `high`."""
    sizes, oldest = window.sizes, find_up(window, num_below(window.sizes, low))
    if low == high:
        return oldest  # equal sizes stand in order of age
    index = oldest
    while index < len(sizes) and sizes[index] <= high:
        if window.positions[index] < window.positions[oldest]:
            oldest = index
        index = find_up(window, index + 1)
    return oldest
