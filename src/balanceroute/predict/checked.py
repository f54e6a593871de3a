"""A classifier whose impossible answers are replaced, so that a plan never rests on them."""

from __future__ import annotations

import logging

import numpy as np

from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.kernels.hazard import mark_implausible
from balanceroute.predict.base import Classifier, Requests, checked_horizon
from balanceroute.predict.survival import Survival

logger = logging.getLogger(__name__)

ANY_HORIZON = np.zeros(1, np.int64)  # where there is only one


class Checked:
    """Answers as the classifier does where that is possible, and as `Survival` elsewhere.

    An answer of the wrong shape is replaced whole. Of others, the requests are replaced with a
    value that is NaN or out of range, or with a survival that rises with the horizon. The first
    time, a warning is logged; `num_replaced` goes on counting.

    Parameters
    ----------
    classifier : Classifier
        Whose answers are checked.
    fallback : Classifier or None
        Learns along and answers instead; None takes `Survival` with its defaults.

    Attributes
    ----------
    num_replaced : int
        Answers, one per request asked for, that were replaced.
    """

    def __init__(self, classifier: Classifier, fallback: Classifier | None = None) -> None:
        self.classifier = classifier
        self.num_replaced = 0
        self._fallback = Survival() if fallback is None else fallback

    def survival(self, requests: Requests, horizons: Int64Array) -> Float64Array:
        """Return what the classifier says, checked; see `Classifier.survival`."""
        shape = (len(requests), len(horizons))
        answer = as_floats(self.classifier.survival(requests, horizons), shape)
        is_bad = np.empty(len(requests), np.bool_)
        ordered = np.ascontiguousarray(horizons, np.int64)
        num_bad = mark_implausible(answer, ordered, 0.0, 1.0, is_bad)
        if num_bad:
            self._report(num_bad, len(is_bad), "survival")
            answer[is_bad] = self._fallback.survival(requests.select(is_bad), horizons)
        return answer

    def p_finish(self, requests: Requests, horizon: int) -> Float64Array:
        """Return what the classifier says, checked; see `Classifier.p_finish`."""
        answer = as_floats(self.classifier.p_finish(requests, horizon), (len(requests),))
        is_bad = np.empty(len(requests), np.bool_)
        num_bad = mark_implausible(answer[:, None], ANY_HORIZON, 0.0, 1.0, is_bad)
        if num_bad:
            self._report(num_bad, len(is_bad), "p_finish")
            answer[is_bad] = self._fallback.p_finish(requests.select(is_bad), horizon)
        return answer

    def mean_remaining(self, requests: Requests, horizon: int) -> Float64Array:
        """Return what the classifier says, checked; see `Classifier.mean_remaining`."""
        most = float(checked_horizon(horizon))
        answer = as_floats(self.classifier.mean_remaining(requests, horizon), (len(requests),))
        is_bad = np.empty(len(requests), np.bool_)
        num_bad = mark_implausible(answer[:, None], ANY_HORIZON, 1.0, most, is_bad)
        if num_bad:
            self._report(num_bad, len(is_bad), "mean_remaining")
            answer[is_bad] = self._fallback.mean_remaining(requests.select(is_bad), horizon)
        return answer

    def learn(self, requests: Requests, since_tokens: Int64Array, has_ended: BoolArray) -> None:
        """Teach both."""
        self.classifier.learn(requests, since_tokens, has_ended)
        self._fallback.learn(requests, since_tokens, has_ended)

    def _report(self, num_bad: int, num_asked: int, method: str) -> None:
        """Count answers that are replaced; the first time, say so."""
        if not self.num_replaced:
            logger.warning(
                "%s of the classifier %s gave %d of %d requests an impossible answer (NaN, out of "
                "range, rising with the horizon, or of the wrong shape); survival by class answers "
                "for them. Further cases are counted and not reported",
                method,
                type(self.classifier).__name__,
                num_bad,
                num_asked,
            )
        self.num_replaced += num_bad


def as_floats(answer: object, shape: tuple[int, ...]) -> Float64Array:
    """Return an answer as an array of the shape asked for, all NaN if it has another.

    Examples
    --------
    >>> as_floats([1, 0.5], (2,)), as_floats([[1]], (2,)), as_floats("no", (1,))
    (array([1. , 0.5]), array([nan, nan]), array([nan]))
    """
    try:
        floats = np.array(answer, np.float64, order="C")
    except (TypeError, ValueError):
        return np.full(shape, np.nan)
    return floats if floats.shape == shape else np.full(shape, np.nan)
