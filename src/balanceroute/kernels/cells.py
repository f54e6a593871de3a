"""Cells of requests for a learned hazard: tenant, limit and bucket of the prompt's length."""

from __future__ import annotations

from balanceroute.kernels.arrays import BoolArray, Int64Array
from balanceroute.kernels.hazard import MAX_AGE_TOKENS, bucket_of
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.lifetable import (
    ALL,
    NONE,
    Columns,
    LifeTables,
    add_class,
    count,
    limit_bucket,
)
from balanceroute.kernels.plain import num_below

LEVEL_BITS = 2  # below the key of a cell in the counts: how fast requests ended at the time


@kernel
def cell_key(prompt_tokens: int, client: int, limit: int) -> int:
    """Return the key of a cell: tenant + 1, bucket of the limit, bucket of the prompt (as of ages).

    Examples
    --------
    >>> cell_key(20, 3, 0) == 4 << 14 | 18, cell_key(20, -1, 1) == 1 << 8 | 18
    (True, True)
    """
    return (max(client, NONE) + 1) << 14 | limit_bucket(limit) << 8 | bucket_of(prompt_tokens)


@kernel
def count_cells(
    tables: LifeTables, columns: Columns, since: Int64Array, has_ended: BoolArray, level: int
) -> None:
    """Count requests as `lifetable.observe` does, in their cells at this level and in nothing else.

    Where no row is left, a cell that is new is not counted.
    """
    tally = tables.tally[0]
    tally.tick += 1
    for i in range(len(since)):
        limit, until, is_end = columns.limits[i], columns.ages[i], has_ended[i]
        key = cell_key(columns.prompt_tokens[i], columns.clients[i], limit) << LEVEL_BITS | level
        row = add_class(tables, key, ALL, NONE)
        if 0 < limit <= until:
            until, is_end = limit - 1, False
        until = min(until, MAX_AGE_TOKENS)
        if row != ALL:
            count(tables, row, min(since[i], until), until, is_end)
        if has_ended[i]:
            tally.weight *= tally.growth


@kernel
def find_cells(keys: Int64Array, columns: Columns, rows: Int64Array) -> int:
    """Write the place of each request's cell among the ascending keys, or NONE; count those found.

    Examples
    --------
    >>> import numpy as np
    >>> prompts, nobody, none = np.array([20, 30]), np.full(2, -1), np.zeros(2, np.int64)
    >>> rows = np.empty(2, np.int64)
    >>> find_cells(np.array([5, 18]), Columns(prompts, none, nobody, none, none), rows), rows
    (1, array([ 1, -1]))
    """
    num_found = 0
    for i in range(len(rows)):
        key = cell_key(columns.prompt_tokens[i], columns.clients[i], columns.limits[i])
        row = num_below(keys, key)
        rows[i] = NONE
        if row < len(keys) and keys[row] == key:
            rows[i] = row
            num_found += 1
    return num_found
