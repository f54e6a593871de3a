"""Load ahead of time, kept up to date request by request (design section 5).

At horizon h a request of w tokens counts ``(w + h) S(h) + Q(h)``: what it will hold if it still
runs, plus what its slot will hold if it has ended and been refilled. w grows with its rank's
clock, so a request stores its share relative to that clock, a rank stores sums, and a step of the
group changes nothing. Only requests that come, go, or are looked at anew cost something.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array, RecordArray
from balanceroute.kernels.jit import bare_kernel, kernel

# Rows of what a classifier is told of requests, int64, shape (NUM_COLUMNS, N).
REQUEST, PROMPT_TOKENS, AGE, CLIENT, LIMIT, PROMPT_HASH = 0, 1, 2, 3, 4, 5  # as in `Requests`
SINCE, HAS_COMPLETED = 6, 7  # age up to which it was told before; 1 if it ended by itself
NUM_COLUMNS = 8

NONE = -1
NOW = -(1 << 62)  # a clock that has always been reached
UNSEEN = -1  # since_tokens of a request that was not looked at yet

#: What is remembered of each request in flight, shape (capacity,), by handle.
FOLLOWED = np.dtype(
    [
        ("rank", np.int64),  # NONE if the handle is not followed
        ("due_clock", np.int64),  # when it is to be looked at anew, by its rank's clock
        ("since_tokens", np.int64),  # its age when it was last reported; UNSEEN at first
    ]
)


class Projected(NamedTuple):
    """Shares of requests and sums of ranks; K horizons."""

    followed: RecordArray  # FOLLOWED, shape (capacity,)
    growing: Float64Array  # shape (capacity, K): S(h), which counts once more per step
    fixed: Float64Array  # shape (capacity, K): the rest, at clock 0
    rank_growing: Float64Array  # shape (G, K)
    rank_fixed: Float64Array  # shape (G, K)


@kernel
def drop(projected: Projected, handle: int) -> None:
    """Take a request's share out of its rank's sums."""
    rank = projected.followed[handle].rank
    for k in range(projected.growing.shape[1]):
        projected.rank_growing[rank, k] -= projected.growing[handle, k]
        projected.rank_fixed[rank, k] -= projected.fixed[handle, k]
        projected.growing[handle, k] = projected.fixed[handle, k] = 0.0


@kernel
def put(
    projected: Projected,
    handles: Int64Array,
    told: Int64Array,
    clocks: Int64Array,
    horizons: Int64Array,
    survival: Float64Array,
    refilled: Float64Array,
    longest_wait: int,
) -> None:
    """Give requests new shares, and set when they are to be looked at again.

    Parameters
    ----------
    projected : Projected
        Changed in place.
    handles : int64 array, shape (N,)
        Requests.
    told : int64 array, shape (NUM_COLUMNS, N)
        What is known of them (`kernels.following`).
    clocks : int64 array, shape (G,)
        The ranks' clocks.
    horizons : int64 array, shape (K,)
        Steps ahead, ascending from 0.
    survival : float64 array, shape (N, K)
        Probability that the request still runs then.
    refilled : float64 array, shape (K,)
        Tokens in a slot that has been refilled so many horizons (less a half) ago.
    longest_wait : int
        Steps after which a request is looked at again at the latest, however old it is.
    """
    for i in range(len(handles)):
        handle = handles[i]
        mark = projected.followed[handle]
        drop(projected, handle)
        clock = clocks[mark.rank]
        age, tokens = told[AGE, i], told[PROMPT_TOKENS, i] + told[AGE, i]
        mark.due_clock = clock + min(longest_wait, 8 + age // 8)
        for k in range(len(horizons)):
            running = survival[i, k]
            fixed = (tokens - clock + horizons[k]) * running
            fixed += expected_refill(survival, i, refilled, k)
            projected.growing[handle, k], projected.fixed[handle, k] = running, fixed
            projected.rank_growing[mark.rank, k] += running
            projected.rank_fixed[mark.rank, k] += fixed


@kernel
def loads_now(
    projected: Projected, clocks: Int64Array, committed_tokens: Int64Array
) -> Float64Array:
    """Return the projected load, shape (G, K), tokens; the first column is that of today.

    Parameters
    ----------
    projected : Projected
        As of these clocks.
    clocks, committed_tokens : int64 array, shape (G,)
        The ranks' clocks, and what they hold today: what is missing from `projected`, because it
        is not shown yet, is added at every horizon.

    Examples
    --------
    A request of 60 tokens that surely goes on, another of 5 that is not shown yet, 10 steps ahead:

    >>> one, nobody = np.ones((1, 2)), np.zeros((0, 2))
    >>> state = Projected(np.zeros(0, FOLLOWED), nobody, nobody, one, np.array([[50.0, 60.0]]))
    >>> loads_now(state, np.array([10]), np.array([65]))
    array([[65., 75.]])
    """
    num_ranks, num_horizons = projected.rank_fixed.shape
    loads = np.empty((num_ranks, num_horizons))
    for g in range(num_ranks):
        for k in range(num_horizons):
            loads[g, k] = projected.rank_fixed[g, k] + projected.rank_growing[g, k] * clocks[g]
        unseen = committed_tokens[g] - loads[g, 0]
        for k in range(num_horizons):
            loads[g, k] += unseen
    return loads


@bare_kernel
def expected_refill(survival: Float64Array, i: int, refilled: Float64Array, k: int) -> float:
    """Return the tokens that the successors of request i will hold at horizon k, on average."""
    tokens = 0.0
    for j in range(1, k + 1):
        tokens += (survival[i, j - 1] - survival[i, j]) * refilled[k - j]
    return tokens


@kernel
def gains_of(
    prompt_tokens: Int64Array,
    horizons: Int64Array,
    survival: Float64Array,
    refilled: Float64Array,
    request_tokens: float,
) -> Float64Array:
    """Return the load that each waiting request would add to a rank, by horizon.

    Parameters
    ----------
    prompt_tokens : int64 array, shape (N,)
        Prompt lengths s.
    horizons : int64 array, shape (K,)
        Steps ahead, ascending from 0.
    survival : float64 array, shape (N, K)
        Probability that the output is longer than the horizon.
    refilled : float64 array, shape (K,)
        As in `put`.
    request_tokens : float
        κ₀: tokens that cost as much as one more request.

    Returns
    -------
    float64 array, shape (N, K)
        ``(s + h) S(h) + Q(h) + κ₀``, tokens.

    Examples
    --------
    A request that ends surely between the second horizon and the third:

    >>> gains_of(np.array([100]), np.array([0, 10, 20]), np.array([[1.0, 1.0, 0.0]]),
    ...          np.array([50.0, 60.0, 0.0]), 0.0)
    array([[100., 110.,  50.]])
    """
    by_horizon, gains = survival.T.copy(), np.empty(survival.shape)
    refill = np.empty(len(prompt_tokens))
    for k in range(len(horizons)):
        # `expected_refill` of all requests at once, along rows: that is several times as quick.
        refill[:] = 0.0
        for j in range(1, k + 1):
            tokens = refilled[k - j]
            for i in range(len(refill)):
                refill[i] += (by_horizon[j - 1, i] - by_horizon[j, i]) * tokens
        for i in range(len(refill)):
            held = (prompt_tokens[i] + horizons[k]) * by_horizon[k, i]
            gains[i, k] = held + request_tokens + refill[i]
    return gains


@kernel
def refilled_from(
    prompt_tokens: Int64Array, grid: Int64Array, survival: Float64Array, num_parts: int
) -> Float64Array:
    """Return what slots hold that are refilled with requests like these; see `refilled_tokens`.

    Parameters
    ----------
    prompt_tokens : int64 array, shape (N,)
        Prompt lengths s.
    grid : int64 array, shape (J,)
        Steps ahead, evenly spaced from 0.
    survival : float64 array, shape (N, J)
        Probability that the output is longer.
    num_parts : int
        As for `refilled_tokens`.

    Examples
    --------
    >>> refilled_from(np.array([90, 110]), np.zeros(5, np.int64), np.ones((2, 5)), 2)
    array([100., 100.])
    """
    held, running = np.zeros(len(grid)), np.zeros(len(grid))
    for i in range(len(prompt_tokens)):
        for x in range(len(grid)):
            held[x] += (prompt_tokens[i] + grid[x]) * survival[i, x]
            running[x] += survival[i, x]
    return refilled_tokens(held / len(prompt_tokens), running / len(prompt_tokens), num_parts)


@kernel
def refilled_tokens(held: Float64Array, running: Float64Array, num_parts: int) -> Float64Array:
    """Return what a slot holds some time after it was refilled, whatever came since.

    Solves the renewal equation ``R(x) = E[(s + x) 1(D > x)] + sum_t f(t) R(x - t)`` on an even
    grid, where f is the chance to end in a part of it.

    Parameters
    ----------
    held : float64 array, shape (J,)
        ``E[(s + x) S(x)]`` at each point of the grid, tokens.
    running : float64 array, shape (J,)
        ``E[S(x)]``.
    num_parts : int
        Points of the grid per horizon, even; ``J - 1`` is a multiple of it.

    Returns
    -------
    float64 array, shape ((J - 1) / num_parts,)
        R at a half, one and a half, ... horizons.

    Examples
    --------
    A request of 100 tokens that neither ends nor grows:

    >>> refilled_tokens(np.full(5, 100.0), np.ones(5), 2)
    array([100., 100.])
    """
    slot = held.copy()
    for x in range(1, len(held)):
        # What ends in part t is refilled half a part before its end. For t = 1 half of that is
        # R(x) itself, which is solved for.
        ends_at_once = 0.5 * (running[0] - running[1])
        slot[x] += ends_at_once * slot[x - 1]
        for t in range(2, x + 1):
            slot[x] += 0.5 * (running[t - 1] - running[t]) * (slot[x - t] + slot[x - t + 1])
        slot[x] /= 1.0 - ends_at_once
    num_horizons = (len(held) - 1) // num_parts
    at_halves = np.empty(num_horizons)
    for j in range(num_horizons):
        at_halves[j] = slot[j * num_parts + num_parts // 2]
    return at_halves
