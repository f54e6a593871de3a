"""Arrival times: renewal processes, and the spreading of coarse timestamps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError


def poisson_arrivals(
    num_requests: int, rate_per_s: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw arrivals of a Poisson process; the first is at 0.

    Parameters
    ----------
    num_requests : int
        N, at least 1.
    rate_per_s : float
        Mean requests per second, above 0.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    float64 array, shape (N,)
        Seconds, ascending.

    Raises
    ------
    ConfigError
        If a number is out of range.

    Examples
    --------
    >>> poisson_arrivals(3, 2.0, np.random.default_rng(0)).round(3)
    array([0.  , 0.34, 0.85])
    """
    return renewal_arrivals(num_requests, rate_per_s, 1.0, rng)


def renewal_arrivals(
    num_requests: int, rate_per_s: float, cv: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw arrivals with independent gamma-distributed gaps; the first is at 0.

    Gaps have mean ``1 / rate`` and shape ``1 / cv**2``. A `cv` of 1 is the Poisson process; above
    it, requests come in clumps.

    Parameters
    ----------
    num_requests : int
        N, at least 1.
    rate_per_s : float
        Mean requests per second, above 0.
    cv : float
        Coefficient of variation of the gaps, above 0.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    float64 array, shape (N,)
        Seconds, ascending.

    Raises
    ------
    ConfigError
        If a number is out of range.

    Examples
    --------
    >>> renewal_arrivals(3, 2.0, 0.5, np.random.default_rng(0)).round(3)
    array([0.   , 0.489, 1.118])
    """
    if num_requests < 1:
        raise ConfigError(f"number of requests must be at least 1, got {num_requests}")
    if not 0 < rate_per_s < np.inf:
        raise ConfigError(f"request rate must be above 0 per second, got {rate_per_s}")
    if not 0 < cv < np.inf:
        raise ConfigError(f"coefficient of variation of gaps must be above 0, got {cv}")
    arrival_s = np.zeros(num_requests)
    gaps = arrival_s[1:]  # filled and summed in place: at 30 million requests copies matter
    shape = cv**-2
    rng.standard_gamma(shape, out=gaps)
    np.multiply(gaps, 1.0 / (shape * rate_per_s), out=gaps)
    np.cumsum(gaps, out=gaps)
    return arrival_s


def spread_ticks(arrival_s: NDArray[np.float64]) -> list[str]:
    """Spread requests that share a timestamp evenly until the next one, in place.

    Some sources round time to ticks that many requests share; replayed as they stand, every tick is
    a burst. The k requests of a tick get offsets 0, 1/k, …, (k-1)/k of the tick, so nothing is
    drawn and no request passes the next tick. The tick is the median distance of distinct
    timestamps; a longer distance is silence, not a longer tick.

    Parameters
    ----------
    arrival_s : float64 array, shape (N,)
        Ascending; changed.

    Returns
    -------
    list of str
        A note on what was done; empty if no timestamps are shared.

    Examples
    --------
    >>> arrival_s = np.array([0.0, 0.0, 0.0, 3.0, 6.0, 6.0])
    >>> spread_ticks(arrival_s)
    ['Timestamps are rounded to ticks of 3 s; the requests of a tick are spread evenly inside it.']
    >>> arrival_s
    array([0. , 1. , 2. , 3. , 6. , 7.5])
    """
    stamps, starts, counts = np.unique(arrival_s, return_index=True, return_counts=True)
    if len(stamps) < 2 or len(stamps) == len(arrival_s):
        return []
    gaps = np.diff(stamps)
    tick_s = float(np.median(gaps))
    widths = np.minimum(np.append(gaps, tick_s), tick_s)
    place = np.arange(len(arrival_s)) - np.repeat(starts, counts)
    arrival_s += place * np.repeat(widths / counts, counts)
    return [
        f"Timestamps are rounded to ticks of {tick_s:g} s; "
        "the requests of a tick are spread evenly inside it."
    ]
