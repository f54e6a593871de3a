"""Distributions of lengths by their quantile functions, and the tables that draws look up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 1 << 14  # of the table; a bin is 0.0007 standard deviations wide
MAX_Z = 6.0  # a draw beyond it happens twice in 10**9
MAX_DEGREE = 80  # of the Hermite series; the next terms change a correlation by less than 0.001


class Marginal(Protocol):
    """A distribution of token counts."""

    def quantile(self, prob: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the token count, before rounding, that is not exceeded with probability `prob`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """A distribution known by its mean and some quantiles.

    Between two published quantiles the count rises geometrically, ``low * (high / low)**(s**c)``
    with s from 0 to 1. The one shape ``c`` of all stretches is chosen so that the mean is met.

    Attributes
    ----------
    mean_tokens : float
        Published mean.
    points : tuple of (float, float)
        Probability and tokens, from the least (probability 0) to the largest (1), rising.
    """

    mean_tokens: float
    points: tuple[tuple[float, float], ...]

    def quantile(self, prob: NDArray[np.float64]) -> NDArray[np.float64]:
        weights = bin_probs()
        grid = np.cumsum(weights) - weights / 2
        low, high = -6.0, 6.0  # binary logarithm of c; the mean falls as c rises
        for _ in range(40):
            middle = (low + high) / 2
            tokens = np.rint(self._interpolate(grid, 2.0**middle))
            if float(np.sum(weights * tokens)) > self.mean_tokens:
                low = middle
            else:
                high = middle
        return self._interpolate(prob, 2.0**low)

    def _interpolate(self, prob: NDArray[np.float64], shape: float) -> NDArray[np.float64]:
        probs, tokens = np.array(self.points).T
        stretch = np.clip(np.searchsorted(probs, prob, side="right") - 1, 0, len(probs) - 2)
        place = (prob - probs[stretch]) / np.diff(probs)[stretch]
        growth = np.diff(np.log(tokens))[stretch]
        value: NDArray[np.float64] = tokens[stretch] * np.exp(growth * place**shape)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class PositiveNormal:
    """A normal distribution with everything below half a token cut off.

    Attributes
    ----------
    mean_tokens, sd_tokens : float
        Of the distribution before the cut; after it the mean is higher, the deviation smaller.
    """

    mean_tokens: float
    sd_tokens: float

    def quantile(self, prob: NDArray[np.float64]) -> NDArray[np.float64]:
        normal = NormalDist(self.mean_tokens, self.sd_tokens)
        cut = normal.cdf(0.5)
        inside = np.minimum(cut + (1.0 - cut) * prob, 1.0 - 1e-12)
        return np.array([normal.inv_cdf(p) for p in inside.tolist()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """An exponential distribution above a least count.

    Of all distributions with this least count and mean it assumes the least beyond them.

    Attributes
    ----------
    least_tokens, mean_tokens : float
        Least count and mean.
    """

    least_tokens: float
    mean_tokens: float

    def quantile(self, prob: NDArray[np.float64]) -> NDArray[np.float64]:
        excess = self.mean_tokens - self.least_tokens
        value: NDArray[np.float64] = self.least_tokens - excess * np.log1p(-prob)
        return value


@cache
def bin_centres() -> NDArray[np.float64]:
    """Return the standard normal value at the centre of each bin of a table."""
    edges = np.linspace(-MAX_Z, MAX_Z, NUM_BINS + 1)
    centres: NDArray[np.float64] = (edges[1:] + edges[:-1]) / 2
    return centres


@cache
def bin_probs() -> NDArray[np.float64]:
    """Return the probability of each bin of a table; together 1."""
    normal = NormalDist()
    edges = np.linspace(-MAX_Z, MAX_Z, NUM_BINS + 1).tolist()
    probs: NDArray[np.float64] = np.diff([normal.cdf(edge) for edge in edges])
    probs /= probs.sum()
    return probs


def token_table(marginal: Marginal) -> NDArray[np.int32]:
    """Tabulate a distribution over the bins of a standard normal variable.

    Examples
    --------
    >>> table = token_table(Exponential(least_tokens=1000, mean_tokens=1052))
    >>> len(table), int(table[0]), round(float(np.sum(bin_probs() * table)))
    (16384, 1000, 1052)
    """
    probs = bin_probs()
    tokens = np.rint(marginal.quantile(np.cumsum(probs) - probs / 2))
    return np.maximum(tokens, 1).astype(np.int32)


def copula_correlation(
    first: NDArray[np.int32], second: NDArray[np.int32], correlation: float
) -> float:
    """Return the correlation of two normal variables that gives token counts the wanted one.

    With ``a_k``, ``b_k`` the coefficients of the two tables in normalised Hermite polynomials, the
    counts have covariance ``sum over k >= 1 of a_k * b_k * r**k`` (Mehler's formula), which rises
    with r; r is found by bisection.

    Parameters
    ----------
    first, second : int32 array, shape (NUM_BINS,)
        Tables of `token_table`.
    correlation : float
        Pearson correlation wanted of the counts.

    Returns
    -------
    float
        Within ±0.995; at a limit if the tables cannot be correlated as wanted.

    Examples
    --------
    >>> table = token_table(Exponential(least_tokens=1000, mean_tokens=2000))
    >>> round(copula_correlation(table, table, 0.5), 3)
    0.547
    """
    terms = _hermite(first) * _hermite(second)
    powers = np.arange(1, MAX_DEGREE + 1)
    low, high = -0.995, 0.995
    for _ in range(40):
        middle = (low + high) / 2
        if float(np.sum(terms * middle**powers)) < correlation:
            low = middle
        else:
            high = middle
    return low


def _hermite(table: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the coefficients of a standardised table, of degree 1 to MAX_DEGREE."""
    z, probs = bin_centres(), bin_probs()
    excess = table - float(np.sum(probs * table))
    values = probs * excess / float(np.sqrt(np.sum(probs * excess**2)))
    before, here = np.zeros_like(z), np.ones_like(z)
    coefficients = np.empty(MAX_DEGREE)
    for k in range(MAX_DEGREE):
        before, here = here, (z * here - np.sqrt(k) * before) / np.sqrt(k + 1)
        coefficients[k] = float(np.sum(values * here))
    return coefficients
