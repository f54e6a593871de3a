"""What a workload looks like: lengths, rate and burstiness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balanceroute.types import Workload

BUSY_WINDOW_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthStats:
    """Mean and nearest-rank percentiles of token counts."""

    mean: float
    p50: int
    p90: int
    p99: int
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalStats:
    """When requests arrive; None where there are too few to tell.

    Attributes
    ----------
    span_s : float
        From the first request to the last.
    rate_per_s : float or None
        Requests per second of the span.
    gap_cv : float or None
        Standard deviation of the gaps between arrivals over their mean; 1 for a Poisson process.
    busiest_ratio : float or None
        Most requests in one of the whole windows of 10 s, counted from 0, over the mean of them.
    """

    span_s: float
    rate_per_s: float | None
    gap_cv: float | None
    busiest_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStats:
    """What `balanceroute trace stats` prints.

    Attributes
    ----------
    num_requests : int
        N.
    prompt_tokens, output_tokens : LengthStats
        Lengths.
    arrivals : ArrivalStats or None
        None if the source has no arrival times.
    top_1_share_ratio, top_10_share_ratio : float
        Share of all output tokens in the largest hundredth and tenth of the requests.
    correlation : float or None
        Pearson correlation of prompt and output tokens; None if one of them never changes.
    """

    num_requests: int
    prompt_tokens: LengthStats
    output_tokens: LengthStats
    arrivals: ArrivalStats | None
    top_1_share_ratio: float
    top_10_share_ratio: float
    correlation: float | None


def trace_stats(workload: Workload) -> TraceStats:
    """Describe a workload.

    Examples
    --------
    >>> stats = trace_stats(
    ...     Workload(
    ...         name="three",
    ...         prompt_tokens=np.array([100, 200, 600], np.int32),
    ...         output_tokens=np.array([30, 20, 10], np.int32),
    ...         arrival_s=np.array([0.0, 1.0, 4.0]),
    ...     )
    ... )
    >>> stats.prompt_tokens
    LengthStats(mean=300.0, p50=200, p90=600, p99=600, max=600)
    >>> stats.arrivals
    ArrivalStats(span_s=4.0, rate_per_s=0.75, gap_cv=0.5, busiest_ratio=None)
    """
    outputs = np.sort(workload.output_tokens)
    arrival_s = workload.arrival_s
    return TraceStats(
        num_requests=workload.num_requests,
        prompt_tokens=_length_stats(np.sort(workload.prompt_tokens)),
        output_tokens=_length_stats(outputs),
        arrivals=None if arrival_s is None else _arrival_stats(arrival_s),
        top_1_share_ratio=_top_share(outputs, 0.01),
        top_10_share_ratio=_top_share(outputs, 0.1),
        correlation=_correlation(workload.prompt_tokens, workload.output_tokens),
    )


def nearest_rank(ordered: NDArray[np.int32], prob: float) -> int:
    """Return the value whose index is nearest to ``prob * (N - 1)``, halves to the even index.

    Examples
    --------
    >>> nearest_rank(np.array([10, 20, 30, 40], np.int32), 0.9)
    40
    """
    return int(ordered[round(prob * (len(ordered) - 1))])


def _length_stats(ordered: NDArray[np.int32]) -> LengthStats:
    return LengthStats(
        mean=float(ordered.mean()),
        p50=nearest_rank(ordered, 0.5),
        p90=nearest_rank(ordered, 0.9),
        p99=nearest_rank(ordered, 0.99),
        max=int(ordered[-1]),
    )


def _arrival_stats(arrival_s: NDArray[np.float64]) -> ArrivalStats:
    span_s = float(arrival_s[-1])
    gaps = np.diff(arrival_s)
    num_windows = int(span_s // BUSY_WINDOW_S)
    last = int(np.searchsorted(arrival_s, num_windows * BUSY_WINDOW_S))
    windows = (arrival_s[:last] // BUSY_WINDOW_S).astype(np.int64)
    counts = np.bincount(windows, minlength=num_windows)
    return ArrivalStats(
        span_s=span_s,
        rate_per_s=len(arrival_s) / span_s if span_s else None,
        gap_cv=float(gaps.std() / gaps.mean()) if span_s else None,
        busiest_ratio=float(counts.max() / counts.mean()) if num_windows else None,
    )


def _top_share(ordered: NDArray[np.int32], share_ratio: float) -> float:
    num_top = max(1, int(len(ordered) * share_ratio))
    return float(ordered[-num_top:].sum() / ordered.sum())


def _correlation(first: NDArray[np.int32], second: NDArray[np.int32]) -> float | None:
    first_sd, second_sd = float(first.std()), float(second.std())
    if not first_sd or not second_sd:
        return None
    centred = first - first.mean()
    covariance = float(np.mean(centred * (second - second.mean())))
    return covariance / (first_sd * second_sd)
