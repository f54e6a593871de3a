"""Ranks and waiting requests as LEVEL's kernels fill the one from the other."""

from __future__ import annotations

from typing import NamedTuple

from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.jit import bare_kernel

NONE = -1
FREE, TAKEN, HELD = 0, 1, 2  # of a waiting request: nothing yet; placed; a rank keeps room for it


class Ranks(NamedTuple):
    """The ranks as a plan fills them; all arrays are changed in place."""

    projected: Float64Array  # shape (G, K): load ahead, mean requests in the slots still free
    work: Float64Array  # shape (G,): present load in time, over speed
    speeds: Float64Array  # shape (G,): above 0
    sends: Int64Array  # shape (G,): requests that it may still take
    free_kv: Int64Array  # shape (G,): prompt tokens that it may still take


class Waiting(NamedTuple):
    """The requests to choose from, oldest first."""

    prompt_tokens: Int64Array  # shape (N,)
    gains: Float64Array  # shape (N, K): load that the request would add, by horizon
    waits: Float64Array  # shape (N,): time waited, in mean waits
    preferred: Int64Array  # shape (N,): the rank that would save prompt tokens, or -1
    saved_tokens: Int64Array  # shape (N,)
    is_taken: Int64Array  # shape (N,): FREE, TAKEN or HELD; changed in place


@bare_kernel
def envelope_of(ranks: Ranks) -> float:
    """Return the work of the busiest rank."""
    most = ranks.work[0]
    for work in ranks.work:
        most = max(most, work)
    return most


@bare_kernel
def place(ranks: Ranks, waiting: Waiting, mean_gain: Float64Array, request: int, rank: int) -> None:
    """Book a request on a rank, in the place of a mean one."""
    waiting.is_taken[request] = TAKEN
    ranks.sends[rank] -= 1
    ranks.free_kv[rank] -= waiting.prompt_tokens[request]
    ranks.work[rank] += waiting.gains[request, 0] / ranks.speeds[rank]
    for k in range(len(mean_gain)):
        ranks.projected[rank, k] += waiting.gains[request, k] - mean_gain[k]
