"""The router's pool of waiting requests, and checks of what a policy wants to take from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import Int64Array, RecordArray

#: What is known of a waiting request beyond its prompt's length and arrival, shape (N,).
REQUEST_TRAITS = np.dtype(
    [
        ("client_id", np.int64),  # -1 if unknown
        ("max_tokens", np.int64),  # its own limit of output tokens; 0 if unknown
        ("prompt_hash", np.int64),  # 0 if unknown
        ("preferred_rank", np.int64),  # -1 if there is none
        ("saved_tokens", np.int64),  # prompt tokens that the preferred rank would save
        ("cached_tokens", np.int64),  # prompt tokens that no rank has to compute
        ("priority", np.int64),  # lower goes earlier; 0 if nothing was said
        ("session", np.int64),  # equal for requests of one session; 0 if unknown
    ]
)

OK, UNEQUAL, BAD_REQUEST, TWICE, BAD_RANK, RANK_FULL = 0, 1, 2, 3, 4, 5


@kernel
def check_plan(
    requests: Int64Array, ranks: Int64Array, num_requests: int, max_sends: Int64Array
) -> tuple[int, int]:
    """Return `OK` or what is wrong with a plan, and the row of the plan where it is wrong."""
    if len(requests) != len(ranks):
        return UNEQUAL, 0
    is_taken = np.zeros(num_requests, np.bool_)
    sends = np.zeros(len(max_sends), np.int64)
    for row in range(len(requests)):
        request, rank = requests[row], ranks[row]
        if request < 0 or request >= num_requests:
            return BAD_REQUEST, row
        if is_taken[request]:
            return TWICE, row
        if rank < 0 or rank >= len(max_sends):
            return BAD_RANK, row
        if sends[rank] == max_sends[rank]:
            return RANK_FULL, row
        is_taken[request] = True
        sends[rank] += 1
    return OK, 0


@kernel
def take_out(
    positions: Int64Array,
    head: int,
    ids: Int64Array,
    prompt_tokens: Int64Array,
    arrival_s: NDArray[np.float64],
) -> int:
    """Close the gaps that the rows ``head + positions`` leave, and return the new head.

    Survivors older than the youngest one taken move up, so the cost depends on how far into the
    pool the plan reached and not on how many wait behind. `positions` is ascending.
    """
    if len(positions) == 0:
        return head
    write = head + positions[-1]
    next_taken = len(positions) - 1
    for read in range(head + positions[-1], head - 1, -1):
        if next_taken >= 0 and read == head + positions[next_taken]:
            next_taken -= 1
            continue
        ids[write] = ids[read]
        prompt_tokens[write] = prompt_tokens[read]
        arrival_s[write] = arrival_s[read]
        write -= 1
    return write + 1


@kernel
def take_out_traits(positions: Int64Array, head: int, traits: RecordArray) -> None:
    """Close the gaps in the traits as `take_out` does in the other columns."""
    if len(positions) == 0:
        return
    write = head + positions[-1]
    next_taken = len(positions) - 1
    for read in range(head + positions[-1], head - 1, -1):
        if next_taken >= 0 and read == head + positions[next_taken]:
            next_taken -= 1
            continue
        traits[write] = traits[read]
        write -= 1
