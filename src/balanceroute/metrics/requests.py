"""Request figures: latencies and waits, one column at a time.

A run may hold 30 million requests, so each function keeps boolean masks and at most two columns.
A step counts if it starts in [begin, end), so what happens at a step's start counts in
[begin, end) and what happens at its end counts in (begin, end].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balanceroute.metrics.figures import Distribution
from balanceroute.types import RunRecords

_QUANTILES = (0.50, 0.95, 0.99)


def tpot_values(run: RunRecords) -> NDArray[np.float64]:
    """Return the time per output token of each request that finished in the window.

    Requests of one output token have none and are left out.

    Returns
    -------
    float64 array, shape (n,)
        ``(finished - first token) / (output tokens - 1)``, seconds; lower is better.
    """
    requests = run.requests
    chosen = _ended_in(requests.finished_s, run.window_s)
    chosen &= requests.output_tokens >= 2
    chosen &= np.isfinite(requests.first_token_s)
    values = requests.finished_s[chosen]
    values -= requests.first_token_s[chosen]
    values /= requests.output_tokens[chosen] - 1
    return values


def ttft_values(run: RunRecords) -> NDArray[np.float64]:
    """Return the time to first token of each request whose first token came in the window.

    Returns
    -------
    float64 array, shape (n,)
        ``first token - arrival``, seconds; lower is better.
    """
    requests = run.requests
    chosen = _ended_in(requests.first_token_s, run.window_s)
    chosen &= np.isfinite(requests.arrival_s)
    values = requests.first_token_s[chosen]
    values -= requests.arrival_s[chosen]
    return values


def wait_values(run: RunRecords) -> NDArray[np.float64]:
    """Return the wait of each request that was admitted to a rank in the window.

    Returns
    -------
    float64 array, shape (n,)
        ``admitted - arrival``, seconds; lower is better.
    """
    requests = run.requests
    begin_s, end_s = run.window_s
    chosen = requests.admitted_s >= begin_s
    chosen &= requests.admitted_s < end_s
    chosen &= np.isfinite(requests.arrival_s)
    values = requests.admitted_s[chosen]
    values -= requests.arrival_s[chosen]
    return values


def waiting_at(run: RunRecords, end_s: float) -> tuple[int, float]:
    """Count the requests waiting at `end_s`, and say how long the oldest has waited.

    Returns
    -------
    num_waiting : int
        Requests that had arrived and were not yet on a rank.
    longest_s : float
        Wait so far of the oldest, seconds; 0 if none waits.
    """
    requests = run.requests
    waiting = requests.arrival_s < end_s
    waiting &= ~(requests.admitted_s < end_s)
    oldest_s = float(np.min(requests.arrival_s, where=waiting, initial=end_s))
    return int(np.count_nonzero(waiting)), end_s - oldest_s


def longest_wait_ratio(wait_s: Distribution, longest_s: float) -> float | None:
    """Return the longest wait in units of the mean; None if nobody waited.

    Examples
    --------
    >>> longest_wait_ratio(describe(np.array([1.0, 3.0])), 6.0)
    3.0
    >>> longest_wait_ratio(describe(np.array([0.0, 0.0])), 0.0) is None
    True
    """
    if not wait_s.mean:
        return None
    return longest_s / wait_s.mean


def num_finished(run: RunRecords) -> int:
    """Count the requests that finished in the window."""
    return int(np.count_nonzero(_ended_in(run.requests.finished_s, run.window_s)))


def num_preemptions(run: RunRecords, end_s: float) -> int:
    """Count the preemptions of requests that were alive at some time in the window.

    The records carry no times of preemptions, so one before the window opened counts too: a false
    zero would be worse.
    """
    requests = run.requests
    alive = requests.admitted_s < end_s
    alive &= ~(requests.finished_s <= run.window_s[0])
    return int(np.sum(requests.num_preemptions, where=alive, dtype=np.int64))


def describe(values: NDArray[np.float64]) -> Distribution:
    """Summarise values by mean and quantiles, and leave them in another order.

    Quantiles interpolate linearly between order statistics. The array is partitioned in place,
    which saves a copy of a column.

    Parameters
    ----------
    values : float64 array, shape (n,)
        Finite. Empty gives a distribution of None.

    Examples
    --------
    >>> describe(np.array([4.0, 1.0, 2.0, 3.0]))
    Distribution(mean=2.5, p50=2.5, p95=3.8499999999999996, p99=3.9699999999999998)
    >>> describe(np.array([]))
    Distribution(mean=None, p50=None, p95=None, p99=None)
    """
    if not values.size:
        return Distribution(mean=None, p50=None, p95=None, p99=None)
    mean = float(np.mean(values))
    p50, p95, p99 = np.quantile(values, _QUANTILES, overwrite_input=True).tolist()
    return Distribution(mean=mean, p50=p50, p95=p95, p99=p99)


def _ended_in(times_s: NDArray[np.float64], window_s: tuple[float, float]) -> NDArray[np.bool_]:
    """Mark what a counted step's end brought; NaN is never marked."""
    marked: NDArray[np.bool_] = times_s > window_s[0]
    marked &= times_s <= window_s[1]
    return marked
