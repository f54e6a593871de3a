"""Placement where there is a free slot for everybody."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import Int64Array
from balanceroute.kernels.placing import NONE, Ranks, Waiting, envelope_of, place


@kernel
def plan_spread(ranks: Ranks, waiting: Waiting, order: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Place as many requests as can be where there is a slot for each of them.

    There is nothing to choose among the requests, so each, the heaviest first, goes to the rank
    that will have the least work with it; or to the rank that saves it prompt tokens, while that
    does not raise the envelope.

    Parameters
    ----------
    ranks, waiting : Ranks, Waiting
        Before the plan; changed in place. Only the present counts: K is 1.
    order : int64 array, shape (N,)
        Requests in the order in which they are placed.

    Returns
    -------
    tuple of int64 arrays, shape (number placed,)
        Positions in the pool and their ranks.

    Examples
    --------
    >>> ranks = Ranks(np.array([[50.0], [0.0]]), np.array([50.0, 0.0]), np.ones(2),
    ...               np.array([4, 4]), np.array([1000, 1000]))
    >>> prompts, nobody = np.array([10, 45, 30]), np.full(3, -1)
    >>> waiting = Waiting(prompts, prompts[:, None] * 1.0, np.zeros(3), nobody, nobody * 0,
    ...                   np.zeros(3, np.int64))
    >>> plan_spread(ranks, waiting, np.array([1, 2, 0]))
    (array([1, 2, 0]), array([1, 1, 0]))
    """
    nothing = np.zeros(1)  # slots that stay free hold nothing
    requests, places = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    num_placed = 0
    for request in order:
        rank = lightest(ranks, waiting, request, envelope_of(ranks))
        if rank == NONE:
            continue
        place(ranks, waiting, nothing, request, rank)
        requests[num_placed], places[num_placed] = request, rank
        num_placed += 1
    return requests[:num_placed], places[:num_placed]


@kernel
def lightest(ranks: Ranks, waiting: Waiting, request: int, envelope: float) -> int:
    """Return the rank that will have the least work with a request, or `NONE` if none has room."""
    best, least = NONE, np.inf
    for g in range(len(ranks.work)):
        if ranks.sends[g] <= 0 or waiting.prompt_tokens[request] > ranks.free_kv[g]:
            continue
        work = ranks.work[g] + waiting.gains[request, 0] / ranks.speeds[g]
        if g == waiting.preferred[request] and work <= envelope:
            return g
        if work < least:
            best, least = g, work
    return best
