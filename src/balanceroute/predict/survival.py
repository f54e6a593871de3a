"""Life tables of output lengths, for everything or by tenant, prompt length and limit."""

from __future__ import annotations

from typing import Any, Literal, get_args

from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.predict.base import Requests
from balanceroute.predict.tables import ClassTables
from balanceroute.predict.upkeep import MAX_CLASSES, Arrays, check_count

By = Literal["class", "global"]

DEFAULT_MEMORY_REQUESTS = 50_000
DEFAULT_MAX_CLASSES = 1024


class Survival:
    """How long outputs of this class that got this far went on, so far.

    A life table per class: of the tokens at an age, the share that was the last. Censored and late
    observations count exactly. See docs/predict.md for the classes and the shrinkage.

    Parameters
    ----------
    by : {"class", "global"}
        Tell apart tenant, bucket of the prompt's length (four to an octave) and bucket of
        `max_tokens` (one to an octave), or nothing.
    memory : int
        Counts fade by a factor e in so many ended requests. At least 1.
    max_classes : int
        Classes at most, of all levels together; a class takes 6 kB. At least 1.

    Examples
    --------
    >>> import numpy as np
    >>> classifier = Survival(by="global")
    >>> outputs = np.array([2] * 300 + [3] * 100)
    >>> done = Requests.of(prompt_tokens=np.full(400, 9), generated_tokens=outputs)
    >>> classifier.learn(done, np.zeros(400, np.int64), np.full(400, True))
    >>> waiting = Requests.of(prompt_tokens=np.array([9]), generated_tokens=np.array([0]))
    >>> classifier.survival(waiting, np.array([1, 2, 3])).round(2)
    array([[0.99, 0.26, 0.01]])
    """

    def __init__(
        self,
        *,
        by: By = "class",
        memory: int = DEFAULT_MEMORY_REQUESTS,
        max_classes: int = DEFAULT_MAX_CLASSES,
    ) -> None:
        if by not in get_args(By):
            raise ConfigError(f"by must be one of {', '.join(get_args(By))}, got {by!r}")
        check_count("max_classes", max_classes, MAX_CLASSES)
        self.settings: dict[str, str | int] = {
            "by": by,
            "memory": memory,
            "max_classes": max_classes,
        }
        self._tables = ClassTables(memory=memory, capacity=max_classes, by_class=by == "class")

    def survival(self, requests: Requests, horizons: Int64Array) -> Float64Array:
        return self._tables.survival(requests, horizons)

    def p_finish(self, requests: Requests, horizon: int) -> Float64Array:
        return self._tables.p_finish(requests, horizon)

    def mean_remaining(self, requests: Requests, horizon: int) -> Float64Array:
        return self._tables.mean_remaining(requests, horizon)

    def learn(self, requests: Requests, since_tokens: Int64Array, has_ended: BoolArray) -> None:
        self._tables.learn(requests, since_tokens, has_ended)

    def end_probs(self) -> Float64Array:
        """Return the probability per age bucket that a token is the last, of all requests."""
        return self._tables.end_probs()

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that was learnt, for a file."""
        return self._tables.to_arrays()

    def fill_from_arrays(self, arrays: Arrays) -> None:
        """Take over what `to_arrays` gave; `ModelError` if it does not fit."""
        self._tables.fill_from_arrays(arrays)
