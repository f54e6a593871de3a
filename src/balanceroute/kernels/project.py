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
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import ENDED

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
def apply_events(projected: Projected, events: RecordArray) -> Int64Array:
    """Follow what has happened to requests.

    Parameters
    ----------
    projected : Projected
        Changed in place. Requests that came, or lost their slot, are due to be looked at.
    events : REQUEST_EVENT array, shape (number of events,)
        Oldest first.

    Returns
    -------
    int64 array, shape (number of events,)
        For `ENDED`: the age up to which the request was reported before; else `NONE`.
    """
    since = np.full(len(events), NONE, np.int64)
    for i in range(len(events)):
        event = events[i]
        mark = projected.followed[event.handle]
        if event.kind == ENDED:
            if mark.rank != NONE:
                since[i] = max(mark.since_tokens, 0)
                drop(projected, event.handle)
                mark.rank = NONE
            continue
        if mark.rank == NONE:
            mark.rank = event.rank
            mark.since_tokens = UNSEEN
        mark.due_clock = NOW
    return since


@kernel
def due_handles(projected: Projected, clocks: Int64Array) -> Int64Array:
    """Return the requests that are to be looked at anew."""
    followed = projected.followed
    handles, num_due = np.empty(len(followed), np.int64), 0
    for handle in range(len(followed)):
        mark = followed[handle]
        if mark.rank != NONE and mark.due_clock <= clocks[mark.rank]:
            handles[num_due] = handle
            num_due += 1
    return handles[:num_due]


@kernel
def last_reports(
    projected: Projected, handles: Int64Array, ages: Int64Array, clocks: Int64Array
) -> Int64Array:
    """Return the ages up to which requests were reported before, and note the present ones.

    A request cannot have generated more tokens than its rank has made steps. What it has beyond
    them it had before anybody watched.

    Parameters
    ----------
    projected : Projected
        Changed in place.
    handles, ages : int64 array, shape (N,)
        Requests and their output tokens so far.
    clocks : int64 array, shape (G,)
        The ranks' clocks.
    """
    since = np.empty(len(handles), np.int64)
    for i in range(len(handles)):
        mark = projected.followed[handles[i]]
        since[i] = mark.since_tokens
        if since[i] == UNSEEN:
            since[i] = max(0, ages[i] - clocks[mark.rank])
        since[i] = min(since[i], ages[i])
        mark.since_tokens = ages[i]
    return since


@kernel
def put(
    projected: Projected,
    handles: Int64Array,
    tokens: Int64Array,
    ages: Int64Array,
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
    handles, tokens, ages : int64 array, shape (N,)
        Requests, the tokens of each (prompt and output), and the output among them.
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
        mark.due_clock = clock + min(longest_wait, 8 + ages[i] // 8)
        for k in range(len(horizons)):
            running = survival[i, k]
            fixed = (tokens[i] - clock + horizons[k]) * running
            fixed += expected_refill(survival[i], refilled, k)
            projected.growing[handle, k], projected.fixed[handle, k] = running, fixed
            projected.rank_growing[mark.rank, k] += running
            projected.rank_fixed[mark.rank, k] += fixed


@kernel
def expected_refill(survival: Float64Array, refilled: Float64Array, k: int) -> float:
    """Return the tokens that the successors of a request will hold at horizon k, on average."""
    tokens = 0.0
    for j in range(1, k + 1):
        tokens += (survival[j - 1] - survival[j]) * refilled[k - j]
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
    gains = np.empty(survival.shape)
    for i in range(len(prompt_tokens)):
        for k in range(len(horizons)):
            gains[i, k] = (prompt_tokens[i] + horizons[k]) * survival[i, k] + request_tokens
            gains[i, k] += expected_refill(survival[i], refilled, k)
    return gains


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
