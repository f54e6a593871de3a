"""Life tables of many classes: counting ends and time at risk, and turning counts into hazards.

Classes form a tree: everything, then tenants and shapes (prompt bucket and limit), then a tenant's
shapes, then prompts. An observation is counted in each class above it, in O(1) per class whatever
its length, because time at risk is kept as differences. Hazards are computed from counts when they
are asked for and enough is new (`kernels.shrinkage`).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np

from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array, RecordArray
from balanceroute.kernels.hazard import MAX_AGE_TOKENS, bucket_of, bucket_start
from balanceroute.kernels.jit import kernel

# NumPy integers: a kernel that is called with a plain constant is compiled for it again.
PRIOR, ALL = cast("int", np.int64(0)), cast("int", np.int64(1))  # rows that are always there
NONE = cast("int", np.int64(-1))
TENANT, SHAPE, TENANT_SHAPE, PROMPT = 0, 1, 2, 3  # the two lowest bits of a key
EVENTS, PARTS, AT_RISK = 0, 1, 2  # a class's counts

SIZE_OCTAVE = 4  # buckets of prompt lengths to an octave; as for ages in kernels.hazard
SIZE_SHIFT = 50
FIRST_SIZE_OCTAVE = (1023 + 2) << 2

#: One class.
NODE = np.dtype(
    [
        ("key", np.int64),
        ("parent", np.int64),  # row whose hazards this one's are shrunk towards
        ("shape", np.int64),  # of a tenant's shape: the shape among all tenants, else NONE
        ("last_seen", np.int64),  # tick of the last observation or look-up
        ("checked", np.int64),  # tick at which its hazards were last found fresh
        ("version", np.int64),  # how often its hazards were computed
        ("parent_version", np.int64),  # what they were computed from
        ("shape_version", np.int64),
        ("num_ends", np.float64),  # in units of the weight, as all counts
        ("num_tokens", np.float64),
        ("new_ends", np.float64),  # since its hazards were computed
        ("new_tokens", np.float64),
    ]
)

#: Of all classes together, shape (1,).
TALLY = np.dtype(
    [
        ("num_rows", np.int64),
        ("tick", np.int64),
        ("weight", np.float64),  # of an observation made at this moment
        ("growth", np.float64),  # factor of the weight per end: older counts fade
    ]
)


class Columns(NamedTuple):
    """Requests, shape (N,) each; see `predict.base.Requests` for what marks the unknown."""

    prompt_tokens: Int64Array
    ages: Int64Array
    clients: Int64Array
    limits: Int64Array
    hashes: Int64Array


class LifeTables(NamedTuple):
    """Counts and hazards of R classes at most."""

    tally: RecordArray  # TALLY, shape (1,)
    nodes: RecordArray  # NODE, shape (R,)
    slots: Int64Array  # shape (a power of two over 2R,): rows by hashed key, NONE where empty
    counts: Float64Array  # shape (R, 3, NUM_BUCKETS + 1): EVENTS, PARTS, AT_RISK
    end_probs: Float64Array  # shape (R, NUM_BUCKETS): that a token is the last
    hazards: Float64Array  # shape (R, NUM_BUCKETS + 1): cumulative, for kernels.hazard


@kernel
def size_bucket(size: int) -> int:
    """Return the bucket of a prompt's length: four to an octave.

    Examples
    --------
    >>> [size_bucket(size) for size in (0, 3, 4, 7, 8, 9, 10, 1000, 1200)]
    [0, 3, 4, 7, 8, 8, 9, 35, 36]
    """
    if size < SIZE_OCTAVE:
        return size
    bits = np.float64(size).view(np.int64)
    return int(bits >> SIZE_SHIFT) - FIRST_SIZE_OCTAVE + SIZE_OCTAVE


@kernel
def limit_bucket(limit: int) -> int:
    """Return the bucket of a limit: one to an octave, 0 for none.

    Examples
    --------
    >>> [limit_bucket(limit) for limit in (0, 1, 2, 1023, 1024)]
    [0, 1, 2, 10, 11]
    """
    bucket = 0
    while limit > 0:
        limit >>= 1
        bucket += 1
    return bucket


@kernel
def slot_of(slots: Int64Array, nodes: RecordArray, key: int) -> int:
    """Return the slot in which a key is, or into which it would go."""
    mixed = key * 0x1E3779B97F4A7C15
    slot = (mixed ^ (mixed >> 32)) & (len(slots) - 1)
    while slots[slot] != NONE and nodes[slots[slot]].key != key:
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@kernel
def add_class(tables: LifeTables, key: int, parent: int, shape: int) -> int:
    """Return the row of a class, a new one if need be, or its parent's where no row is left."""
    slot = slot_of(tables.slots, tables.nodes, key)
    row = tables.slots[slot]
    if row != NONE:
        return row
    row = tables.tally[0].num_rows
    if row == len(tables.nodes):
        return parent
    tables.tally[0].num_rows += 1
    tables.slots[slot] = row
    node = tables.nodes[row]
    node.key, node.parent, node.shape = key, parent, shape
    node.last_seen = tables.tally[0].tick
    return row


@kernel
def class_key(prompt_tokens: int, client: int, limit: int) -> int:
    """Return the key of a tenant's shape, or of the shape where the tenant is not known."""
    shape_key = limit_bucket(limit) << 8 | size_bucket(prompt_tokens)
    if client < 0:
        return shape_key << 2 | SHAPE
    return (client << 14 | shape_key) << 2 | TENANT_SHAPE


@kernel
def class_row(tables: LifeTables, prompt_tokens: int, client: int, limit: int) -> int:
    """Return the row of a request's class, added with those above it if need be."""
    key = class_key(prompt_tokens, client, limit)
    row = tables.slots[slot_of(tables.slots, tables.nodes, key)]
    if row != NONE:
        return row
    shape = add_class(tables, class_key(prompt_tokens, NONE, limit), ALL, NONE)
    if client < 0:
        return shape
    tenant = add_class(tables, client << 2 | TENANT, ALL, NONE)
    return add_class(tables, key, tenant, shape)


@kernel
def count(tables: LifeTables, row: int, since: int, until: int, is_end: bool) -> None:
    """Add the tokens from age `since` to `until`, the last of which may be the end, to one class.

    A bucket's time at risk is its PARTS plus its width times the running sum of AT_RISK.
    """
    counts, node = tables.counts[row], tables.nodes[row]
    weight = tables.tally[0].weight
    node.last_seen = tables.tally[0].tick
    if until > since:
        first, last = bucket_of(since), bucket_of(until)
        counts[PARTS, first] += weight * (bucket_start(first + 1) - since)
        counts[AT_RISK, first + 1] += weight
        counts[PARTS, last] -= weight * (bucket_start(last + 1) - until)
        counts[AT_RISK, last + 1] -= weight
        node.num_tokens += weight * (until - since)
        node.new_tokens += weight * (until - since)
    if is_end:
        counts[EVENTS, bucket_of(until - 1)] += weight
        node.num_ends += weight
        node.new_ends += weight


@kernel
def count_upwards(tables: LifeTables, row: int, since: int, until: int, is_end: bool) -> None:
    """Add an observation to a class and to those above it."""
    while row > ALL:
        count(tables, row, since, until, is_end)
        if tables.nodes[row].shape != NONE:
            count(tables, tables.nodes[row].shape, since, until, is_end)
        row = tables.nodes[row].parent
    count(tables, ALL, since, until, is_end)


@kernel
def first_bad(columns: Columns) -> int:
    """Return the first request with a negative length, age or limit, or NONE."""
    for i in range(len(columns.ages)):
        if columns.ages[i] < 0 or columns.prompt_tokens[i] < 0 or columns.limits[i] < 0:
            return i
    return NONE


@kernel
def first_bad_end(columns: Columns, since: Int64Array, has_ended: BoolArray) -> int:
    """Return the first request watched backwards, or that ended without a token, or NONE."""
    for i in range(len(since)):
        if since[i] < 0 or since[i] > columns.ages[i] or (has_ended[i] and columns.ages[i] < 1):
            return i
    return NONE


@kernel
def observe(
    tables: LifeTables,
    columns: Columns,
    since: Int64Array,
    has_ended: BoolArray,
    by_class: bool,
    by_prompt: bool,
) -> bool:
    """Count requests watched from age `since` to their age, and whether that was their end.

    Counts nothing and returns False if `first_bad` or `first_bad_end` finds one.

    Where the limit ended a request, its last token says nothing of where it would have ended, so
    it is counted up to the token before, without an end.
    """
    if first_bad(columns) != NONE or first_bad_end(columns, since, has_ended) != NONE:
        return False
    tally = tables.tally[0]
    tally.tick += 1
    for i in range(len(since)):
        limit, until, is_end = columns.limits[i], columns.ages[i], has_ended[i]
        row = ALL
        if by_class:
            row = class_row(tables, columns.prompt_tokens[i], columns.clients[i], limit)
        if 0 < limit <= until:
            until, is_end = limit - 1, False
        until = min(until, MAX_AGE_TOKENS)
        count_upwards(tables, row, min(since[i], until), until, is_end)
        if by_prompt and columns.hashes[i] != 0:
            prompt = add_class(tables, columns.hashes[i] << 2 | PROMPT, row, NONE)
            if prompt != row:
                count(tables, prompt, min(since[i], until), until, is_end)
        if has_ended[i]:
            tally.weight *= tally.growth
    return True
