"""Classifiers that know the output lengths, for bounds on what prediction can be worth."""

from __future__ import annotations

import numpy as np

from balanceroute.errors import ConfigError
from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.predict.base import Classifier, Requests, checked_horizon
from balanceroute.predict.survival import Survival


def lengths_of(requests: Requests, output_tokens: Int64Array) -> Int64Array:
    """Return the output lengths of requests by their ids, and 0 where the id is -1.

    Examples
    --------
    >>> requests = Requests.of(
    ...     ids=np.array([1, -1]), prompt_tokens=np.array([5, 5]), generated_tokens=np.array([0, 0])
    ... )
    >>> lengths_of(requests, np.array([30, 40]))
    array([40,  0])
    """
    ids = requests.ids
    if len(ids) and (ids.min() < -1 or ids.max() >= len(output_tokens)):
        raise ConfigError(
            f"ids must be in -1..{len(output_tokens) - 1}, the rows of the workload whose lengths "
            f"the oracle was given; got {ids.min()}..{ids.max()}"
        )
    lengths: Int64Array = np.where(ids < 0, 0, output_tokens[ids])
    return lengths


class KnownLengths:
    """Answers by given lengths, and by a fallback for requests that have outlived theirs.

    Parameters
    ----------
    output_tokens : int64 array, shape (M,)
        Lengths by id.
    fallback : Classifier
        Learns along, and answers where the id is -1 or the age has reached the length.
    """

    def __init__(self, output_tokens: Int64Array, fallback: Classifier) -> None:
        self._output_tokens = output_tokens
        self._fallback = fallback

    def survival(self, requests: Requests, horizons: Int64Array) -> Float64Array:
        """Return 1 or 0; see `Classifier.survival`."""
        remaining, is_unknown = self._remaining(requests)
        survival = (remaining[:, None] > horizons).astype(np.float64)
        if is_unknown.any():
            rest = requests.select(is_unknown)
            survival[is_unknown] = self._fallback.survival(rest, horizons)
        return survival

    def p_finish(self, requests: Requests, horizon: int) -> Float64Array:
        """Return 1 or 0; see `Classifier.p_finish`."""
        return 1.0 - self.survival(requests, np.array([checked_horizon(horizon)]))[:, 0]

    def mean_remaining(self, requests: Requests, horizon: int) -> Float64Array:
        """Return the remaining steps, at most `horizon`; see `Classifier.mean_remaining`."""
        remaining, is_unknown = self._remaining(requests)
        means = np.minimum(remaining, checked_horizon(horizon)).astype(np.float64)
        if is_unknown.any():
            means[is_unknown] = self._fallback.mean_remaining(requests.select(is_unknown), horizon)
        return means

    def learn(self, requests: Requests, since_tokens: Int64Array, has_ended: BoolArray) -> None:
        """Teach the fallback."""
        self._fallback.learn(requests, since_tokens, has_ended)

    def _remaining(self, requests: Requests) -> tuple[Int64Array, BoolArray]:
        remaining = lengths_of(requests, self._output_tokens) - requests.generated_tokens
        return remaining, remaining <= 0


class Oracle(KnownLengths):
    """The truth: survival is 1 or 0.

    Parameters
    ----------
    output_tokens : int64 array, shape (M,)
        Output lengths by id, at least 1: the column of the workload that is run.

    Examples
    --------
    >>> requests = Requests.of(
    ...     ids=np.array([0, 1]), prompt_tokens=np.array([5, 5]), generated_tokens=np.array([0, 10])
    ... )
    >>> oracle = Oracle(output_tokens=np.array([30, 12]))
    >>> oracle.survival(requests, np.array([1, 2, 29, 30]))
    array([[1., 1., 1., 0.],
           [1., 0., 0., 0.]])
    >>> oracle.mean_remaining(requests, 20)
    array([20.,  2.])
    """

    def __init__(self, *, output_tokens: Int64Array) -> None:
        super().__init__(output_tokens, Survival())
