"""Life tables made, thinned, scaled, and taken apart for a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError, ModelError
from balanceroute.kernels.arrays import Int64Array
from balanceroute.kernels.hazard import NUM_BUCKETS, bucket_start
from balanceroute.kernels.lifetable import NODE, NONE, PRIOR, TALLY, LifeTables, slot_of

#: The hazard before anything is known: 1 / (a + 256) per token, so that an output is longer than a
#: with probability 256 / (a + 256): median 256, no mean. It counts for four ends (SHRINKAGE_ENDS).
PRIOR_MEDIAN_TOKENS = 256
NUM_ROOTS = 2  # rows that are always there: the prior and everything
KEPT_RATIO = 0.75  # of the rows, when there is no room for another
MAX_WEIGHT = 2.0**40  # counts are scaled down before they lose digits to one another
MAX_MEMORY_REQUESTS = 10**18  # beyond it nothing fades in floating point
MAX_CLASSES = 1 << 20  # 6 GB of tables
ROW_ARRAYS = ("counts", "end_probs", "hazards")

Arrays = Mapping[str, NDArray[Any]]


def check_count(name: str, value: int, most: int) -> None:
    """Raise `ConfigError` unless a setting is in 1..most."""
    if value < 1:
        raise ConfigError(f"{name} must be at least 1, got {value}")
    if value > most:
        raise ConfigError(f"{name} must be at most {most:,}, got {value:,}")


def new_tables(capacity: int, memory: int) -> LifeTables:
    """Return tables without data, with room for `capacity` classes."""
    num_rows = capacity + NUM_ROOTS
    tally = np.zeros(1, TALLY)
    tally["num_rows"], tally["tick"] = NUM_ROOTS, 1
    tally["weight"], tally["growth"] = 1.0, np.exp(1.0 / memory)
    nodes = np.zeros(num_rows, NODE)
    nodes["shape"] = NONE
    nodes["version"][PRIOR] = 1
    tables = LifeTables(
        tally=tally,
        nodes=nodes,
        slots=np.full(1 << (2 * num_rows).bit_length(), NONE),
        counts=np.zeros((num_rows, 3, NUM_BUCKETS + 1)),
        end_probs=np.zeros((num_rows, NUM_BUCKETS)),
        hazards=np.zeros((num_rows, NUM_BUCKETS + 1)),
    )
    starts = np.array([bucket_start(bucket) for bucket in range(NUM_BUCKETS + 1)])
    hazards = np.log1p(starts / PRIOR_MEDIAN_TOKENS)
    tables.hazards[PRIOR] = hazards
    tables.end_probs[PRIOR] = -np.expm1(-np.diff(hazards) / np.diff(starts))
    return tables


def make_room(tables: LifeTables) -> None:
    """Forget the oldest quarter of the classes if there is no room for another."""
    if tables.tally["num_rows"][0] == len(tables.nodes):
        keep_newest(tables, max(int(KEPT_RATIO * len(tables.nodes)), NUM_ROOTS))
    if tables.tally["weight"][0] > MAX_WEIGHT:
        scale_down(tables)


def keep_newest(tables: LifeTables, num_kept: int) -> None:
    """Forget all rows but the `num_kept` last seen, of equally old ones those that came first.

    A class is seen whenever one below it is, and came before it, so that what is kept is a tree.
    Only a prompt may be seen without the class that it leans on, if a request of another class has
    the same hash; it goes when that class goes.
    """
    nodes, num_rows = tables.nodes, int(tables.tally["num_rows"][0])
    last_seen = nodes["last_seen"][:num_rows].copy()
    last_seen[:NUM_ROOTS] = np.iinfo(np.int64).max
    oldest_first = np.lexsort((-np.arange(num_rows), last_seen))
    is_kept = np.ones(num_rows, np.bool_)
    is_kept[oldest_first[: num_rows - num_kept]] = False
    for column in ("parent", "shape"):
        above = nodes[column][:num_rows]
        is_kept &= (above == NONE) | is_kept[above]
    kept = np.flatnonzero(is_kept)
    moved = np.full(num_rows + 1, NONE)  # the last, for index NONE
    moved[kept] = np.arange(len(kept))
    thinned = nodes[kept]
    for column in ("parent", "shape"):
        thinned[column] = moved[thinned[column]]
    _put_rows(nodes, thinned, num_rows)
    nodes["shape"][len(kept) : num_rows] = NONE
    for name in ROW_ARRAYS:
        array = getattr(tables, name)
        _put_rows(array, array[kept], num_rows)
    tables.tally["num_rows"] = len(kept)
    fill_slots(tables)


def _put_rows(array: NDArray[Any], rows: NDArray[Any], num_rows: int) -> None:
    array[: len(rows)] = rows
    array[len(rows) : num_rows] = np.zeros((), array.dtype)


def fill_slots(tables: LifeTables) -> None:
    """File every row under its key anew."""
    tables.slots[:] = NONE
    for row in range(NUM_ROOTS, int(tables.tally["num_rows"][0])):
        tables.slots[slot_of(tables.slots, tables.nodes, tables.nodes["key"][row])] = row


def scale_down(tables: LifeTables) -> None:
    """Measure all counts in units of the present weight, which becomes 1."""
    weight = float(tables.tally["weight"][0])
    tables.counts[:] /= weight
    for column in ("num_ends", "num_tokens", "new_ends", "new_tokens"):
        tables.nodes[column] /= weight
    tables.tally["weight"] = 1.0


def to_arrays(tables: LifeTables) -> dict[str, NDArray[Any]]:
    """Return all that the tables hold, without the room that is left."""
    num_rows = int(tables.tally["num_rows"][0])
    arrays = {f"tally_{name}": tables.tally[name].copy() for name in TALLY.names or ()}
    arrays |= {f"node_{name}": tables.nodes[name][:num_rows].copy() for name in NODE.names or ()}
    return arrays | {name: getattr(tables, name)[:num_rows].copy() for name in ROW_ARRAYS}


def fill_from_arrays(tables: LifeTables, arrays: Arrays) -> None:
    """Put what `to_arrays` gave into tables without data; `ModelError` if it does not fit."""
    num_rows = len(arrays["node_key"]) if "node_key" in arrays else 0
    if not NUM_ROOTS <= num_rows <= len(tables.nodes):
        raise ModelError(f"has {num_rows} classes, allowed are {NUM_ROOTS}..{len(tables.nodes)}")
    for name in TALLY.names or ():
        _fill(tables.tally[name], arrays, f"tally_{name}")
    for name in NODE.names or ():
        _fill(tables.nodes[name][:num_rows], arrays, f"node_{name}")
    for name in ROW_ARRAYS:
        _fill(getattr(tables, name)[:num_rows], arrays, name)
    _check_links(tables, num_rows)
    fill_slots(tables)


def _fill(target: NDArray[Any], arrays: Arrays, name: str) -> None:
    source = arrays.get(name)
    if source is None or source.shape != target.shape or source.dtype != target.dtype:
        found = "nothing" if source is None else f"{source.dtype} of shape {source.shape}"
        raise ModelError(
            f"column {name} must be {target.dtype} of shape {target.shape}, got {found}"
        )
    target[...] = source


def _check_links(tables: LifeTables, num_rows: int) -> None:
    """Links are followed by compiled code, which does not check them."""
    rows: Int64Array = np.arange(num_rows)
    parent, shape = tables.nodes["parent"][:num_rows], tables.nodes["shape"][:num_rows]
    is_tree = (parent[1:] >= 0).all() and (parent[1:] < rows[1:]).all()
    if tables.tally["num_rows"][0] != num_rows or not is_tree:
        raise ModelError(f"the links between its {num_rows} classes are broken")
    if not ((shape >= NONE) & (shape < rows)).all():
        raise ModelError(f"the links between its {num_rows} classes are broken")
