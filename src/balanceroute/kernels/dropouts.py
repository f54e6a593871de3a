"""Load ahead of time if each request ends when expected: the published projection of BR-H.

A request of w tokens that is expected to go on for ĉ steps counts ``w + h`` at each horizon h below
ĉ and nothing from there on (design section 5). It stores w relative to its rank's clock, and a rank
has, for each of the coming H clocks, the sums over the requests that drop out there. So requests
that come, go or are looked at anew cost O(1), and a step of the group changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array, RecordArray
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import ENDED

NONE = -1

#: What is remembered of each request, shape (capacity,), by handle.
COUNTED = np.dtype(
    [
        ("rank", np.int64),  # NONE if the request is in no sum
        ("column", np.int64),  # of the sums
        ("base_tokens", np.int64),  # its tokens less its rank's clock, then as now
    ]
)


class Dropouts(NamedTuple):
    """Sums by the clock at which requests drop out, modulo H; those beyond are in column H."""

    counted: RecordArray  # COUNTED, shape (capacity,)
    num_reqs: Int64Array  # shape (G, H + 1)
    base_tokens: Int64Array  # shape (G, H + 1)


def no_dropouts(capacity: int, num_ranks: int, horizon: int) -> Dropouts:
    """Return a record of no requests.

    Examples
    --------
    >>> no_dropouts(4, 2, 80).num_reqs.shape
    (2, 81)
    """
    counted = np.zeros(capacity, COUNTED)
    counted["rank"] = NONE
    shape = (num_ranks, horizon + 1)
    return Dropouts(counted, np.zeros(shape, np.int64), np.zeros(shape, np.int64))


@kernel
def leave(dropouts: Dropouts, handle: int) -> None:
    """Take a request out of the sums, if it is in any."""
    request = dropouts.counted[handle]
    if request.rank != NONE:
        dropouts.num_reqs[request.rank, request.column] -= 1
        dropouts.base_tokens[request.rank, request.column] -= request.base_tokens
        request.rank = NONE


@kernel
def leave_ended(dropouts: Dropouts, events: RecordArray) -> None:
    """Take the requests that have ended out of the sums."""
    for i in range(len(events)):
        if events[i].kind == ENDED:
            leave(dropouts, events[i].handle)


@kernel
def enter(
    dropouts: Dropouts,
    followed: RecordArray,
    handles: Int64Array,
    tokens: Int64Array,
    steps: Float64Array,
    clocks: Int64Array,
    longest_wait: int,
) -> None:
    """Count requests until they are expected to end, and set when they are to be looked at again.

    Parameters
    ----------
    dropouts : Dropouts
        Changed in place.
    followed : FOLLOWED array, shape (capacity,)
        Ranks, and when to look (`kernels.project`). Changed in place.
    handles, tokens : int64 array, shape (N,)
        Requests, and the tokens of each (prompt and output).
    steps : float64 array, shape (N,)
        ĉ, in [1, H] steps. Whoever is expected to go on for H, rounded, counts at H too.
    clocks : int64 array, shape (G,)
        The ranks' clocks.
    longest_wait : int
        Steps after which a request is looked at again at the latest.
    """
    horizon = dropouts.num_reqs.shape[1] - 1
    for i in range(len(handles)):
        leave(dropouts, handles[i])
        request, mark = dropouts.counted[handles[i]], followed[handles[i]]
        clock, rounded = clocks[mark.rank], int(steps[i] + 0.5)
        request.rank = mark.rank
        request.base_tokens = tokens[i] - clock
        request.column = horizon if rounded >= horizon else (clock + rounded) % horizon
        dropouts.num_reqs[mark.rank, request.column] += 1
        dropouts.base_tokens[mark.rank, request.column] += request.base_tokens
        mark.due_clock = clock + min(rounded, longest_wait)


@kernel
def loads_ahead(dropouts: Dropouts, clocks: Int64Array) -> Float64Array:
    """Return what the ranks hold at each step from now on, O(G H).

    Parameters
    ----------
    dropouts : Dropouts
        In which nobody should have dropped out by now.
    clocks : int64 array, shape (G,)
        The ranks' clocks.

    Returns
    -------
    float64 array, shape (G, H + 1)
        Tokens, whole numbers.

    Examples
    --------
    At clock 7, of three requests of 50, 30 and 5 tokens one ends in a step and one in two.

    >>> from balanceroute.kernels.project import FOLLOWED
    >>> dropouts, clocks = no_dropouts(3, 1, 4), np.array([7])
    >>> tokens, steps = np.array([50, 30, 5]), np.array([1.0, 2.0, 4.0])
    >>> enter(dropouts, np.zeros(3, FOLLOWED), np.arange(3), tokens, steps, clocks, 10)
    >>> loads_ahead(dropouts, clocks)
    array([[85., 37.,  7.,  8.,  9.]])
    """
    num_ranks, horizon = len(clocks), dropouts.num_reqs.shape[1] - 1
    loads = np.empty((num_ranks, horizon + 1))
    for g in range(num_ranks):
        num_reqs, tokens = dropouts.num_reqs[g, horizon], dropouts.base_tokens[g, horizon]
        loads[g, horizon] = tokens + num_reqs * (clocks[g] + horizon)
        for h in range(horizon - 1, -1, -1):
            column = (clocks[g] + h + 1) % horizon
            num_reqs += dropouts.num_reqs[g, column]
            tokens += dropouts.base_tokens[g, column]
            loads[g, h] = tokens + num_reqs * (clocks[g] + h)
    return loads
