"""Requests on their way from the router to a rank, until they are in its queue."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.jit import bare_kernel
from balanceroute.kernels.scheduler import NONE, Group, clock_of, enqueue


@bare_kernel
def post(group: Group, rank: int, handle: int, arrives_s: float) -> None:
    """Put a request on its way to a rank, behind those sent before it."""
    engine = group.engines[rank]
    if engine.num_coming == 0:
        engine.coming_head = handle
    else:
        group.seats[engine.coming_tail].next = handle
    engine.coming_tail = handle
    group.seats[handle].arrives_s = arrives_s
    engine.num_coming += 1
    group.clocks[clock_of(group, rank)].num_coming += 1


@bare_kernel
def deliver(group: Group, rank: int, now_s: float) -> None:
    """Move the requests that have reached a rank by `now_s` to its queue, in the order of sends.

    One that would overtake waits behind the one before it and comes with it.
    """
    engine, clock = group.engines[rank], group.clocks[clock_of(group, rank)]
    while engine.num_coming > 0 and group.seats[engine.coming_head].arrives_s <= now_s:
        handle = engine.coming_head
        engine.coming_head = group.seats[handle].next
        group.seats[handle].next = NONE
        engine.num_coming -= 1
        clock.num_coming -= 1
        enqueue(group, rank, handle)


@bare_kernel
def deliver_all(group: Group, which: int) -> None:
    """Let the ranks of a clock have the requests that have reached them by its time."""
    num_ranks = len(group.engines) // len(group.clocks)
    for g in range(which * num_ranks, (which + 1) * num_ranks):
        deliver(group, g, group.clocks[which].now_s)


@bare_kernel
def first_to_get(group: Group) -> tuple[int, float]:
    """Return the clock whose idle ranks are the next to be reached by a request, and when.

    `NONE` and infinity if no request is on its way to a rank that waits for one.
    """
    num_ranks = len(group.engines) // len(group.clocks)
    first, first_s = NONE, np.inf
    for which in range(len(group.clocks)):
        if group.clocks[which].in_step == 1 or group.clocks[which].num_coming == 0:
            continue
        for g in range(which * num_ranks, (which + 1) * num_ranks):
            engine = group.engines[g]
            if engine.num_coming > 0 and group.seats[engine.coming_head].arrives_s < first_s:
                first, first_s = which, group.seats[engine.coming_head].arrives_s
    return first, first_s


@bare_kernel
def hide_coming(group: Group) -> None:
    """Take requests on their way off the accounts: ranks decide by what has reached them."""
    for g in range(len(group.engines)):
        group.accounts.ranks[g].num_waiting -= group.engines[g].num_coming
