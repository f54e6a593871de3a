"""What a termination classifier is asked, and how it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.types import Workload

MAX_HORIZON_STEPS = 1_000_000_000  # longer than any output; ages plus horizons fit int64


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Requests whose end is asked for, or was seen; arrays are for reading only.

    Attributes
    ----------
    ids : int64 array, shape (N,)
        The owner's names, in simulations the rows of the workload; -1 where unknown.
    prompt_tokens : int64 array, shape (N,)
        Prompt lengths, at least 0.
    generated_tokens : int64 array, shape (N,)
        Ages: output tokens so far, 0 for a request that waits.
    client_ids : int64 array, shape (N,)
        Tenants; -1 where unknown.
    max_tokens : int64 array, shape (N,)
        The requests' own limits of output tokens; 0 where unknown.
    prompt_hashes : int64 array, shape (N,)
        Hashes of the whole prompts, equal for equal prompts; 0 where unknown.
    """

    ids: Int64Array
    prompt_tokens: Int64Array
    generated_tokens: Int64Array
    client_ids: Int64Array
    max_tokens: Int64Array
    prompt_hashes: Int64Array

    def __len__(self) -> int:
        return len(self.generated_tokens)

    @staticmethod
    def of(
        *,
        prompt_tokens: Int64Array,
        generated_tokens: Int64Array,
        ids: Int64Array | None = None,
        client_ids: Int64Array | None = None,
        max_tokens: Int64Array | None = None,
        prompt_hashes: Int64Array | None = None,
    ) -> Requests:
        """Return requests of which some columns are unknown.

        Examples
        --------
        >>> requests = Requests.of(
        ...     prompt_tokens=np.array([9, 5]), generated_tokens=np.array([0, 2])
        ... )
        >>> requests.client_ids, requests.max_tokens
        (array([-1, -1]), array([0, 0]))
        """
        unknown, none = np.full(len(prompt_tokens), -1), np.zeros(len(prompt_tokens), np.int64)
        return Requests(
            ids=unknown if ids is None else ids,
            prompt_tokens=prompt_tokens,
            generated_tokens=generated_tokens,
            client_ids=unknown if client_ids is None else client_ids,
            max_tokens=none if max_tokens is None else max_tokens,
            prompt_hashes=none if prompt_hashes is None else prompt_hashes,
        )

    def select(self, rows: Int64Array | BoolArray | slice) -> Requests:
        """Return some of the requests."""
        return Requests(
            ids=self.ids[rows],
            prompt_tokens=self.prompt_tokens[rows],
            generated_tokens=self.generated_tokens[rows],
            client_ids=self.client_ids[rows],
            max_tokens=self.max_tokens[rows],
            prompt_hashes=self.prompt_hashes[rows],
        )


class Classifier(Protocol):
    """Says which requests end within so many steps.

    A step gives each running request one token, so steps and output tokens are one unit. D is a
    request's output length, at least 1, and a its age. The same calls give the same answers, byte
    for byte.
    """

    def survival(self, requests: Requests, horizons: Int64Array) -> Float64Array:
        """Return the probability that each request outlives each horizon.

        Parameters
        ----------
        requests : Requests
            N requests that have not ended.
        horizons : int64 array, shape (K,)
            h, in steps, at least 0.

        Returns
        -------
        float64 array, shape (N, K)
            ``P(D > a + h | D > a)``, in [0, 1], 1 at h = 0 and never rising with h.
        """
        ...

    def p_finish(self, requests: Requests, horizon: int) -> Float64Array:
        """Return the probability that each request ends within `horizon` steps (at least 1).

        Returns
        -------
        float64 array, shape (N,)
            ``P(D <= a + H | D > a)``, in [0, 1].
        """
        ...

    def mean_remaining(self, requests: Requests, horizon: int) -> Float64Array:
        """Return the mean steps to the end of those that end within `horizon` (at least 1).

        Returns
        -------
        float64 array, shape (N,)
            ``E[D - a | a < D <= a + H]``, in [1, H]; H where no end within H is possible.
        """
        ...

    def learn(self, requests: Requests, since_tokens: Int64Array, has_ended: BoolArray) -> None:
        """Take in what was seen of some requests.

        A request may be reported in pieces (0 to 10, then 10 to 25 and ended); the pieces add up
        to the whole. Requests that still run, or that a client has cut off, count with the tokens
        that they have: leaving them out would make outputs look shorter than they are.

        Parameters
        ----------
        requests : Requests
            With the age up to which each was watched.
        since_tokens : int64 array, shape (N,)
            The age from which it was watched, in [0, age].
        has_ended : bool array, shape (N,)
            Whether its age is its output length.
        """
        ...


def expected_steps(p_finish: Float64Array, mean_steps: Float64Array, horizon: int) -> Float64Array:
    """Return the mean steps until a request ends or the horizon does.

    ``ĉ = E[min(D - a, H) | D > a] = (1 - p) · H + p · μ``

    Parameters
    ----------
    p_finish : float64 array, shape (N,)
        p, the probability to end within the horizon.
    mean_steps : float64 array, shape (N,)
        μ, the mean steps to the end of those that do.
    horizon : int
        H, in steps.

    Returns
    -------
    float64 array, shape (N,)
        ĉ, in [1, H].

    Examples
    --------
    >>> expected_steps(np.array([0.0, 0.25, 1.0]), np.array([80.0, 40.0, 1.0]), 80)
    array([80., 70.,  1.])
    """
    steps: Float64Array = (1.0 - p_finish) * horizon + p_finish * mean_steps
    return steps


def checked_horizon(horizon: int) -> int:
    """Return the horizon, or raise `ConfigError` unless it is in 1..`MAX_HORIZON_STEPS`."""
    if horizon < 1:
        raise ConfigError(f"horizon must be at least 1 step, got {horizon}")
    if horizon > MAX_HORIZON_STEPS:
        raise ConfigError(f"horizon must be at most {MAX_HORIZON_STEPS:,} steps, got {horizon:,}")
    return horizon


def requests_of(workload: Workload, rows: Int64Array, ages: Int64Array) -> Requests:
    """Return the requests in some rows of a workload, at the ages given.

    Examples
    --------
    >>> lengths = np.array([5, 6, 7], np.int32)
    >>> workload = Workload(name="three", prompt_tokens=lengths, output_tokens=2 * lengths)
    >>> requests = requests_of(workload, np.array([2, 0]), np.array([3, 0]))
    >>> requests.ids, requests.prompt_tokens, requests.client_ids
    (array([2, 0]), array([7, 5]), array([-1, -1]))
    """

    def column(values: NDArray[np.int32] | NDArray[np.int64] | None) -> Int64Array | None:
        return None if values is None else values[rows].astype(np.int64)

    return Requests.of(
        ids=rows,
        prompt_tokens=workload.prompt_tokens[rows].astype(np.int64),
        generated_tokens=ages,
        client_ids=column(workload.client_ids),
        max_tokens=column(workload.max_tokens),
        prompt_hashes=column(workload.prompt_hashes),
    )
