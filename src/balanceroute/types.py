"""Frozen records that pass between the parts: workloads in, records out.

The simulator (and later a live router) writes the records; metrics and report read nothing else.
Times are seconds from the start of the run. `N` requests, `T` decode steps, `G` ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORKLOAD_COLUMNS = (
    "prompt_tokens",
    "output_tokens",
    "arrival_s",
    "client_ids",
    "max_tokens",
    "prompt_hashes",
    "cached_tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests in order of arrival.

    Attributes
    ----------
    name : str
        Preset or file name.
    prompt_tokens, output_tokens : int32 array, shape (N,)
        At least 1 each.
    arrival_s : float64 array, shape (N,), or None
        Ascending, the first is 0. None: the source publishes no arrival times.
    client_ids : int32 array, shape (N,), or None
        Anonymous tenant of each request.
    max_tokens : int32 array, shape (N,), or None
        The request's own limit of output tokens, no less than its output; 0 where unknown.
    prompt_hashes : int64 array, shape (N,), or None
        Hash of the whole prompt, equal for equal prompts; 0 where unknown.
    cached_tokens : int32 array, shape (N,), or None
        Leading prompt tokens that a prefix cache has, less than the prompt; 0 where unknown.
    block_ids : sequence of sequences of int, length N, or None
        Ids of each prompt's blocks, in order; equal ids stand for equal prefixes up to that block.
    block_tokens : int
        Tokens of a block; 0 without `block_ids`.
    notes : tuple of str
        What the reader left out or changed, one sentence each, with counts.
    """

    name: str
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    arrival_s: NDArray[np.float64] | None = None
    client_ids: NDArray[np.int32] | None = None
    max_tokens: NDArray[np.int32] | None = None
    prompt_hashes: NDArray[np.int64] | None = None
    cached_tokens: NDArray[np.int32] | None = None
    block_ids: Sequence[Sequence[int]] | None = None
    block_tokens: int = 0
    notes: tuple[str, ...] = ()

    @property
    def num_requests(self) -> int:
        """Return N."""
        return len(self.prompt_tokens)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that there are, by the names of their attributes."""
        columns = {name: getattr(self, name) for name in WORKLOAD_COLUMNS}
        return {name: values for name, values in columns.items() if values is not None}

    def select(self, rows: slice | NDArray[np.integer]) -> Workload:
        """Return the requests `rows`, with all that is known of them.

        Examples
        --------
        >>> lengths = np.array([5, 6, 7], np.int32)
        >>> workload = Workload(name="three", prompt_tokens=lengths, output_tokens=2 * lengths)
        >>> workload.select(slice(2)).output_tokens
        array([10, 12], dtype=int32)
        """
        columns: dict[str, Any] = {name: its[rows] for name, its in self.columns.items()}
        if self.block_ids is None:
            return Workload(name=self.name, notes=self.notes, **columns)
        ids = [self.block_ids[row] for row in np.arange(self.num_requests)[rows]]
        return replace(self, block_ids=ids, **columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecords:
    """One row per decode step, taken after admission unless the name says otherwise.

    Attributes
    ----------
    start_s, duration_s : float64 array, shape (T,)
        When the step began and how long the slowest rank made it last.
    max_load_tokens, min_load_tokens, sum_load_tokens : int64 array, shape (T,)
        Largest, smallest and total resident KV tokens over the ranks.
    refill_max_load_tokens, refill_sum_load_tokens : int64 array, shape (T,)
        The same after the step's completions, before the slots are refilled.
    max_work_s, mean_work_s : float64 array, shape (T,)
        The part of the step that depends on load, for the slowest rank and averaged over ranks;
        ``duration_s - max_work_s`` is the constant part. Work that the ranks share is in both.
    sum_usage_pow : float64 array, shape (T,)
        Sum over ranks of ``(work_g / max work) ** 0.7``, for the energy model.
    num_tokens : int64 array, shape (T,)
        Output tokens generated in the step.
    num_running : int64 array, shape (T,)
        Requests on a rank during the step.
    num_waiting : int64 array, shape (T,)
        Requests waiting in the ranks' own queues (not those in the router's pool).
    """

    start_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    max_load_tokens: NDArray[np.int64]
    min_load_tokens: NDArray[np.int64]
    sum_load_tokens: NDArray[np.int64]
    refill_max_load_tokens: NDArray[np.int64]
    refill_sum_load_tokens: NDArray[np.int64]
    max_work_s: NDArray[np.float64]
    mean_work_s: NDArray[np.float64]
    sum_usage_pow: NDArray[np.float64]
    num_tokens: NDArray[np.int64]
    num_running: NDArray[np.int64]
    num_waiting: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecords:
    """One row per request of the workload; NaN where something has not happened.

    Attributes
    ----------
    arrival_s : float64 array, shape (N,)
        When the router got the request; NaN for requests never reached.
    admitted_s : float64 array, shape (N,)
        Start of the first step in which the request was on a rank.
    first_token_s, finished_s : float64 array, shape (N,)
        End of the step that gave the first and the last output token.
    prompt_tokens, output_tokens : int32 array, shape (N,)
        Lengths.
    rank : int32 array, shape (N,)
        Rank it was placed on; -1 while unplaced.
    num_preemptions : int32 array, shape (N,)
        How often the rank threw it out for lack of KV tokens.
    """

    arrival_s: NDArray[np.float64]
    admitted_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    finished_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    rank: NDArray[np.int32]
    num_preemptions: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSamples:
    """Load per rank at evenly spaced steps, for plots.

    Attributes
    ----------
    time_s : float64 array, shape (S,)
        Start of each sampled step.
    load_tokens : int64 array, shape (S, G)
        Resident KV tokens of each rank after admission.
    """

    time_s: NDArray[np.float64]
    load_tokens: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecords:
    """Everything one run leaves behind.

    Attributes
    ----------
    policy : str
        The policy as the user wrote it, parameters included.
    seed : int
        Seed of the run.
    num_ranks : int
        Ranks that share a barrier: G, or 1 where each rank steps by itself; a row of `steps` is a
        step of so many ranks.
    binding : str
        ``"pooled"`` or ``"immediate"``.
    steps, requests, samples :
        The records.
    window_s : tuple of float
        Step figures count steps that start in ``[window_s[0], window_s[1])``; waits count requests
        admitted in it, TPOT counts requests finished in it, and requests still waiting at its end
        count for the longest wait only.
    decision_ns : int64 array, shape (P,)
        Wall time of each call of the policy, nanoseconds.
    wall_s : float
        Wall time of the run, seconds, without reading the workload and without compilation.
    """

    policy: str
    seed: int
    num_ranks: int
    binding: str
    steps: StepRecords
    requests: RequestRecords
    samples: LoadSamples
    window_s: tuple[float, float]
    decision_ns: NDArray[np.int64]
    wall_s: float
