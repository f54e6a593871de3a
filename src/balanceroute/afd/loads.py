"""The load of a worker, a sum of B independent slots, and the largest of r workers' loads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balanceroute.afd.slots import SlotLoad

BINS_PER_NU = 48  # bins of the convolved grid per standard deviation of a slot
KEPT_POINTS = 4096
LOG_TAIL = 32.0  # what the grid leaves out has probability below exp(-32), 1e-14
LEAST_PROB = 1e-12
Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """Distribution of the load of one worker, on a grid.

    Attributes
    ----------
    mean_tokens : float
        B·θ.
    tokens : float64 array, shape (K,)
        Ascending loads.
    log_cdf : float64 array, shape (K,)
        log P(load ≤ tokens).
    """

    mean_tokens: float
    tokens: Float64Array
    log_cdf: Float64Array

    def expected_max(self, num_workers: float) -> float:
        """Return E[max] over r independent workers, in tokens; r need not be whole."""
        return float(self.tokens[0]) + self.excess(float(self.tokens[0]), num_workers)

    def excess(self, from_tokens: float, num_workers: float) -> float:
        """Return the mean of (max − from_tokens)⁺ over r independent workers, in tokens."""
        below = max(0.0, float(self.tokens[0]) - from_tokens)
        tail = -np.expm1(num_workers * self.log_cdf)
        start = int(np.searchsorted(self.tokens, from_tokens))
        if start == 0:
            return below + float(np.trapezoid(tail, self.tokens))
        if start == len(self.tokens):
            return 0.0
        first = float(np.interp(from_tokens, self.tokens, tail))
        head = (float(self.tokens[start]) - from_tokens) * (first + float(tail[start])) / 2
        return head + float(np.trapezoid(tail[start:], self.tokens[start:]))

    def squeezed(self, ratio: float) -> WorkerLoad:
        """Return the load with every distance from the mean multiplied by `ratio`."""
        tokens = self.mean_tokens + ratio * (self.tokens - self.mean_tokens)
        return WorkerLoad(self.mean_tokens, tokens, self.log_cdf)

    def scaled(self, ratio: float) -> WorkerLoad:
        """Return the load with every value multiplied by `ratio`."""
        return WorkerLoad(self.mean_tokens * ratio, self.tokens * ratio, self.log_cdf)

    def quantile(self, prob: float) -> float:
        """Return the load that one worker stays at or below with probability `prob`."""
        return float(np.interp(math.log(prob), self.log_cdf, self.tokens))

    def max_bins(self, num_workers: float, num_bins: int) -> tuple[Float64Array, Float64Array]:
        """Return probabilities and means of parts of the distribution of the largest load.

        The parts are narrower towards the largest loads, and each is represented by its own mean,
        so that means of linear functions are exact.
        """
        if len(self.tokens) == 1:
            return np.ones(1), self.tokens
        cdf = np.exp(num_workers * self.log_cdf)
        cdf[-1] = 1.0
        below = np.concatenate(([0.0], np.cumsum(np.diff(cdf) * _middles(self.tokens))))
        below += cdf[0] * self.tokens[0]
        edges = 1 - (1 - np.arange(1, num_bins) / num_bins) ** 2
        sums = np.concatenate(([0.0], np.interp(edges, cdf, below), [below[-1]]))
        probs = np.diff(np.concatenate(([0.0], edges, [1.0])))
        return probs, np.diff(sums) / probs


def worker_load(slot: SlotLoad, num_slots: int) -> WorkerLoad:
    """Return the distribution of the sum of B independent slots.

    The slot's distribution is put on a grid, mean kept, and convolved with itself B times through a
    fast Fourier transform. The grid ends where Bernstein's inequality leaves 1e-14.

    Examples
    --------
    >>> from balanceroute.afd.slots import slot_load
    >>> from balanceroute.types import Workload
    >>> lengths = np.array([100, 100], np.int32), np.array([400, 400], np.int32)
    >>> workload = Workload(name="even", prompt_tokens=lengths[0], output_tokens=lengths[1])
    >>> load = worker_load(slot_load(workload), 2)  # two slots, each uniform on 100 … 499
    >>> [round(load.expected_max(r), 1) for r in (1, 2)]  # a triangle; 599 + 400 * 7/30
    [599.0, 692.3]
    """
    theta, nu = slot.theta_tokens.value, slot.nu_tokens.value
    mean = num_slots * theta
    if nu == 0:
        return WorkerLoad(mean, np.array([mean]), np.zeros(1))
    width = max(1, int(nu / BINS_PER_NU))
    offset = num_slots * (theta - slot.least_tokens)
    largest = len(slot.probs) - 1  # above least_tokens
    slack = largest * LOG_TAIL / 3
    tail = slack + math.sqrt(slack**2 + 2 * num_slots * nu**2 * LOG_TAIL)
    num_bins = math.ceil(min(num_slots * largest, offset + tail) / width) + 2
    size = 1 << (num_bins - 1).bit_length()
    transform = np.fft.rfft(_on_grid(slot.probs, width), size)
    probs: Float64Array = np.maximum(np.fft.irfft(transform**num_slots, size), 0.0)
    probs /= float(probs.sum())
    tokens: Float64Array = num_slots * slot.least_tokens + width * (
        np.arange(size, dtype=np.float64) + 0.5
    )
    return _thinned(mean, tokens, probs, width)


def _on_grid(probs: Float64Array, width: int) -> Float64Array:
    """Share each load's probability between the two multiples of `width` next to it."""
    loads = np.arange(len(probs))
    bins, share = loads // width, (loads % width) / width
    size = int(bins[-1]) + 2
    on_grid: Float64Array = np.bincount(bins, probs * (1 - share), size).astype(np.float64)
    on_grid += np.bincount(bins + 1, probs * share, size)
    return on_grid


def _thinned(
    mean_tokens: float, tokens: Float64Array, probs: Float64Array, width: int
) -> WorkerLoad:
    """Return the part of the grid that carries probability, with at most `KEPT_POINTS` points.

    A bin's probability is spread evenly over the bin, which ends at its entry of `tokens`.
    """
    cdf = np.cumsum(probs)
    above = np.cumsum(probs[::-1])[::-1] - probs
    kept = np.flatnonzero((cdf > LEAST_PROB) & (above > LEAST_PROB / 100))
    picked = np.unique(np.linspace(kept[0], kept[-1] + 1, KEPT_POINTS).astype(np.int64))
    picked = picked[picked < len(tokens)]
    with np.errstate(divide="ignore", invalid="ignore"):  # of the branch not taken
        log_cdf = np.where(above < 0.5, np.log1p(-above), np.log(cdf))[picked]
    first = tokens[picked[0]] - width
    return WorkerLoad(
        mean_tokens,
        np.concatenate(([first], tokens[picked])),
        np.concatenate(([-np.inf], np.minimum(log_cdf, 0.0))),
    )


def _middles(values: Float64Array) -> Float64Array:
    middles: Float64Array = (values[1:] + values[:-1]) / 2
    return middles
