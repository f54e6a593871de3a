"""From counts to hazards: classes with little data lean on their parents.

A class's probability that a token is the last is its parent's, times factors at three scales of
age (all ages, an octave, a bucket), each the gamma-Poisson mean ``(ends + k) / (expected + k)``
with the ends expected from what the coarser scales gave. Few ends thus move the level of the whole
curve, more of them its shape.
"""

from __future__ import annotations

from math import log1p

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.hazard import NUM_BUCKETS, OCTAVE, bucket_width, log_survival_at
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.lifetable import (
    ALL,
    AT_RISK,
    EVENTS,
    NONE,
    PARTS,
    PROMPT,
    Columns,
    LifeTables,
    class_key,
    class_row,
    first_bad,
    slot_of,
)

#: k, the weight of a parent's hazard against a class's own counts at each scale, in ends. Of 2 to
#: 32, what gave the traces named in docs/predict.md the best likelihood of later lengths.
SHRINKAGE_ENDS = 4.0
#: k of a prompt: answers to one prompt are more alike than requests of a class. 4 follows them too
#: slowly where they are, 1 too fast where they are not.
PROMPT_SHRINKAGE_ENDS = 2.0
#: Ends of a tenant at which its own hazard counts as much as that of the shape among all tenants.
TENANT_ENDS = 16.0
MIN_BLEND = 0.01  # a shape's part below this is left out, and its powers are saved
#: Growth of a class's counts at which its hazards are computed anew.
REFRESH_RATIO = 0.02
#: Largest probability that a token is the last: a class that always ends at one age stays finite.
MAX_END_PROB = 1.0 - 2.0**-20


@kernel
def tokens_at_risk(counts: Float64Array) -> Float64Array:
    """Return a class's tokens per bucket from its differences, in units of the weight.

    Examples
    --------
    >>> counts = np.zeros((3, NUM_BUCKETS + 1))
    >>> counts[PARTS, [0, 17]] = [1, -1]  # one request watched from age 0 to age 19, which is
    >>> counts[AT_RISK, [1, 18]] = [1, -1]  # in the middle of the bucket of 18 and 19
    >>> tokens_at_risk(counts)[[0, 15, 16, 17, 18]]
    array([1., 1., 2., 1., 0.])
    """
    tokens = np.empty(NUM_BUCKETS)
    num_at_risk = 0.0
    for b in range(NUM_BUCKETS):
        num_at_risk += counts[AT_RISK, b]
        # What is left of observations that have ended is rounding, of either sign.
        tokens[b] = max(counts[PARTS, b] + num_at_risk * bucket_width(b), 0.0)
    return tokens


@kernel
def shrink(
    ends: Float64Array,
    tokens: Float64Array,
    parent: Float64Array,
    num_prior_ends: float,
    end_probs: Float64Array,
) -> None:
    """Write a class's probability of an end per bucket.

    With the parent's ``q``, ends ``e`` and tokens ``E``, over all ages, then within the octave,
    then for the bucket itself::

        q <- q · (Σ e + k) / (Σ E q + k)

    Parameters
    ----------
    ends, tokens : float64 array, shape (NUM_BUCKETS or more,)
        e and E, in units of the weight.
    parent : float64 array, shape (NUM_BUCKETS,)
        Probabilities to shrink towards.
    num_prior_ends : float
        k, in units of the weight.
    end_probs : float64 array, shape (NUM_BUCKETS,)
        Overwritten, in (0, MAX_END_PROB].

    Examples
    --------
    >>> ends, tokens = np.zeros(NUM_BUCKETS), np.zeros(NUM_BUCKETS)
    >>> ends[:2], tokens[:2] = [0, 4], [8, 8]
    >>> end_probs = np.empty(NUM_BUCKETS)
    >>> shrink(ends, tokens, np.full(NUM_BUCKETS, 0.25), 4.0, end_probs)
    >>> end_probs[[0, 1, 2, 8]]  # 4 ends expected in all, and 2 in each of two buckets
    array([0.16666667, 0.33333333, 0.25      , 0.25      ])
    """
    k = num_prior_ends
    expected = 0.0
    ended = 0.0
    for b in range(NUM_BUCKETS):
        expected += tokens[b] * parent[b]
        ended += ends[b]
    overall = (ended + k) / (expected + k)
    for first in range(0, NUM_BUCKETS, OCTAVE):
        expected = 0.0
        ended = 0.0
        for b in range(first, first + OCTAVE):
            expected += tokens[b] * parent[b] * overall
            ended += ends[b]
        factor = overall * (ended + k) / (expected + k)
        for b in range(first, first + OCTAVE):
            prob = parent[b] * factor
            prob *= (ends[b] + k) / (tokens[b] * prob + k)
            end_probs[b] = min(prob, MAX_END_PROB)


@kernel
def accumulate(end_probs: Float64Array, hazards: Float64Array) -> None:
    """Write the cumulative hazard ``Λ = Σ -log(1 - q)`` at the bucket starts.

    Examples
    --------
    >>> hazards = np.empty(NUM_BUCKETS + 1)
    >>> accumulate(np.full(NUM_BUCKETS, 0.5), hazards)
    >>> np.exp(-hazards[:4])
    array([1.   , 0.5  , 0.25 , 0.125])
    """
    hazards[0] = 0.0
    for b in range(NUM_BUCKETS):
        hazards[b + 1] = hazards[b] - log1p(-end_probs[b]) * bucket_width(b)


@kernel
def expected_probs(tables: LifeTables, row: int) -> Float64Array:
    """Return what a class's probabilities are shrunk towards: its parent's.

    For a tenant's shape, the tenant's times ``(shape / all) ** w``, with w going from 1 to 0 as
    the tenant's own ends outnumber TENANT_ENDS.
    """
    node = tables.nodes[row]
    probs = tables.end_probs[node.parent].copy()
    if node.shape == NONE:
        return probs
    prior_ends = TENANT_ENDS * tables.tally[0].weight
    blend = prior_ends / (prior_ends + tables.nodes[node.parent].num_ends)
    if blend >= MIN_BLEND:
        shape, everything = tables.end_probs[node.shape], tables.end_probs[ALL]
        for b in range(NUM_BUCKETS):
            probs[b] = min(probs[b] * (shape[b] / everything[b]) ** blend, MAX_END_PROB)
    return probs


@kernel
def freshen(tables: LifeTables, row: int) -> None:
    """Compute a class's hazards anew if its counts or those above it have grown enough."""
    node, tally = tables.nodes[row], tables.tally[0]
    if node.checked == tally.tick:
        return
    node.checked = node.last_seen = tally.tick
    shape_version = 0
    if node.shape != NONE:
        shape_version = tables.nodes[node.shape].version
    if (
        node.version > 0
        and node.parent_version == tables.nodes[node.parent].version
        and node.shape_version == shape_version
        and node.new_ends <= REFRESH_RATIO * node.num_ends
        and node.new_tokens <= REFRESH_RATIO * node.num_tokens
    ):
        return
    counts = tables.counts[row]
    prior_ends = PROMPT_SHRINKAGE_ENDS if node.key & 3 == PROMPT else SHRINKAGE_ENDS
    shrink(
        counts[EVENTS],
        tokens_at_risk(counts),
        expected_probs(tables, row),
        prior_ends * tally.weight,
        tables.end_probs[row],
    )
    accumulate(tables.end_probs[row], tables.hazards[row])
    node.version += 1
    node.parent_version = tables.nodes[node.parent].version
    node.shape_version = shape_version
    node.new_ends = node.new_tokens = 0.0


@kernel
def freshen_with_parents(tables: LifeTables, row: int) -> None:
    """Bring a class's hazards up to date, those that it leans on first."""
    freshen(tables, ALL)
    inner = row
    if tables.nodes[row].key & 3 == PROMPT:
        inner = tables.nodes[row].parent
    if tables.nodes[inner].shape != NONE:
        freshen(tables, tables.nodes[inner].parent)
        freshen(tables, tables.nodes[inner].shape)
    freshen(tables, inner)
    freshen(tables, row)


@kernel
def look_up(
    tables: LifeTables, columns: Columns, by_class: bool, by_prompt: bool, rows: Int64Array
) -> None:
    """Write the row of each request's class, with fresh hazards.

    A class without data is added, as what it leans on may differ from any other class; a prompt
    without data is not.
    """
    slots, nodes, tick = tables.slots, tables.nodes, tables.tally[0].tick
    for i in range(len(rows)):
        row = ALL
        if by_class:
            prompt_tokens, client, limit = (
                columns.prompt_tokens[i],
                columns.clients[i],
                columns.limits[i],
            )
            row = slots[slot_of(slots, nodes, class_key(prompt_tokens, client, limit))]
            if row == NONE:
                row = class_row(tables, prompt_tokens, client, limit)
        if by_prompt and columns.hashes[i] != 0:
            prompt = slots[slot_of(slots, nodes, columns.hashes[i] << 2 | PROMPT)]
            if prompt != NONE:
                row = prompt
        if nodes[row].checked != tick:
            freshen_with_parents(tables, row)
        rows[i] = row


@kernel
def write_log_survival(
    tables: LifeTables,
    columns: Columns,
    by_class: bool,
    by_prompt: bool,
    horizons: Int64Array,
    log_survival: Float64Array,
) -> bool:
    """Write the logarithm of `Classifier.survival`, with fresh hazards; False if a length is bad.

    See `look_up` and `kernels.hazard.log_survival_at`.
    """
    if first_bad(columns) != NONE:
        return False
    rows = np.empty(len(columns.ages), np.int64)
    look_up(tables, columns, by_class, by_prompt, rows)
    log_survival_at(tables.hazards, rows, columns.ages, columns.limits, horizons, log_survival)
    return True
