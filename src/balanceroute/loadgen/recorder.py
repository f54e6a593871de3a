"""What is kept of a run while it lasts, and what becomes of it afterwards."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balanceroute.loadgen.client import Outcome
from balanceroute.types import RequestRecords, RunRecords, Workload

NO_FAILURE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Requests that failed for the same cause.

    Attributes
    ----------
    cause : str
        Such as ``"HTTP 429"``, ``"timeout"`` or ``"connection lost"``.
    num_requests : int
        How many.
    example : str
        What was said of the first of them.
    """

    cause: str
    num_requests: int
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A run against a server.

    Attributes
    ----------
    records : RunRecords
        As the simulator writes them. A request arrives when it is sent; one that fails is as one
        that never came. Seconds are the wall's, or emulated ones if the steps of an emulated group
        are there.
    due_s : float64 array, shape (N,)
        When each request should have been sent, on the wall's clock; NaN in a closed loop.
    sent_s : float64 array, shape (N,)
        When each request was sent, on the wall's clock; NaN where it was not.
    late_s : float64 array, shape (n,)
        How much later the requests were sent that were sent, wall seconds; empty in a closed loop.
    lag_s : float64 array, shape (m,)
        How much later than asked the generator's own timers came, wall seconds.
    status : int32 array, shape (N,)
        HTTP status; 0 where there was none.
    failure : int32 array, shape (N,)
        Place in `failures`; -1 for none.
    failures : tuple of Failure
        The most frequent first.
    gap_s : float32 array, shape (k,)
        Time from one piece of a stream with tokens to the next, for pieces in the window.
    num_window_tokens : int
        Tokens that came in the window.
    num_sent, num_answered, num_failed, num_unfinished : int
        Requests; those unfinished were cut off when the run was interrupted.
    num_wrong_lengths : int
        Answers with other than the workload's output tokens.
    num_preemptions : int or None
        Preemptions of the group; None where its steps are not read.
    speedup : float
        Seconds of the records per second of the wall.
    concurrency : int or None
        Requests kept outstanding; None for an open loop.
    model : str
        Name of the model.
    is_interrupted : bool
        Whether the run was ended before its time.
    notes : tuple of str
        What a reader of the figures should know, one sentence each.
    """

    records: RunRecords
    due_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    late_s: NDArray[np.float64]
    lag_s: NDArray[np.float64]
    status: NDArray[np.int32]
    failure: NDArray[np.int32]
    failures: tuple[Failure, ...]
    gap_s: NDArray[np.float32]
    num_window_tokens: int
    num_sent: int
    num_answered: int
    num_failed: int
    num_unfinished: int
    num_wrong_lengths: int
    num_preemptions: int | None
    speedup: float
    concurrency: int | None
    model: str
    is_interrupted: bool
    notes: tuple[str, ...]


class Recorder:
    """Collects outcomes; times are on the client's clock, less the start of the run.

    Parameters
    ----------
    workload : Workload
        The requests.
    start_s : float
        Start of the run, on the client's clock.
    """

    def __init__(self, workload: Workload, start_s: float) -> None:
        num_requests = workload.num_requests
        self._wanted = workload.output_tokens
        self._start_s = start_s
        self.sent_s = np.full(num_requests, np.nan)
        self.first_s = np.full(num_requests, np.nan)
        self.finished_s = np.full(num_requests, np.nan)
        self.output_tokens = workload.output_tokens.astype(np.int32)
        self.prompt_tokens = workload.prompt_tokens.astype(np.int32)
        self.status = np.zeros(num_requests, np.int32)
        self.failure = np.full(num_requests, NO_FAILURE, np.int32)
        self.workers: dict[str, int] = {}
        self.worker = np.full(num_requests, -1, np.int32)
        self.num_answered = self.num_failed = self.num_unfinished = self.num_wrong_lengths = 0
        self._causes: dict[str, int] = {}
        self._examples: list[str] = []
        self._counts: list[int] = []
        # Of each stream the times of its pieces, as offsets from the first so that 4 bytes do.
        self._starts_s: list[float] = []
        self._offsets: list[NDArray[np.float32]] = []
        self._weights: list[NDArray[np.float32]] = []

    def add(self, outcome: Outcome) -> None:
        """Take what has become of a request."""
        row = outcome.row
        if outcome.sent_s == 0.0:
            return
        self.sent_s[row] = outcome.sent_s - self._start_s
        self.status[row] = outcome.status
        if outcome.worker:
            self.worker[row] = self.workers.setdefault(outcome.worker, len(self.workers))
        self._add_pieces(outcome)
        if outcome.has_failed:
            self._add_failure(outcome)
            return
        if outcome.piece_s:
            self.first_s[row] = outcome.piece_s[0] - self._start_s
        if outcome.ended_s == 0.0:
            self.num_unfinished += 1
            return
        # The last token, not the end of the answer, which has the usage and the end marker too.
        ended_s = outcome.piece_s[-1] if outcome.piece_s else outcome.ended_s
        self.finished_s[row] = ended_s - self._start_s
        self.num_answered += 1
        self.num_wrong_lengths += int(outcome.num_tokens != self._wanted[row])
        self.output_tokens[row] = outcome.num_tokens
        if outcome.prompt_tokens is not None:
            self.prompt_tokens[row] = outcome.prompt_tokens

    def ranked_failures(self) -> tuple[tuple[Failure, ...], NDArray[np.int32]]:
        """Return the failures, the most frequent first, and each request's place among them."""
        failures = [
            Failure(cause=cause, num_requests=num_requests, example=example)
            for cause, num_requests, example in zip(
                self._causes, self._counts, self._examples, strict=True
            )
        ]
        ranked = sorted(failures, key=lambda failure: -failure.num_requests)
        places = np.array([*map(ranked.index, failures), NO_FAILURE], np.int32)
        return tuple(ranked), places[self.failure]  # -1, for none, finds the last

    def pieces(self, begin_s: float, end_s: float) -> tuple[NDArray[np.float32], int]:
        """Return the gaps before the pieces that came in ``(begin_s, end_s]``, and their tokens.

        A stream whose pieces carry several tokens each without saying so is known to be longer only
        at its end; its pieces then count for so many more.
        """
        if not self._starts_s:
            return np.empty(0, np.float32), 0
        sizes = [len(offsets) for offsets in self._offsets]
        offsets = np.concatenate(self._offsets)
        firsts_s = np.repeat(self._starts_s, sizes)
        times_s = firsts_s + offsets
        inside = (times_s > begin_s) & (times_s <= end_s)
        num_tokens = float(np.sum(np.concatenate(self._weights), where=inside, dtype=np.float64))
        is_later = np.ones(len(offsets), np.bool_)
        is_later[np.cumsum([0, *sizes[:-1]])] = False
        gaps_s = np.diff(offsets, prepend=np.float32(0.0))
        return gaps_s[is_later & inside], round(num_tokens)

    def request_records(
        self, *, speedup: float, ranks: NDArray[np.int32], admitted_s: NDArray[np.float64]
    ) -> RequestRecords:
        """Return the requests, with times stretched by `speedup`; `admitted_s` has been already."""
        return RequestRecords(
            arrival_s=np.where(self.failure < 0, self.sent_s, np.nan) * speedup,
            admitted_s=admitted_s,
            first_token_s=self.first_s * speedup,
            finished_s=self.finished_s * speedup,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            rank=ranks,
            num_preemptions=np.zeros(len(self.sent_s), np.int32),
        )

    def ranks(self, known: tuple[str, ...]) -> NDArray[np.int32]:
        """Return each request's rank: its worker's place among those known, or in natural order."""
        names = sorted(self.workers, key=_natural)
        if set(names) <= set(known):
            names = list(known)
        place = {name: rank for rank, name in enumerate(names)}
        numbers = np.array([*(place[name] for name in self.workers), -1], np.int32)
        return numbers[self.worker]  # -1, for no worker, finds the last

    def _add_pieces(self, outcome: Outcome) -> None:
        piece_s, piece_tokens = outcome.piece_s, outcome.piece_tokens
        if not piece_s:
            if outcome.num_tokens == 0 or outcome.ended_s == 0.0:
                return
            # An answer that is not streamed has all of its tokens at its end.
            piece_s, piece_tokens = array("d", [outcome.ended_s]), array("I", [1])
        times_s = np.frombuffer(piece_s, np.float64)
        weights = np.frombuffer(piece_tokens, np.uint32).astype(np.float32)
        weights *= outcome.num_tokens / weights.sum()
        self._starts_s.append(times_s[0] - self._start_s)
        self._offsets.append((times_s - times_s[0]).astype(np.float32))
        self._weights.append(weights)

    def _add_failure(self, outcome: Outcome) -> None:
        self.num_failed += 1
        place = self._causes.setdefault(outcome.cause, len(self._causes))
        if place == len(self._counts):
            self._counts.append(0)
            self._examples.append(outcome.message)
        self._counts[place] += 1
        self.failure[outcome.row] = place


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key under which ``@9`` comes before ``@10``."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]
