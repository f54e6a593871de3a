"""From events and accounts to what is projected of requests, and what a classifier is told."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.ages import age_tokens
from balanceroute.kernels.arrays import Int64Array, RecordArray
from balanceroute.kernels.jit import bare_kernel, kernel
from balanceroute.kernels.ledger import ENDED
from balanceroute.kernels.project import (
    AGE,
    CLIENT,
    HAS_COMPLETED,
    LIMIT,
    NONE,
    NOW,
    NUM_COLUMNS,
    PROMPT_HASH,
    PROMPT_TOKENS,
    REQUEST,
    SINCE,
    UNSEEN,
    Projected,
    drop,
)


@bare_kernel
def apply_events(projected: Projected, events: RecordArray, told: Int64Array, num_told: int) -> int:
    """Follow what has happened to requests, and note the ends of those that were followed.

    Parameters
    ----------
    projected : Projected
        Changed in place. Requests that came, or lost their slot, are due to be looked at.
    events : REQUEST_EVENT array, shape (number of events,)
        Oldest first.
    told : int64 array, shape (NUM_COLUMNS, room)
        Gets a column for each end, behind those that there are; with room for all events.
    num_told : int
        Columns that there are.

    Returns
    -------
    int
        Columns that there are now.
    """
    for i in range(len(events)):
        event = events[i]
        mark = projected.followed[event.handle]
        if event.kind != ENDED:
            if mark.rank == NONE:
                mark.rank = event.rank
                mark.since_tokens = UNSEEN
            mark.due_clock = NOW
        elif mark.rank != NONE:
            told[REQUEST, num_told] = event.request
            told[PROMPT_TOKENS, num_told] = event.prompt_tokens
            told[AGE, num_told] = event.generated_tokens
            told[CLIENT, num_told] = event.client
            told[LIMIT, num_told] = event.max_tokens
            told[PROMPT_HASH, num_told] = event.prompt_hash
            told[SINCE, num_told] = min(max(mark.since_tokens, 0), event.generated_tokens)
            told[HAS_COMPLETED, num_told] = event.has_completed
            num_told += 1
            drop(projected, event.handle)
            mark.rank = NONE
    return num_told


@kernel
def report_due(
    projected: Projected, entries: RecordArray, clocks: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Return the requests that are to be looked at anew, and note how far they have got.

    A request cannot have generated more tokens than its rank has made steps. What it has beyond
    them it had before anybody watched.

    Parameters
    ----------
    projected : Projected
        Changed in place.
    entries : ENTRY_ACCOUNT array, shape (capacity,)
        Accounts by handle.
    clocks : int64 array, shape (G,)
        The ranks' clocks, of the same moment.

    Returns
    -------
    tuple of int64 arrays, shapes (N,) and (NUM_COLUMNS, N)
        Their handles, and what is known of them; nobody's end is among it.
    """
    followed = projected.followed
    handles, num_due = np.empty(len(followed), np.int64), 0
    for handle in range(len(followed)):
        mark = followed[handle]
        if mark.rank != NONE and mark.due_clock <= clocks[mark.rank]:
            handles[num_due] = handle
            num_due += 1
    told = np.empty((NUM_COLUMNS, num_due), np.int64)
    for i in range(num_due):
        entry, mark = entries[handles[i]], followed[handles[i]]
        age, since = age_tokens(entry, clocks[entry.rank]), mark.since_tokens
        if since == UNSEEN:
            since = max(0, age - clocks[mark.rank])
        mark.since_tokens = age
        told[REQUEST, i] = entry.request
        told[PROMPT_TOKENS, i] = entry.prompt_tokens
        told[AGE, i] = age
        told[CLIENT, i] = entry.client
        told[LIMIT, i] = entry.max_tokens
        told[PROMPT_HASH, i] = entry.prompt_hash
        told[SINCE, i] = min(since, age)
        told[HAS_COMPLETED, i] = 0
    return handles[:num_due], told
