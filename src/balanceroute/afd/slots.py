"""What a slot that is never empty holds in the long run: θ, ν² and the whole distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import TraceError
from balanceroute.types import Workload

MAX_BLOCKS = 64  # contiguous parts of a trace whose sums are compared, for its drift
Z_95 = 1.959963984540054  # two-sided 95 %
Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure estimated from a trace, with an interval that covers it in 95 of 100 traces."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLoad:
    """The load of one slot of an attention worker in the long run.

    Attributes
    ----------
    theta_tokens : Estimate
        θ, its mean.
    nu_tokens : Estimate
        ν, its standard deviation.
    mean_output_tokens : float
        E[D]: a slot is refilled once in so many steps.
    least_tokens : int
        Load of the first entry of `probs`.
    probs : float64 array, shape (K,)
        Probability of each load from `least_tokens` on.
    """

    theta_tokens: Estimate
    nu_tokens: Estimate
    mean_output_tokens: float
    least_tokens: int
    probs: Float64Array


def slot_load(workload: Workload) -> SlotLoad:
    """Estimate the load of a slot from a trace.

    A slot at a moment of the long run holds a request with probability proportional to its output
    length D, at an age uniform in 0 … D − 1; with prompt P its load is P + age. Nothing is assumed
    of the lengths, nor of how prompts and outputs depend on each other.

    Parameters
    ----------
    workload : Workload
        At least two requests.

    Returns
    -------
    SlotLoad

    Raises
    ------
    TraceError
        If there is one request only: nothing tells then how far off the estimate is.

    Examples
    --------
    >>> lengths = np.array([10, 30], np.int32), np.array([2, 1], np.int32)
    >>> load = slot_load(Workload(name="two", prompt_tokens=lengths[0], output_tokens=lengths[1]))
    >>> load.theta_tokens.value  # (10 + 11 + 30) / 3
    17.0
    >>> load.least_tokens, load.probs.nonzero()[0].tolist()
    (10, [0, 1, 20])
    """
    if workload.num_requests < 2:
        raise TraceError(
            f"{workload.name} has 1 request, from which no spread can be told; θ and its interval "
            "need at least 2 requests, and some thousands for a narrow interval"
        )
    prompts, outputs = workload.prompt_tokens, workload.output_tokens
    theta, variance = slot_moments(prompts, outputs)
    centred = prompts.astype(np.float64) - theta
    gain = outputs * (centred + (outputs - 1.0) / 2)  # load − θ, summed over a request's steps
    square = _centred_squares(centred, outputs.astype(np.float64))
    total = float(outputs.sum(dtype=np.float64))
    theta_error = _standard_error(gain / total)
    variance_error = _standard_error((square - variance * outputs) / total)
    nu = math.sqrt(variance)
    nu_error = variance_error / (2 * nu) if nu > 0 else 0.0
    least, probs = slot_probs(prompts, outputs)
    return SlotLoad(
        theta_tokens=_interval(theta, theta_error),
        nu_tokens=_interval(nu, nu_error),
        mean_output_tokens=total / workload.num_requests,
        least_tokens=least,
        probs=probs,
    )


def slot_moments(
    prompt_tokens: NDArray[np.int32], output_tokens: NDArray[np.int32]
) -> tuple[float, float]:
    """Return mean θ and variance ν² of a slot's load.

    Implements, for the requests as they are (E is their average)::

        θ  = (E[D·P] + E[D(D−1)/2]) / E[D]
        ν² = E[D·P² + P·D(D−1) + D(D−1)(2D−1)/6] / E[D] − θ²

    of [1]_. The second is computed with P − θ for P, where the last term is 0 and nothing cancels.

    References
    ----------
    .. [1] arXiv 2601.21351, from version 2 on: stationary token load of a slot.

    Examples
    --------
    >>> slot_moments(np.array([10, 30], np.int32), np.array([2, 1], np.int32))
    (17.0, 84.66666666666667)
    """
    outputs = output_tokens.astype(np.float64)
    total = float(outputs.sum())
    grown = outputs * (outputs - 1) / 2
    theta = float((outputs * prompt_tokens + grown).sum()) / total
    centred = prompt_tokens.astype(np.float64) - theta
    variance = float(_centred_squares(centred, outputs).sum()) / total
    return theta, variance


def geometric_theta(mean_prompt_tokens: float, mean_output_tokens: float) -> float:
    """Return θ = μ_P + E[D] − 1, for geometric outputs that do not depend on the prompts.

    The load on which version 1 of arXiv 2601.21351 builds its rule (its Proposition 4.3, where
    μ_D = E[D] − 1 counts the tokens generated before the last one).

    Examples
    --------
    >>> geometric_theta(100.0, 500.0)
    599.0
    """
    return mean_prompt_tokens + mean_output_tokens - 1


def slot_probs(
    prompt_tokens: NDArray[np.int32], output_tokens: NDArray[np.int32]
) -> tuple[int, Float64Array]:
    """Return the least load of a slot and the probability of each load from there on.

    A request puts equal weight on P, P + 1, …, P + D − 1.

    Examples
    --------
    >>> slot_probs(np.array([10, 12], np.int32), np.array([3, 1], np.int32))
    (10, array([0.25, 0.25, 0.5 ]))
    """
    least = int(prompt_tokens.min())
    begins = prompt_tokens.astype(np.int64) - least
    ends = begins + output_tokens
    size = int(ends.max()) + 1
    changes = np.bincount(begins, minlength=size) - np.bincount(ends, minlength=size)
    counts = np.cumsum(changes)[:-1]
    probs: Float64Array = counts / counts.sum()
    return least, probs


def _centred_squares(centred_prompts: Float64Array, outputs: Float64Array) -> Float64Array:
    """Sum over a request's steps of (its centred load)²."""
    rises = outputs * (outputs - 1)
    squares: Float64Array = (
        outputs * centred_prompts**2 + centred_prompts * rises + rises * (2 * outputs - 1) / 6
    )
    return squares


def _standard_error(influences: Float64Array) -> float:
    """Return the standard error of a ratio from its requests' influences (delta method).

    Both for independent requests and for sums over contiguous blocks, which also show the drift of
    a trace; the larger counts.
    """
    alone = float(np.square(influences).sum())
    num_blocks = min(MAX_BLOCKS, len(influences) // 2)
    starts = np.arange(num_blocks) * len(influences) // num_blocks
    blocks = np.add.reduceat(influences, starts)
    together = float(np.square(blocks).sum()) * num_blocks / max(1, num_blocks - 1)
    return math.sqrt(max(alone, together))


def _interval(value: float, error: float) -> Estimate:
    return Estimate(value=value, low=max(0.0, value - Z_95 * error), high=value + Z_95 * error)
