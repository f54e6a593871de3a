"""Checked batches to one workload, in little more memory than the workload's own arrays."""

from __future__ import annotations

import shlex
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import TraceError
from balanceroute.types import Workload
from balanceroute.workload.arrivals import spread_ticks
from balanceroute.workload.layout import Layout
from balanceroute.workload.parse import Batch
from balanceroute.workload.prefixes import cached_prefixes


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
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._id_hashes: list[NDArray[np.int64]] = []
        self._block_ids: list[list[int]] = []  # per row; a row has dozens, and such files are small
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
        for name, values, dtype in (
            ("prompt_tokens", batch.prompt, np.int32),
            ("output_tokens", batch.output, np.int32),
            ("arrival_s", batch.arrival_s, np.float64),
            ("client_ids", batch.client, np.int32),
            ("max_tokens", batch.max_tokens, np.int32),
            ("prompt_hashes", batch.prompt_hash, np.int64),
            ("cached_tokens", batch.cached, np.int32),
        ):
            if values is not None:
                kept = values[keep].astype(dtype, copy=False)
                self._parts.setdefault(name, []).append(kept)
        if batch.block_ids is not None:
            self._block_ids += compress(batch.block_ids, keep)

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
        if not any(map(len, self._parts.get("prompt_tokens", ()))):
            raise self._nothing_left()
        columns: dict[str, Any] = {name: _join(parts) for name, parts in self._parts.items()}
        notes = self._notes_on_rows()
        arrival_s = columns.get("arrival_s")
        if arrival_s is None:
            notes.append("The file has no arrival times.")
        else:
            if self._is_sorted_later and np.any(arrival_s[1:] < arrival_s[:-1]):
                order = np.argsort(arrival_s, kind="stable")
                for name, values in columns.items():  # one by one, so that old ones go at once
                    columns[name] = values[order]
                if self._block_ids:
                    self._block_ids = [self._block_ids[row] for row in order]
                arrival_s = columns["arrival_s"]
                notes.append("Rows were sorted by arrival.")
            arrival_s -= arrival_s[0]
            if self._layout.has_ticks:
                notes += spread_ticks(arrival_s)
        workload = Workload(name=self._path.name, notes=tuple(notes), **columns)
        if not self._block_ids:
            return workload
        ids, block_tokens = self._block_ids, self._layout.block_tokens
        cached = cached_prefixes(ids, workload.prompt_tokens, block_tokens=block_tokens)
        return replace(workload, cached_tokens=cached, block_ids=ids, block_tokens=block_tokens)

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


def _join(parts: list[NDArray[Any]]) -> NDArray[Any]:
    whole: NDArray[Any] = np.concatenate(parts)
    parts.clear()
    return whole
