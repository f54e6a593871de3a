"""BR-H's placement loops (design section 5): those of BR-0, with F over a horizon.

`gains` says what each waiting request would add to a rank at each horizon. None stands for its
prompt at every horizon, as Eq. (2) has it; F is then looked up on a curve per rank.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.br0 import first_waiting, open_heap, use_slots
from balanceroute.kernels.discounted import (
    Ahead,
    bend,
    best_on,
    f_score_ahead,
    margins_of,
    new_curve,
)
from balanceroute.kernels.heap import pop
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.plain import pick, total
from balanceroute.kernels.subset import NONE
from balanceroute.kernels.subset_ahead import best_set_by_gain, best_set_on
from balanceroute.kernels.window import open_window, remove


class Ranks(NamedTuple):
    """What a plan changes as it goes, shape (G,) each."""

    load_tokens: Int64Array  # committed, for the order of the ranks
    max_sends: Int64Array
    free_kv_tokens: Int64Array


@kernel
def plan_singles_ahead(
    ranks: Ranks,
    ahead: Ahead,
    prompt_tokens: Int64Array,
    keys: Int64Array,
    gains: Float64Array | None,
    is_taken: Int64Array,
    num_left_free: int,
    first_rank: int,
) -> tuple[Int64Array, Int64Array]:
    """Stage 1: the rank with the most free slots gets the request with the largest F, and so on.

    Costs O(log G + K log K + log N) per request without `gains`, else O(log G + N K).

    Parameters
    ----------
    ranks, ahead
        Changed in place.
    prompt_tokens : int64 array, shape (N,)
        Prompt lengths, oldest request first.
    keys : int64 array, shape (N,)
        ``prompt tokens << 32 | position in the pool``, ascending; read only without `gains`.
    gains : float64 array, shape (N, K), or None
        Tokens that each request would add; None: its prompt at every horizon.
    is_taken : int64 array, shape (N,)
        0 for requests that may be placed. Changed in place.
    num_left_free : int
        Stop when no more than this many slots of the group are free.
    first_rank : int
        Of ranks that are equal in free slots and load, the first from here on is taken.

    Returns
    -------
    tuple of int64 arrays, shape (K,)
        Positions in the pool and their ranks, in order of admission.

    Examples
    --------
    Rank 1 has a margin of 40 today, but in a step, which counts half, of 10. So the request of 15
    does better there than that of 40: 1.5·15 - 4·5/2 = 12.5 against 1.5·40 - 4·30/2 = 0.

    >>> ranks = Ranks(np.array([100, 60]), np.array([0, 1]), np.array([10**6, 10**6]))
    >>> loads = np.array([[100.0, 100.0], [60.0, 90.0]])
    >>> ahead = Ahead(loads, np.array([100.0, 100.0]), np.array([1.0, 0.5]), 1.0, 4.0)
    >>> prompts = np.array([40, 15])
    >>> keys = np.sort(prompts << 32 | np.arange(2))
    >>> plan_singles_ahead(ranks, ahead, prompts, keys, None, np.array([0, 0]), 0, 0)
    (array([1]), array([1]))
    """
    window, curve = open_window(keys), new_curve(len(ahead.discounts))
    num_waiting = len(prompt_tokens) - total(is_taken)
    most = min(num_waiting, max(total(ranks.max_sends) - num_left_free, 0))
    positions, where = np.empty(most, np.int64), np.empty(most, np.int64)
    heap = open_heap(ranks.load_tokens, ranks.max_sends, True, first_rank)
    num_placed = 0
    while heap.size[0] > 0 and num_placed < most:
        rank = heap.ranks[0]
        limit = ranks.free_kv_tokens[rank]
        if gains is None:
            bend(curve, ahead, rank)
            best = best_on(curve, window, limit)
            if best >= 0:
                remove(window, best)
                best = window.positions[best]
        else:
            best = best_by_gain(ahead, rank, prompt_tokens, gains, is_taken, limit)
        if best < 0:
            pop(heap)
            continue
        positions[num_placed], where[num_placed] = best, rank
        num_placed += 1
        admit(ranks, ahead, rank, prompt_tokens, gains, is_taken, best)
        raise_envelope(ahead, rank)
        use_slots(heap, ranks.max_sends, 1, True)
    return positions[:num_placed], where[:num_placed]


@kernel
def best_by_gain(
    ahead: Ahead,
    rank: int,
    prompt_tokens: Int64Array,
    gains: Float64Array,
    is_taken: Int64Array,
    limit: int,
) -> int:
    """Return the request with the largest F on a rank (ties: oldest), or -1 if none fits."""
    margins = margins_of(ahead, rank)
    best, best_score = NONE, 0.0
    for i in range(len(prompt_tokens)):
        if is_taken[i] == 1 or prompt_tokens[i] > limit:
            continue
        score = f_score_ahead(gains[i], margins, ahead.discounts, ahead.alpha, ahead.beta)
        if best == NONE or score > best_score:
            best, best_score = i, score
    return best


@kernel
def admit(
    ranks: Ranks,
    ahead: Ahead,
    rank: int,
    prompt_tokens: Int64Array,
    gains: Float64Array | None,
    is_taken: Int64Array,
    request: int,
) -> None:
    """Add a request to its rank."""
    size = prompt_tokens[request]
    is_taken[request] = 1
    ranks.load_tokens[rank] += size
    ranks.free_kv_tokens[rank] -= size
    for k in range(len(ahead.discounts)):
        if gains is None:
            ahead.loads[rank, k] += size
        else:
            ahead.loads[rank, k] += gains[request, k]


@kernel
def raise_envelope(ahead: Ahead, rank: int) -> None:
    """Take a rank's load into the envelope after it rose."""
    for k in range(len(ahead.discounts)):
        ahead.envelope[k] = max(ahead.envelope[k], ahead.loads[rank, k])


@kernel
def plan_subsets_ahead(
    ranks: Ranks,
    ahead: Ahead,
    prompt_tokens: Int64Array,
    gains: Float64Array | None,
    is_taken: Int64Array,
    r_max: int,
    first_rank: int,
    is_wide: bool | None,
) -> tuple[Int64Array, Int64Array]:
    """Stage 2: rank by rank, the set with the largest F among the oldest `r_max` requests.

    Parameters
    ----------
    ranks, ahead, prompt_tokens, gains, is_taken, first_rank
        As in `plan_singles_ahead`.
    r_max : int
        Requests to choose from, at least 1; with `gains`, all sets of them are tried.
    is_wide : bool or None
        True if `r_max` is more than 4, else None: the programme over reachable sums is then left
        out of the machine code.

    Returns
    -------
    tuple of int64 arrays, shape (K,)
        Positions in the pool and their ranks, in order of admission.

    Examples
    --------
    >>> ranks = Ranks(np.array([100, 60]), np.array([1, 2]), np.array([10**6, 10**6]))
    >>> ahead = Ahead(np.array([[100.0], [60.0]]), np.array([100.0]), np.ones(1), 1.0, 2.0)
    >>> prompts, is_taken = np.array([30, 25, 15]), np.zeros(3, np.int64)
    >>> plan_subsets_ahead(ranks, ahead, prompts, None, is_taken, 4, 0, None)
    (array([1, 2, 0]), array([1, 1, 0]))
    """
    curve = new_curve(len(ahead.discounts))
    most = min(len(prompt_tokens) - total(is_taken), total(ranks.max_sends))
    positions, where = np.empty(most, np.int64), np.empty(most, np.int64)
    heap = open_heap(ranks.load_tokens, ranks.max_sends, True, first_rank)
    oldest, num_placed = 0, 0
    while heap.size[0] > 0 and num_placed < most:
        rank = heap.ranks[0]
        while is_taken[oldest] == 1:
            oldest += 1
        seen = first_waiting(is_taken, oldest, r_max)
        sizes, limit = pick(prompt_tokens, seen), ranks.free_kv_tokens[rank]
        if gains is None:
            bend(curve, ahead, rank)
            chosen = best_set_on(curve, sizes, ranks.max_sends[rank], limit, is_wide)
        else:
            chosen = best_set_by_gain(ahead, rank, seen, sizes, gains, ranks.max_sends[rank], limit)
        if len(chosen) == 0:
            pop(heap)
            continue
        for i in chosen:
            positions[num_placed], where[num_placed] = seen[i], rank
            num_placed += 1
            admit(ranks, ahead, rank, prompt_tokens, gains, is_taken, seen[i])
        raise_envelope(ahead, rank)
        use_slots(heap, ranks.max_sends, len(chosen), True)
    return positions[:num_placed], where[:num_placed]


@kernel
def assign_ahead(
    ranks: Ranks, ahead: Ahead, prompt_tokens: Int64Array, gains: Float64Array
) -> Int64Array:
    """Give each request in turn to the rank with the largest F; ties: lowest load, lowest rank.

    Parameters
    ----------
    ranks, ahead, prompt_tokens, gains
        As in `plan_singles_ahead`, but `gains` is always given. Changed in place.

    Returns
    -------
    int64 array, shape (K,)
        Ranks of the K oldest requests; fewer than all only if no rank may take the next.

    Examples
    --------
    Rank 2 is the emptiest today, but the fullest in a step.

    >>> ranks = Ranks(np.array([100, 60, 50]), np.array([9, 9, 9]), np.array([10**6] * 3))
    >>> loads = np.array([[100.0, 0.0], [60.0, 0.0], [50.0, 50.0]])
    >>> ahead = Ahead(loads, np.array([100.0, 50.0]), np.array([1.0, 0.5]), 1.0, 3.0)
    >>> assign_ahead(ranks, ahead, np.array([30]), np.array([[30.0, 30.0]]))
    array([1])
    """
    chosen = np.empty(len(prompt_tokens), np.int64)
    nobody = np.zeros(len(prompt_tokens), np.int64)
    for i in range(len(prompt_tokens)):
        best, best_score = NONE, 0.0
        for g in range(len(ranks.load_tokens)):
            if ranks.max_sends[g] == 0 or ranks.free_kv_tokens[g] < prompt_tokens[i]:
                continue
            margins = margins_of(ahead, g)
            score = f_score_ahead(gains[i], margins, ahead.discounts, ahead.alpha, ahead.beta)
            is_better = score > best_score
            if best != NONE and score == best_score:
                is_better = ranks.load_tokens[g] < ranks.load_tokens[best]
            if best == NONE or is_better:
                best, best_score = g, score
        if best == NONE:
            return chosen[:i]
        chosen[i] = best
        ranks.max_sends[best] -= 1
        admit(ranks, ahead, best, prompt_tokens, gains, nobody, i)
        raise_envelope(ahead, best)
    return chosen
