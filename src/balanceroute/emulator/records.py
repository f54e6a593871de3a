"""Figures of the steps that a group has made, in the columns of `StepRecords`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balanceroute.types import StepRecords

COLUMNS = tuple(field.name for field in fields(StepRecords))
FIRST_ROWS = 4096


def _kind(column: str) -> type[np.generic]:
    return np.float64 if column.endswith("_s") or column == "sum_usage_pow" else np.int64


class StepLog:
    """Rows of `StepRecords`, of which the oldest are dropped when there are too many.

    Parameters
    ----------
    max_rows : int
        Steps that are kept at most, at least 2; half of them are dropped at once.

    Examples
    --------
    >>> log = StepLog(max_rows=2)
    >>> for step in range(3):
    ...     log.append({"start_s": step / 10, "num_tokens": step})
    >>> first, records = log.since(0)
    >>> first, records.num_tokens.tolist()
    (1, [1, 2])
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._first = 0  # step in row 0
        self._size = 0
        rows = min(FIRST_ROWS, max_rows)
        self._columns: dict[str, NDArray[Any]] = {
            name: np.zeros(rows, _kind(name)) for name in COLUMNS
        }

    @property
    def num_steps(self) -> int:
        """Return how many steps have been logged, dropped ones included."""
        return self._first + self._size

    def append(self, row: dict[str, float]) -> None:
        """Add a step; columns that are left out are 0."""
        if self._size == len(self._columns["start_s"]):
            self._make_room()
        for name, value in row.items():
            self._columns[name][self._size] = value
        self._size += 1

    def amend(self, row: dict[str, float]) -> None:
        """Fill in columns of the step logged last."""
        for name, value in row.items():
            self._columns[name][self._size - 1] = value

    def since(self, step: int, limit: int | None = None) -> tuple[int, StepRecords]:
        """Return records from `step` on, `limit` at most, and the step that the first is of."""
        begin = min(max(0, step - self._first), self._size)
        end = self._size if limit is None else min(self._size, begin + limit)
        columns = {name: values[begin:end].copy() for name, values in self._columns.items()}
        return self._first + begin, StepRecords(**columns)

    def _make_room(self) -> None:
        num_rows = self._size
        if num_rows < self._max_rows:
            more = min(num_rows, self._max_rows - num_rows)
            for name, values in self._columns.items():
                self._columns[name] = np.concatenate([values, np.zeros(more, values.dtype)])
            return
        num_dropped = num_rows // 2
        for values in self._columns.values():
            values[: num_rows - num_dropped] = values[num_dropped:]
            values[num_rows - num_dropped :] = 0
        self._first += num_dropped
        self._size -= num_dropped
