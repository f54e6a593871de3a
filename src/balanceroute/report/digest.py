"""What the page draws of a run: its records, cut down to some hundred points a line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balanceroute.metrics import tpot_values, ttft_values, wait_values
from balanceroute.types import RunRecords

# Enough for a line across a wide screen.
MAX_POINTS = 600

# Even steps, and the tail down to one request in 10,000 where the differences are.
_PROBS: NDArray[np.float64] = np.unique(
    np.round(np.concatenate((np.linspace(0.0, 1.0, 101), 1.0 - np.logspace(-1.0, -4.0, 40))), 6)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cdf:
    """Cumulative distribution: the share `prob` of the values is at most `value_s`.

    Attributes
    ----------
    value_s, prob : float64 array, shape (n,)
        Both ascending; empty when nothing was observed.
    """

    value_s: NDArray[np.float64]
    prob: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDigest:
    """A run as the page draws it: some hundred kilobytes where records may take gigabytes.

    Attributes
    ----------
    policy, seed, num_ranks, window_s :
        As in `RunRecords`.
    time_s : float64 array, shape (S,)
        Start of each sampled step; S is at most `MAX_POINTS`.
    load_tokens : int64 array, shape (S, G)
        Load of each rank.
    tpot, ttft, wait : Cdf
        Distributions over the requests of the window.
    """

    policy: str
    seed: int
    num_ranks: int
    window_s: tuple[float, float]
    time_s: NDArray[np.float64]
    load_tokens: NDArray[np.int64]
    tpot: Cdf
    ttft: Cdf
    wait: Cdf


def digest(run: RunRecords) -> RunDigest:
    """Cut a run down to what the page draws, so that its records can be let go."""
    samples = run.samples
    num_samples = len(samples.time_s)
    kept = np.linspace(0, num_samples - 1, min(num_samples, MAX_POINTS)).round().astype(np.intp)
    return RunDigest(
        policy=run.policy,
        seed=run.seed,
        num_ranks=run.num_ranks,
        window_s=run.window_s,
        time_s=samples.time_s[kept],
        load_tokens=samples.load_tokens[kept],
        tpot=make_cdf(tpot_values(run)),
        ttft=make_cdf(ttft_values(run)),
        wait=make_cdf(wait_values(run)),
    )


def make_cdf(values: NDArray[np.float64]) -> Cdf:
    """Compute the distribution of values, and leave them in another order.

    Examples
    --------
    >>> cdf = make_cdf(np.array([3.0, 1.0, 2.0]))
    >>> cdf.value_s[[0, -1]], cdf.prob[[0, -1]]
    (array([1., 3.]), array([0., 1.]))
    """
    if not values.size:
        return Cdf(value_s=np.empty(0), prob=np.empty(0))
    value_s = np.quantile(values, _PROBS, overwrite_input=True, method="inverted_cdf")
    return Cdf(value_s=np.asarray(value_s, dtype=np.float64), prob=_PROBS)
