"""Counts per cell to hazards per cell, by way of boosted trees; and the pace of recent ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.kernels.cells import LEVEL_BITS
from balanceroute.kernels.hazard import NUM_BUCKETS, bucket_width
from balanceroute.kernels.lifetable import AT_RISK, EVENTS, PARTS, LifeTables
from balanceroute.kernels.shrinkage import MAX_END_PROB
from balanceroute.predict.boosting import MAX_TENANTS, Factors
from balanceroute.predict.upkeep import NUM_ROOTS

NUM_LEVELS = 3  # requests end more slowly than usual, as usual, faster
RECENT_ENDS = 100.0  # over which the pace is measured
PRIOR_ENDS = 20.0  # at the usual pace, before it is measured
PACE_BAND = 0.1  # of the logarithm of the pace; within it, it is as usual
SMALLEST_SHARE = 1e-6  # of an end, for a call without one
MIN_EXPECTED_ENDS = 1e-6  # counts that have faded to less teach nothing


class Pace:
    """How fast requests have ended lately: ends per token of the last hundred against the usual.

    Parameters
    ----------
    memory : int
        Ended requests over which the usual is measured.

    Attributes
    ----------
    state : float64 array, shape (4,)
        Recent ends and tokens, usual ends and tokens.

    Examples
    --------
    >>> pace = Pace(memory=1000)
    >>> pace.see(1000, 10_000)
    >>> pace.level
    1
    >>> pace.see(100, 500)  # twice as fast
    >>> pace.level
    2
    """

    def __init__(self, memory: int) -> None:
        self.state = np.zeros(4)
        self._spans = np.repeat([RECENT_ENDS, float(memory)], 2)

    def see(self, num_ends: int, num_tokens: int) -> None:
        """Take in what was watched, so many ends in so many tokens, evenly mixed."""
        spans = max(num_ends, SMALLEST_SHARE) / self._spans
        self.state *= np.exp(-spans)
        # The mean fading over the call: its first ends have faded by its last.
        self.state += np.tile([num_ends, num_tokens], 2) * -np.expm1(-spans) / spans

    @property
    def level(self) -> int:
        """Return 0, 1 or 2: slower than usual, as usual, faster."""
        recent_ends, recent_tokens, usual_ends, usual_tokens = self.state.tolist()
        if not usual_ends or not usual_tokens:
            return 1
        usual = usual_ends / usual_tokens
        recent = (recent_ends + PRIOR_ENDS) / (recent_tokens + PRIOR_ENDS / usual)
        log_pace = float(np.log(recent / usual))
        return 1 + (log_pace > PACE_BAND) - (log_pace < -PACE_BAND)


@dataclass(slots=True)
class HazardCells:
    """Hazards of cells at each pace, worked out when first needed.

    Attributes
    ----------
    keys : int64 array, shape (C,)
        Cells, ascending; see `kernels.cells.cell_key`.
    hazards : float64 array, shape (NUM_LEVELS, C, NUM_BUCKETS + 1)
        Cumulative hazards.
    is_known : bool array, shape (NUM_LEVELS,)
        Which levels have been worked out.
    model : FittedTrees or None
        What gives the others; None after loading, when all are known.
    """

    keys: Int64Array
    hazards: Float64Array
    is_known: BoolArray
    model: FittedTrees | None

    def at(self, level: int) -> Float64Array:
        """Return the hazards at one pace, shape (C, NUM_BUCKETS + 1)."""
        if not self.is_known[level] and self.model is not None:
            self.hazards[level] = self.model.hazards(self.keys, level)
            self.is_known[level] = True
        found: Float64Array = self.hazards[level]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTrees:
    """Trees, and what turns a cell into their features and their factors into hazards."""

    factors: Factors
    tenants: Int64Array  # ascending; those with most ends
    end_probs: Float64Array  # shape (NUM_BUCKETS,), of all requests together

    def hazards(self, keys: Int64Array, level: int) -> Float64Array:
        """Return cumulative hazards of cells, shape (C, NUM_BUCKETS + 1)."""
        cells = np.repeat(keys, NUM_BUCKETS)
        buckets = np.tile(np.arange(NUM_BUCKETS), len(keys))
        factors = self.factors.of(features_of(cells, level, buckets, self.tenants))
        end_probs = factors.reshape(len(keys), NUM_BUCKETS) * self.end_probs
        hazards = np.zeros((len(keys), NUM_BUCKETS + 1))
        per_token = -np.log1p(-np.minimum(end_probs, MAX_END_PROB))
        np.cumsum(per_token * bucket_widths(), axis=1, out=hazards[:, 1:])
        return hazards


def bucket_widths() -> Int64Array:
    """Return the number of ages in each bucket, shape (NUM_BUCKETS,)."""
    return np.array([bucket_width(bucket) for bucket in range(NUM_BUCKETS)])


def features_of(
    cells: Int64Array, level: Int64Array | int, buckets: Int64Array, tenants: Int64Array
) -> Float64Array:
    """Return what the trees look at, shape (R, 5): age, prompt, tenant, limit, pace.

    All are numbers of buckets; the tenant is its place among `tenants`, NaN for any other.

    Examples
    --------
    >>> features_of(np.array([4 << 14 | 18, 18]), 2, np.array([7, 8]), np.array([3, 5]))
    array([[ 7., 18.,  0.,  0.,  2.],
           [ 8., 18., nan,  0.,  2.]])
    """
    clients = (cells >> 14) - 1
    places = np.minimum(np.searchsorted(tenants, clients), max(len(tenants) - 1, 0))
    features = np.empty((len(cells), 5))
    features[:, 0] = buckets
    features[:, 1] = cells & 255
    features[:, 2] = np.nan
    if len(tenants):
        features[:, 2] = np.where(tenants[places] == clients, places, np.nan)
    features[:, 3] = cells >> 8 & 63
    features[:, 4] = level
    return features


def fit_cells(counts: LifeTables, end_probs: Float64Array) -> HazardCells | None:
    """Fit trees to counts per cell.

    Parameters
    ----------
    counts : LifeTables
        From `kernels.cells.count_cells`.
    end_probs : float64 array, shape (NUM_BUCKETS,)
        Probability per bucket that a token is the last, of all requests together.

    Returns
    -------
    HazardCells or None
        None if no request has ended.
    """
    rows = slice(NUM_ROOTS, int(counts.tally["num_rows"][0]))
    weight = float(counts.tally["weight"][0])
    keys = counts.nodes["key"][rows]
    parts, at_risk = counts.counts[rows, PARTS], counts.counts[rows, AT_RISK]
    tokens = parts[:, :-1] + at_risk[:, :-1].cumsum(axis=1) * bucket_widths()
    ends = counts.counts[rows, EVENTS, :-1] / weight
    expected = np.maximum(tokens, 0.0) * end_probs / weight
    row, bucket = np.nonzero(expected > MIN_EXPECTED_ENDS)
    if not ends[row, bucket].any():
        return None
    cells, levels = keys >> LEVEL_BITS, keys & ((1 << LEVEL_BITS) - 1)
    tenants = largest_tenants((cells >> 14) - 1, ends.sum(axis=1))
    features = features_of(cells[row], levels[row], bucket, tenants)
    factors = Factors(features, ends[row, bucket], expected[row, bucket])
    kept = np.unique(cells)
    return HazardCells(
        keys=kept,
        hazards=np.zeros((NUM_LEVELS, len(kept), NUM_BUCKETS + 1)),
        is_known=np.zeros(NUM_LEVELS, np.bool_),
        model=FittedTrees(factors=factors, tenants=tenants, end_probs=end_probs.copy()),
    )


def largest_tenants(clients: Int64Array, num_ends: Float64Array) -> Int64Array:
    """Return the tenants with most ends, MAX_TENANTS at most, ascending and without the unknown.

    Examples
    --------
    >>> largest_tenants(np.array([7, -1, 5, 7]), np.ones(4))
    array([5, 7])
    """
    tenants, place = np.unique(clients, return_inverse=True)
    total = np.bincount(place, weights=num_ends)
    total[tenants < 0] = -1.0
    most = np.argsort(-total, kind="stable")[:MAX_TENANTS]
    return np.sort(tenants[most[total[most] >= 0.0]])
