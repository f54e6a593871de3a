"""Hazard of the output length by age: survival and mean remaining steps from cumulative tables.

Ages (output tokens so far) fall into buckets, single tokens up to 16 and then eight to an octave.
The hazard λ, minus the logarithm of the probability that a token is not the last, is constant
within a bucket. A table is a row of cumulative hazards Λ at the bucket starts, so that
``P(D > a + h | D > a) = exp(Λ(a) - Λ(a + h))`` costs two look-ups.
"""

from __future__ import annotations

from math import expm1

import numpy as np

from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.kernels.jit import kernel

OCTAVE = 8  # buckets from one power of two to the next
MAX_AGE_TOKENS = 1 << 20  # the last bucket ends here; its hazard holds beyond
NUM_BUCKETS = 144

# A float64 has 52 bits of fraction below its exponent (offset 1023). Shifting all but three of them
# out leaves eight numbers to an octave, and the rest is the place within the bucket: no logarithm.
BUCKET_SHIFT = 49
FIRST_OCTAVE = (1023 + 3) << 3  # what 8.0 leaves
PLACE_BITS = (1 << BUCKET_SHIFT) - 1
PLACE_UNIT = 2.0**-BUCKET_SHIFT
SMALL = 0.05  # below this, a series is more exact than a difference of reciprocals


@kernel
def bucket_of(age_tokens: int) -> int:
    """Return the bucket of an age; ages beyond the table fall into the last one.

    Examples
    --------
    >>> [bucket_of(age) for age in (0, 15, 16, 17, 18, 1 << 20)]
    [0, 15, 16, 16, 17, 143]
    """
    if age_tokens < OCTAVE:
        return age_tokens
    bits = np.float64(age_tokens).view(np.int64)
    return min(int(bits >> BUCKET_SHIFT) - FIRST_OCTAVE + OCTAVE, NUM_BUCKETS - 1)


@kernel
def bucket_start(bucket: int) -> int:
    """Return the lowest age in a bucket; that of `NUM_BUCKETS` is the end of the last.

    Examples
    --------
    >>> [bucket_start(bucket) for bucket in (0, 15, 16, 17, 143, 144)]
    [0, 15, 16, 18, 983040, 1048576]
    """
    if bucket < OCTAVE:
        return bucket
    return (OCTAVE + (bucket & 7)) << ((bucket >> 3) - 1)


@kernel
def bucket_width(bucket: int) -> int:
    """Return how many ages a bucket holds.

    Examples
    --------
    >>> [bucket_width(bucket) for bucket in (0, 15, 16, 143)]
    [1, 1, 2, 65536]
    """
    return 1 << max((bucket >> 3) - 1, 0)


@kernel
def hazard_until(table: Float64Array, age_tokens: int) -> float:
    """Return Λ(age) of one table, shape (NUM_BUCKETS + 1,): minus the logarithm of P(D > age)."""
    if age_tokens < OCTAVE:
        return table[age_tokens]
    bits = np.float64(age_tokens).view(np.int64)
    bucket = (bits >> BUCKET_SHIFT) - FIRST_OCTAVE + OCTAVE
    if bucket < NUM_BUCKETS:
        rise = table[bucket + 1] - table[bucket]
        return table[bucket] + rise * ((bits & PLACE_BITS) * PLACE_UNIT)
    last = NUM_BUCKETS - 1
    hazard = (table[last + 1] - table[last]) / bucket_width(last)
    return table[last + 1] + hazard * (age_tokens - MAX_AGE_TOKENS)


@kernel
def log_survival_at(
    tables: Float64Array,
    rows: Int64Array,
    ages: Int64Array,
    limits: Int64Array,
    horizons: Int64Array,
    log_survival: Float64Array,
) -> None:
    """Write ``log P(D > a + h | D > a) = Λ(a) - Λ(a + h)`` of each request and horizon.

    A request with a limit ends there at the latest, so its probability is 0 from ``h = limit - a``
    on, or from 1 on if it has outlived its limit. For ``h <= 0`` it is 1. The exponential is left
    to NumPy, which takes several at a time.

    Parameters
    ----------
    tables : float64 array, shape (C, NUM_BUCKETS + 1)
        Cumulative hazards Λ at the bucket starts, one row per class.
    rows, ages, limits : int64 array, shape (N,)
        Class, age in tokens and limit of each request, 0 for none.
    horizons : int64 array, shape (K,)
        h, in steps.
    log_survival : float64 array, shape (N, K)
        Overwritten, at most 0; -inf where the probability is 0.

    Examples
    --------
    >>> tables = np.arange(145.0)[None] * np.log(2)  # half of those that are left, in each bucket
    >>> survival = np.empty((1, 3))
    >>> request = np.array([0]), np.array([2]), np.array([5])
    >>> log_survival_at(tables, *request, np.array([0, 2, 3]), survival)
    >>> np.exp(survival)
    array([[1.  , 0.25, 0.  ]])
    """
    for i in range(len(rows)):
        age, limit = ages[i], limits[i]
        table = tables[rows[i]]
        before = hazard_until(table, age)
        for j in range(len(horizons)):
            steps = horizons[j]
            if steps <= 0:
                log_survival[i, j] = 0.0
            elif 0 < limit <= age + steps:
                log_survival[i, j] = -np.inf
            else:
                log_survival[i, j] = before - hazard_until(table, age + steps)


@kernel
def mean_place(hazard: float, num_tokens: int) -> float:
    """Return the mean of i in 0..n - 1 drawn in proportion to ``exp(-hazard · i)``.

    ``1 / (exp(λ) - 1) - n / (exp(nλ) - 1)``, or where nλ is small, so that these nearly cancel,
    their series ``(n - 1) / 2 - λ (n² - 1) / 12 + λ³ (n⁴ - 1) / 720``, exact to 1e-11 of n.

    Examples
    --------
    >>> mean_place(0.0, 5), round(mean_place(np.log(2), 2), 6)  # uniform; 2/3 at 0 and 1/3 at 1
    (2.0, 0.333333)
    """
    n = float(num_tokens)
    if n * hazard < SMALL:
        square = n * n
        cubic = hazard * hazard * hazard * (square * square - 1.0) / 720.0
        return (n - 1.0) / 2.0 - hazard * (square - 1.0) / 12.0 + cubic
    return 1.0 / expm1(hazard) - n / expm1(n * hazard)


@kernel
def mean_end(table: Float64Array, age: int, limit: int, horizon: int) -> float:
    """Return the mean steps to the end of a request that ends within `horizon`; see `mean_ends`."""
    steps = horizon
    if limit > 0:
        steps = min(steps, max(limit - age, 1))
    left, ended, moment, done = 1.0, 0.0, 0.0, 0
    while done < steps:
        bucket = bucket_of(age + done)
        n = steps - done
        if bucket < NUM_BUCKETS - 1:
            n = min(n, bucket_start(bucket + 1) - age - done)
        hazard = (table[bucket + 1] - table[bucket]) / bucket_width(bucket)
        share = -left * expm1(-n * hazard)
        moment += share * (done + 1.0 + mean_place(hazard, n))
        ended += share
        left -= share
        done += n
    if 0 < limit <= age + horizon:  # whoever is left ends at the limit
        moment += left * steps
        ended = 1.0
    if ended <= 0.0:
        return float(horizon)
    return min(max(moment / ended, 1.0), float(horizon))


@kernel
def mean_ends(
    tables: Float64Array,
    rows: Int64Array,
    ages: Int64Array,
    limits: Int64Array,
    horizon: int,
    means: Float64Array,
) -> None:
    """Write each request's mean steps to the end, given that it ends within the horizon.

    ``μ = Σ_{j=1..H} j · P(D = a + j | D > a) / P(D <= a + H | D > a)``, bucket by bucket.

    Parameters
    ----------
    tables, rows, ages, limits
        As for `log_survival_at`.
    horizon : int
        H, at least 1.
    means : float64 array, shape (N,)
        Overwritten with μ, in [1, H]; H where no request ends.

    Examples
    --------
    >>> tables = np.arange(145.0)[None] * np.log(2)  # half of those that are left, in each bucket
    >>> means = np.empty(2)
    >>> mean_ends(tables, np.array([0, 0]), np.array([2, 2]), np.array([0, 4]), 2, means)
    >>> means  # (1/2 + 2 · 1/4) / (3/4) and, with a limit two steps away, 1/2 + 2 · 1/2
    array([1.33333333, 1.5       ])
    """
    for i in range(len(rows)):
        means[i] = mean_end(tables[rows[i]], ages[i], limits[i], horizon)


@kernel
def mark_implausible(
    answers: Float64Array,
    horizons: Int64Array,
    least: float,
    most: float,
    is_implausible: BoolArray,
) -> int:
    """Mark the rows that no classifier can mean, and count them.

    Parameters
    ----------
    answers : float64 array, shape (N, K)
        A row per request, a column per horizon.
    horizons : int64 array, shape (K,)
        In any order; quickest if they ascend.
    least, most : float
        Bounds of an answer, inclusive.
    is_implausible : bool array, shape (N,)
        Overwritten: whether the row has a NaN, a value out of bounds or one above that of a
        shorter horizon.

    Returns
    -------
    int
        How many rows are marked.

    Examples
    --------
    >>> marks = np.empty(4, np.bool_)
    >>> answers = np.array([[0.9, 0.5], [0.5, 0.9], [0.9, np.nan], [1.5, 0.5]])
    >>> mark_implausible(answers, np.array([1, 2]), 0.0, 1.0, marks), marks
    (3, array([False,  True,  True,  True]))
    """
    num_marked, num_horizons, is_ascending = 0, len(horizons), True
    for j in range(1, num_horizons):
        is_ascending = is_ascending and horizons[j - 1] < horizons[j]
    for i in range(len(answers)):
        row = answers[i]
        is_sound = True
        for j in range(num_horizons):
            is_sound = is_sound and least <= row[j] <= most  # false for NaN
            if is_ascending:
                is_sound = is_sound and (j == 0 or row[j] <= row[j - 1])
            else:
                for k in range(num_horizons):
                    is_sound = is_sound and (horizons[k] >= horizons[j] or row[j] <= row[k])
        is_implausible[i] = not is_sound
        num_marked += not is_sound
    return num_marked
