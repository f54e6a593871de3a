"""Checked batches to one workload, in little more memory than the workload's own arrays."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import TraceError
from balanceroute.types import Workload
from balanceroute.workload.arrivals import spread_ticks
from balanceroute.workload.formats import Layout
from balanceroute.workload.parse import Batch

Scalar = TypeVar("Scalar", np.int32, np.float64)


class Collector:
    """Gathers the rows of one file.

    Parameters
    ----------
    path : Path
        The file, for names and messages.
    layout : Layout
        Where the file keeps what.
    is_sorted_later : bool
        Rows may come in any order and are sorted at the end.
    """

    def __init__(self, *, path: Path, layout: Layout, is_sorted_later: bool) -> None:
        self._path = path
        self._layout = layout
        self._is_sorted_later = is_sorted_later
        self._prompts: list[NDArray[np.int32]] = []
        self._outputs: list[NDArray[np.int32]] = []
        self._arrivals: list[NDArray[np.float64]] = []
        self._clients: list[NDArray[np.int32]] = []
        self._id_hashes: list[NDArray[np.int64]] = []
        self._num_without_output = 0
        self._num_without_prompt = 0
        self.num_rows = 0
        self.first_s: float | None = None
        self.last_s = -np.inf

    @property
    def sort_command(self) -> str | None:
        """Return the command that sorts the file, or None if any order is allowed."""
        if self._is_sorted_later:
            return None
        return f"balanceroute trace convert --sort {shlex.quote(str(self._path))} sorted.csv"

    def add(self, batch: Batch) -> None:
        """Take the rows of a batch that breaks no rule."""
        self.num_rows += len(batch.prompt)
        if batch.arrival_s is not None and len(batch.arrival_s):
            if self.first_s is None:
                self.first_s = float(batch.arrival_s[0])
            self.last_s = float(batch.arrival_s[-1])
        if batch.id_hashes is not None:
            self._id_hashes.append(batch.id_hashes)
        has_output = batch.output > 0
        keep = has_output & (batch.prompt > 0)
        self._num_without_output += len(keep) - int(has_output.sum())
        self._num_without_prompt += int(has_output.sum()) - int(keep.sum())
        self._prompts.append(batch.prompt[keep].astype(np.int32))
        self._outputs.append(batch.output[keep].astype(np.int32))
        if batch.arrival_s is not None:
            self._arrivals.append(batch.arrival_s[keep])
        if batch.client is not None:
            self._clients.append(batch.client[keep].astype(np.int32))

    def may_have_duplicate_ids(self) -> bool:
        """Return whether two requests have ids of the same hash."""
        hashes = np.sort(np.concatenate(self._id_hashes or [np.empty(0, np.int64)]))
        self._id_hashes.clear()
        return bool(np.any((hashes[1:] == hashes[:-1]) & (hashes[1:] != 0)))

    def finish(self) -> Workload:
        """Return the workload; the collector is empty afterwards.

        Raises
        ------
        TraceError
            If no row is left.
        """
        if not any(map(len, self._prompts)):
            raise self._nothing_left()
        prompt_tokens, output_tokens = _join(self._prompts), _join(self._outputs)
        notes = self._notes_on_rows()
        arrival_s = _join(self._arrivals) if self._layout.arrival else None
        client_ids = _join(self._clients) if self._layout.client else None
        if arrival_s is None:
            notes.append("The file has no arrival times.")
        else:
            if self._is_sorted_later and np.any(arrival_s[1:] < arrival_s[:-1]):
                order = np.argsort(arrival_s, kind="stable")
                arrival_s = arrival_s[order]
                prompt_tokens, output_tokens = prompt_tokens[order], output_tokens[order]
                client_ids = None if client_ids is None else client_ids[order]
                notes.append("Rows were sorted by arrival.")
            arrival_s -= arrival_s[0]
            if self._layout.has_ticks:
                notes += spread_ticks(arrival_s)
        return Workload(
            name=self._path.name,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            arrival_s=arrival_s,
            client_ids=client_ids,
            notes=tuple(notes),
        )

    def _nothing_left(self) -> TraceError:
        if self.num_rows:
            what = f"none of its {self.num_rows:,} rows has both prompt and output tokens"
        else:
            what = "a header but no rows"
        return TraceError(f"{self._path}: {what}; give at least one request")

    def _notes_on_rows(self) -> list[str]:
        counts = {"output": self._num_without_output, "prompt": self._num_without_prompt}
        return [
            f"{count:,} {'row' if count == 1 else 'rows'} without {what} tokens left out."
            for what, count in counts.items()
            if count
        ]


def _join(parts: list[NDArray[Scalar]]) -> NDArray[Scalar]:
    whole = np.concatenate(parts)
    parts.clear()
    return whole
