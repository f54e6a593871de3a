"""Life tables by prompt, for workloads that sample one prompt many times."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.predict.base import Requests
from balanceroute.predict.survival import DEFAULT_MAX_CLASSES, DEFAULT_MEMORY_REQUESTS
from balanceroute.predict.tables import ClassTables
from balanceroute.predict.upkeep import MAX_CLASSES, Arrays, check_count

DEFAULT_MAX_PROMPTS = 4096


class ExactMatch:
    """How long other answers to this very prompt went on, leaning on `Survival` by class.

    The first answers of a prompt move its expectation off that of its class; with some ten of
    them its own lengths prevail. A prompt that was never seen, or has no hash, goes by its class.

    Parameters
    ----------
    memory, max_classes : int
        As for `Survival`.
    max_prompts : int
        Prompts at most, in rows shared with the classes; those not seen for longest are forgotten
        first. A prompt takes 6 kB. At least 1.

    Examples
    --------
    >>> import numpy as np
    >>> classifier = ExactMatch()
    >>> answers = Requests.of(
    ...     prompt_tokens=np.full(8, 100),
    ...     generated_tokens=np.array([20, 20, 20, 20, 900, 900, 900, 900]),
    ...     prompt_hashes=np.array([7, 7, 7, 7, 8, 8, 8, 8]),
    ... )
    >>> classifier.learn(answers, np.zeros(8, np.int64), np.full(8, True))
    >>> waiting = Requests.of(
    ...     prompt_tokens=np.full(3, 100),
    ...     generated_tokens=np.zeros(3, np.int64),
    ...     prompt_hashes=np.array([7, 8, 9]),
    ... )
    >>> classifier.p_finish(waiting, 40).round(2)
    array([0.84, 0.17, 0.32])
    """

    def __init__(
        self,
        *,
        memory: int = DEFAULT_MEMORY_REQUESTS,
        max_classes: int = DEFAULT_MAX_CLASSES,
        max_prompts: int = DEFAULT_MAX_PROMPTS,
    ) -> None:
        for name, value in (("max_classes", max_classes), ("max_prompts", max_prompts)):
            check_count(name, value, MAX_CLASSES)
        self.settings: dict[str, str | int] = {
            "memory": memory,
            "max_classes": max_classes,
            "max_prompts": max_prompts,
        }
        self._tables = ClassTables(
            memory=memory, capacity=max_classes + max_prompts, by_prompt=True
        )

    def survival(self, requests: Requests, horizons: Int64Array) -> Float64Array:
        return self._tables.survival(requests, horizons)

    def p_finish(self, requests: Requests, horizon: int) -> Float64Array:
        return self._tables.p_finish(requests, horizon)

    def mean_remaining(self, requests: Requests, horizon: int) -> Float64Array:
        return self._tables.mean_remaining(requests, horizon)

    def learn(self, requests: Requests, since_tokens: Int64Array, has_ended: BoolArray) -> None:
        self._tables.learn(requests, since_tokens, has_ended)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that was learnt, for a file."""
        return self._tables.to_arrays()

    def fill_from_arrays(self, arrays: Arrays) -> None:
        """Take over what `to_arrays` gave; `ModelError` if it does not fit."""
        self._tables.fill_from_arrays(arrays)
