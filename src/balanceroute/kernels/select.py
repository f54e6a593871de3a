"""Choosing ranks one request at a time: the loops behind the baselines and BR-0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import Int64Array


@kernel
def assign_by_score(
    score: NDArray[np.float64],
    floor: NDArray[np.float64],
    offset: NDArray[np.float64],
    growth: NDArray[np.float64],
    max_sends: Int64Array,
    free_kv_tokens: Int64Array,
    prompt_tokens: Int64Array,
    first_rank: int,
) -> Int64Array:
    """Give the oldest requests, one by one, to the rank with the lowest score.

    The score of rank g is ``max(score[g], floor[g]) + offset[g]``; sending request i to it adds
    ``growth[i]`` to ``score[g]``. Stops at the first request that no rank can take.

    Parameters
    ----------
    score, floor, offset : float64 array, shape (G,)
        Parts of the score. `score` is changed in place.
    growth : float64 array, shape (N,)
        What each request adds to the score of its rank.
    max_sends, free_kv_tokens : int64 array, shape (G,)
        Requests and prompt tokens that each rank may still take. Changed in place.
    prompt_tokens : int64 array, shape (N,)
        Prompt lengths, oldest request first.
    first_rank : int
        Rank at which the scan begins; the first of several lowest scores wins.

    Returns
    -------
    int64 array, shape (K,)
        Ranks of the K oldest requests.

    Examples
    --------
    >>> assign_by_score(
    ...     np.array([5.0, 3.0]), np.zeros(2), np.zeros(2), np.ones(4),
    ...     np.array([9, 3]), np.array([99, 99]), np.array([1, 1, 1, 1]), 0,
    ... )
    array([1, 1, 0, 1])
    """
    num_ranks, num_requests = len(score), len(prompt_tokens)
    chosen = np.empty(num_requests, np.int64)
    for i in range(num_requests):
        best, best_score = -1, np.inf
        for k in range(num_ranks):
            g = first_rank + k
            if g >= num_ranks:
                g -= num_ranks
            if max_sends[g] == 0 or free_kv_tokens[g] < prompt_tokens[i]:
                continue
            total = max(score[g], floor[g]) + offset[g]
            if total < best_score:
                best, best_score = g, total
        if best < 0:
            return chosen[:i]
        chosen[i] = best
        score[best] += growth[i]
        max_sends[best] -= 1
        free_kv_tokens[best] -= prompt_tokens[i]
    return chosen


@kernel
def assign_in_turn(
    max_sends: Int64Array, free_kv_tokens: Int64Array, prompt_tokens: Int64Array, first_rank: int
) -> Int64Array:
    """Give the oldest requests to the ranks in turn, skipping ranks that cannot take one.

    Parameters
    ----------
    max_sends, free_kv_tokens : int64 array, shape (G,)
        Requests and prompt tokens that each rank may still take. Changed in place.
    prompt_tokens : int64 array, shape (N,)
        Prompt lengths, oldest request first.
    first_rank : int
        Rank whose turn it is.

    Returns
    -------
    int64 array, shape (K,)
        Ranks of the K oldest requests.

    Examples
    --------
    >>> assign_in_turn(np.array([1, 0, 9]), np.array([99, 99, 99]), np.array([5, 5, 5]), 2)
    array([2, 0, 2])
    """
    num_ranks, num_requests = len(max_sends), len(prompt_tokens)
    chosen = np.empty(num_requests, np.int64)
    turn = first_rank
    for i in range(num_requests):
        for _ in range(num_ranks):
            if max_sends[turn] > 0 and free_kv_tokens[turn] >= prompt_tokens[i]:
                break
            turn = (turn + 1) % num_ranks
        else:
            return chosen[:i]
        chosen[i] = turn
        max_sends[turn] -= 1
        free_kv_tokens[turn] -= prompt_tokens[i]
        turn = (turn + 1) % num_ranks
    return chosen


@kernel
def assign_by_draw(
    num_reqs: Int64Array,
    max_sends: Int64Array,
    free_kv_tokens: Int64Array,
    prompt_tokens: Int64Array,
    draws: NDArray[np.float64],
) -> Int64Array:
    """Give each of the oldest requests to the less busy of a few ranks drawn at random.

    Parameters
    ----------
    num_reqs : int64 array, shape (G,)
        Requests on each rank. Changed in place.
    max_sends, free_kv_tokens : int64 array, shape (G,)
        Requests and prompt tokens that each rank may still take. Changed in place.
    prompt_tokens : int64 array, shape (N,)
        Prompt lengths, oldest request first.
    draws : float64 array, shape (N, D)
        Uniform numbers in [0, 1); each request chooses among D different ranks, or as many as can
        take it. One draw is a random choice, two are "power of two choices".

    Returns
    -------
    int64 array, shape (K,)
        Ranks of the K oldest requests.

    Examples
    --------
    >>> assign_by_draw(
    ...     np.array([9, 2, 5]), np.array([1, 1, 1]), np.array([99, 99, 99]), np.array([5]),
    ...     np.array([[0.0, 0.99]]),
    ... )
    array([1])
    """
    num_requests, num_draws = draws.shape
    chosen = np.empty(num_requests, np.int64)
    able = np.empty(len(num_reqs), np.int64)
    for i in range(num_requests):
        num_able = 0
        for g in range(len(num_reqs)):
            if max_sends[g] > 0 and free_kv_tokens[g] >= prompt_tokens[i]:
                able[num_able] = g
                num_able += 1
        if num_able == 0:
            return chosen[:i]
        best = -1
        for d in range(min(num_draws, num_able)):
            # Partial Fisher-Yates: the rank drawn leaves the urn.
            last = num_able - 1 - d
            k = min(int(draws[i, d] * (last + 1)), last)
            g = able[k]
            able[k] = able[last]
            if best < 0 or num_reqs[g] < num_reqs[best]:
                best = g
        chosen[i] = best
        num_reqs[best] += 1
        max_sends[best] -= 1
        free_kv_tokens[best] -= prompt_tokens[i]
    return chosen
