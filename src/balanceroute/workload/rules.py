"""What a row may hold: each rule is one comparison over a batch and a sentence for one value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balanceroute.workload.layout import Layout
from balanceroute.workload.parse import Batch

MAX_TOKENS = 100_000_000  # a thousand times the longest published context; int32 holds it
MAX_ARRIVAL_S = 1e11  # year 5138 in seconds from 1970; more means milliseconds or microseconds
MAX_SPAN_S = 10 * 365.25 * 86_400.0  # no public trace is longer than seven months
MAX_CLIENT = 2**31 - 1
TOKENS_CURE = f"allowed are 0 to {MAX_TOKENS:,}; correct the row or take it out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The first row of a batch that breaks a rule.

    Attributes
    ----------
    row : int
        Index in the batch.
    column : str
        The offending column.
    problem : str
        What is wrong with the value.
    cure : str
        What to do about it.
    """

    row: int
    column: str
    problem: str
    cure: str


def find_fault(
    batch: Batch, layout: Layout, *, last_s: float, first_s: float | None, sort_command: str | None
) -> Fault | None:
    """Return the first row that breaks a rule, or None.

    Parameters
    ----------
    batch : Batch
        Rows as read.
    layout : Layout
        Names of the columns.
    last_s : float
        Arrival of the row before the batch; -inf at the start of a file.
    first_s : float or None
        Arrival of the file's first row; None at the start of a file.
    sort_command : str or None
        The command that puts the rows in order, for the message; None allows any order.
    """
    faults = [
        *_token_faults(batch.prompt, layout.prompt),
        *_token_faults(batch.output, layout.output),
    ]
    if batch.client is not None and layout.client is not None:
        faults += _client_faults(batch.client, layout.client)
    if batch.max_tokens is not None and layout.max_tokens is not None:
        faults += _token_faults(batch.max_tokens, layout.max_tokens)
        faults += _limit_faults(batch.max_tokens, batch.output, layout.max_tokens)
    if batch.cached is not None and layout.cached is not None:
        faults += _token_faults(batch.cached, layout.cached)
        faults += _cached_faults(batch.cached, batch.prompt, layout.cached)
    if batch.arrival_s is not None and layout.arrival is not None and len(batch.arrival_s):
        first = float(batch.arrival_s[0]) if first_s is None else first_s
        faults += _arrival_faults(batch.arrival_s, layout, first)
        if sort_command is not None:
            faults += _order_faults(batch.arrival_s, layout.arrival, last_s, sort_command)
    return min(faults, key=lambda fault: fault.row, default=None)


def _first_false(good: NDArray[np.bool_]) -> int | None:
    return None if good.all() else int(np.argmin(good))


def _token_faults(tokens: NDArray[np.float64], column: str) -> Iterator[Fault]:
    good = (tokens >= 0) & (tokens <= MAX_TOKENS) & (tokens == np.floor(tokens))
    row = _first_false(good)
    if row is None:
        return
    value = float(tokens[row])
    if math.isnan(value):
        problem = "missing or not a number"
    elif value < 0:
        problem = "negative"
    elif value > MAX_TOKENS:
        problem = "too large"
    else:
        problem = "not a whole number"
    yield Fault(row=row, column=column, problem=problem, cure=TOKENS_CURE)


def _client_faults(clients: NDArray[np.float64], column: str) -> Iterator[Fault]:
    good = (clients >= 0) & (clients <= MAX_CLIENT) & (clients == np.floor(clients))
    row = _first_false(good)
    if row is not None:
        cure = f"number the clients from 0 to {MAX_CLIENT}, or rename the column"
        yield Fault(row=row, column=column, problem="not a client number", cure=cure)


def _limit_faults(
    max_tokens: NDArray[np.float64], output: NDArray[np.float64], column: str
) -> Iterator[Fault]:
    row = _first_false(~((max_tokens > 0) & (max_tokens < output)))
    if row is not None:
        problem = f"less than the row's {output[row]:.0f} output tokens"
        cure = "correct the row, or write 0 for a limit that is not known"
        yield Fault(row=row, column=column, problem=problem, cure=cure)


def _cached_faults(
    cached: NDArray[np.float64], prompt: NDArray[np.float64], column: str
) -> Iterator[Fault]:
    row = _first_false(~((cached > 0) & (cached >= prompt)))
    if row is not None:
        problem = f"not less than the row's {prompt[row]:.0f} prompt tokens"
        cure = "at least one token is computed, so correct the row"
        yield Fault(row=row, column=column, problem=problem, cure=cure)


def _arrival_faults(
    arrival_s: NDArray[np.float64], layout: Layout, first_s: float
) -> Iterator[Fault]:
    column = layout.arrival or ""
    lowest = -np.inf if layout.is_date else 0.0  # dates are relative to the first row's second
    row = _first_false((arrival_s >= lowest) & (arrival_s <= MAX_ARRIVAL_S))
    if row is not None:
        value = float(arrival_s[row])
        if math.isnan(value):
            problem = "missing or not a number"
        elif value < 0:
            problem = "negative"
        else:
            problem = f"over {MAX_ARRIVAL_S:.0e} seconds"
        cure = "allowed are seconds from 0; call a column of milliseconds timestamp_ms"
        yield Fault(row=row, column=column, problem=problem, cure=cure)
    with np.errstate(invalid="ignore"):  # infinities and NaN were reported above
        row = _first_false(~(np.abs(arrival_s - first_s) > MAX_SPAN_S))
    if row is not None:
        cure = "correct the row, or call a column of milliseconds timestamp_ms"
        problem = "over ten years from the first row"
        yield Fault(row=row, column=column, problem=problem, cure=cure)


def _order_faults(
    arrival_s: NDArray[np.float64], column: str, last_s: float, command: str
) -> Iterator[Fault]:
    if arrival_s[0] < last_s:
        row = 0
    else:
        falls = _first_false(~(np.diff(arrival_s) < 0))
        if falls is None:
            return
        row = falls + 1
    yield Fault(
        row=row, column=column, problem="earlier than the row before", cure=f"run `{command}`"
    )
