"""A classifier exactly as good as asked for, to see what a policy makes of it."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np

from balanceroute.errors import ConfigError
from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.predict.base import Classifier, Requests, checked_horizon
from balanceroute.predict.oracle import KnownLengths, lengths_of
from balanceroute.predict.survival import Survival


class NoisyOracle:
    """The truth with noise that is drawn once per request id.

    With ``error``, the length is taken for ``max(1, round(D · exp(error · z)))``, z normal: right
    in the median, and off by a factor e^error or more for a third of the requests. Once a request
    has outlived that, `Survival` answers.

    With ``auc``, `p_finish` separates the requests that end within the horizon from the others
    with that AUC, at every horizon and in every population, and is calibrated in the long run.
    See `BlurredEnds`.

    Parameters
    ----------
    output_tokens : int64 array, shape (M,)
        Output lengths by id, at least 1: the column of the workload that is run.
    rng : numpy.random.Generator
        Draws z, once.
    error : float or None
        At least 0.
    auc : float or None
        In [0.5, 1). Exactly one of the two is given.

    Examples
    --------
    >>> requests = Requests.of(
    ...     ids=np.array([0, 1]), prompt_tokens=np.array([5, 5]), generated_tokens=np.array([0, 0])
    ... )
    >>> lengths = np.array([100, 1000])
    >>> oracle = NoisyOracle(output_tokens=lengths, rng=np.random.default_rng(0), error=0.3)
    >>> oracle.mean_remaining(requests, 10_000)
    array([104., 961.])
    """

    def __init__(
        self,
        *,
        output_tokens: Int64Array,
        rng: np.random.Generator,
        error: float | None = None,
        auc: float | None = None,
    ) -> None:
        if (error is None) == (auc is None):
            raise ConfigError(f"give either error or auc, got error={error} and auc={auc}")
        if error is not None and not 0.0 <= error < np.inf:
            raise ConfigError(f"error must be at least 0, got {error}")
        if auc is not None and not 0.5 <= auc < 1.0:
            raise ConfigError(f"auc must be at least 0.5 and less than 1, got {auc}")
        noise = rng.standard_normal(len(output_tokens))
        self._answers: Classifier
        if auc is not None:
            self._answers = BlurredEnds(output_tokens, noise, auc, Survival())
        elif error is not None:
            noisy = np.maximum(np.rint(output_tokens * np.exp(error * noise)), 1)
            self._answers = KnownLengths(noisy.astype(np.int64), Survival())

    def survival(self, requests: Requests, horizons: Int64Array) -> Float64Array:
        return self._answers.survival(requests, horizons)

    def p_finish(self, requests: Requests, horizon: int) -> Float64Array:
        return self._answers.p_finish(requests, horizon)

    def mean_remaining(self, requests: Requests, horizon: int) -> Float64Array:
        return self._answers.mean_remaining(requests, horizon)

    def learn(self, requests: Requests, since_tokens: Int64Array, has_ended: BoolArray) -> None:
        self._answers.learn(requests, since_tokens, has_ended)


class BlurredEnds:
    """Probabilities of an end as from a test of known sharpness.

    The test of a request for an end within h gives ``x = z + d`` if it comes and ``x = z`` if not,
    z normal and ``d = √2 Φ⁻¹(AUC)``; so x has that AUC (the binormal model). The answer is what
    follows from it by Bayes' rule::

        p / (1 - p) = π / (1 - π) · exp(d x - d² / 2),   π(h) = Σ min(D, h) / Σ D

    π is the share of requests that end within h among those found running in the long run. z is
    the same for all horizons, so p never falls with h. Age counts for nothing.

    Parameters
    ----------
    output_tokens : int64 array, shape (M,)
        D by id.
    noise : float64 array, shape (M,)
        z by id.
    auc : float
        In [0.5, 1).
    fallback : Classifier
        Learns along, and answers where the id is -1 or the age has reached the length.
    """

    def __init__(
        self, output_tokens: Int64Array, noise: Float64Array, auc: float, fallback: Classifier
    ) -> None:
        self._output_tokens = output_tokens
        self._noise = noise
        self._shift = sqrt(2.0) * NormalDist().inv_cdf(auc)
        self._fallback = fallback
        self._ascending = np.sort(output_tokens).astype(np.int64)
        self._tokens_below = np.concatenate([[0], np.cumsum(self._ascending)])

    def survival(self, requests: Requests, horizons: Int64Array) -> Float64Array:
        """See `Classifier.survival`."""
        remaining = lengths_of(requests, self._output_tokens) - requests.generated_tokens
        survival: Float64Array = 1.0 / (1.0 + self._odds(requests, remaining, horizons))
        is_unknown = remaining <= 0
        if is_unknown.any():
            rest = requests.select(is_unknown)
            survival[is_unknown] = self._fallback.survival(rest, horizons)
        return survival

    def p_finish(self, requests: Requests, horizon: int) -> Float64Array:
        """See `Classifier.p_finish`."""
        return 1.0 - self.survival(requests, np.array([checked_horizon(horizon)]))[:, 0]

    def mean_remaining(self, requests: Requests, horizon: int) -> Float64Array:
        """Return ``H - Σ_{h < H} p(h) / p(H)``; see `Classifier.mean_remaining`."""
        # From the longest output on, p is 1.
        num_steps = min(checked_horizon(horizon) - 1, int(self._ascending[-1]))
        steps = np.append(np.arange(1, num_steps + 1), horizon)
        p_finish = 1.0 - self.survival(requests, steps)
        before = p_finish[:, :-1].sum(axis=1) + (horizon - 1 - num_steps)
        last = np.maximum(p_finish[:, -1], np.finfo(np.float64).tiny)
        means: Float64Array = horizon - before / last
        means = np.clip(means, 1.0, horizon)
        is_unknown = lengths_of(requests, self._output_tokens) <= requests.generated_tokens
        if is_unknown.any():
            means[is_unknown] = self._fallback.mean_remaining(requests.select(is_unknown), horizon)
        return means

    def learn(self, requests: Requests, since_tokens: Int64Array, has_ended: BoolArray) -> None:
        """Teach the fallback."""
        self._fallback.learn(requests, since_tokens, has_ended)

    def _odds(
        self, requests: Requests, remaining: Int64Array, horizons: Int64Array
    ) -> Float64Array:
        """Return the odds of an end within each horizon, shape (N, K)."""
        num_within = np.searchsorted(self._ascending, horizons, side="right")
        num_beyond = len(self._ascending) - num_within
        tokens_within = self._tokens_below[num_within] + num_beyond * horizons
        with np.errstate(divide="ignore"):  # nobody outlives the longest: infinite odds
            prior = tokens_within / (self._tokens_below[-1] - tokens_within)
        z = self._noise[requests.ids][:, None]
        x = z + self._shift * (remaining[:, None] <= horizons)
        odds: Float64Array = prior * np.exp(self._shift * x - self._shift**2 / 2)
        return odds
