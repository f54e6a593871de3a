"""Token accounts of a group, as arrays; every event is O(1).

A request that decodes grows by one token at each step of its rank. Instead of touching every
request at every step, a rank counts its steps in `clock` and a decoding request stores its tokens
relative to that clock, so one step of a rank costs O(1) whatever it runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.arrays import Int64Array as Int64Array
from balanceroute.kernels.arrays import RecordArray as RecordArray
from balanceroute.kernels.jit import bare_kernel

FREE, WAITING, PREFILLING, DECODING = 0, 1, 2, 3
# Kinds of events: a request got a handle, its account was closed, it lost its slot.
SENT, ENDED, PREEMPTED = 0, 1, 2
UNKNOWN = -1  # a request or client that nobody named

#: Accounts per rank, shape (G,).
RANK_ACCOUNT = np.dtype(
    [
        ("load_tokens", np.int64),  # resident KV tokens
        ("due_tokens", np.int64),  # sent to the rank and not resident yet
        ("prompt_tokens", np.int64),  # prompts of the requests that run
        ("generated_tokens", np.int64),  # output tokens since the start, never reset
        ("num_running", np.int64),
        ("num_decoding", np.int64),
        ("num_waiting", np.int64),  # in the rank's own queue
        ("clock", np.int64),  # steps in which all decoding requests grew by one
    ]
)

#: Accounts per request in flight, shape (capacity,), by handle.
ENTRY_ACCOUNT = np.dtype(
    [
        ("rank", np.int64),
        ("state", np.int64),
        ("prompt_tokens", np.int64),
        ("due_tokens", np.int64),
        ("base_tokens", np.int64),  # resident tokens; while decoding, less the rank's clock
        ("request", np.int64),  # the owner's name for it; UNKNOWN if none was given
        ("client", np.int64),  # UNKNOWN if none was given
        ("max_tokens", np.int64),  # its own limit of output tokens; 0 if unknown
        ("prompt_hash", np.int64),  # 0 if unknown
        ("cached_tokens", np.int64),  # of the prompt, resident as soon as it has a slot
        ("next_free", np.int64),  # while the handle is free, the one to use after it
    ]
)

#: What there is one of in a ledger, shape (1,).
LEDGER_COUNTS = np.dtype(
    [
        ("first_free", np.int64),  # the handle to use next
        ("num_free", np.int64),
        ("num_events", np.int64),  # rows of the events in use
    ]
)

#: What happened to a request, one record per event, in the order in which it was booked.
REQUEST_EVENT = np.dtype(
    [
        ("kind", np.int64),  # SENT, ENDED or PREEMPTED
        ("handle", np.int64),
        ("request", np.int64),
        ("rank", np.int64),
        ("prompt_tokens", np.int64),
        ("generated_tokens", np.int64),  # output tokens so far, those before a preemption included
        ("client", np.int64),
        ("max_tokens", np.int64),
        ("prompt_hash", np.int64),
        ("has_completed", np.int64),  # ENDED: 1 if the request came to its own end, 0 if aborted
    ]
)


class Accounts(NamedTuple):
    """A ledger's arrays."""

    ranks: RecordArray  # RANK_ACCOUNT, shape (G,)
    entries: RecordArray  # ENTRY_ACCOUNT, shape (capacity,)
    events: RecordArray  # REQUEST_EVENT, shape (room for events,); no rows if none are kept
    counts: RecordArray  # LEDGER_COUNTS, shape (1,)


@bare_kernel
def has_event_room(accounts: Accounts) -> bool:
    """Tell whether each request in flight can note an event, or no events are kept."""
    if len(accounts.events) == 0:
        return True
    num_in_flight = len(accounts.entries) - accounts.counts[0].num_free
    return num_in_flight <= len(accounts.events) - accounts.counts[0].num_events


@bare_kernel
def resident_tokens(accounts: Accounts, handle: int) -> int:
    """Return the KV tokens that a request holds on its rank."""
    entry = accounts.entries[handle]
    if entry.state == DECODING:
        return entry.base_tokens + accounts.ranks[entry.rank].clock
    return entry.base_tokens


@bare_kernel
def note_event(accounts: Accounts, kind: int, handle: int, has_completed: int) -> None:
    """Note what happens to a request, before its account changes; the caller keeps room."""
    if len(accounts.events) == 0:
        return
    counts = accounts.counts[0]
    if counts.num_events == len(accounts.events):
        raise IndexError("no room for an event")  # our own fault; better than to lose it
    event, entry = accounts.events[counts.num_events], accounts.entries[handle]
    counts.num_events += 1
    event.kind = kind
    event.handle = handle
    event.request = entry.request
    event.rank = entry.rank
    event.prompt_tokens = entry.prompt_tokens
    # What is resident and what is due are its prompt and its output, after a preemption too.
    event.generated_tokens = (
        resident_tokens(accounts, handle) + entry.due_tokens - entry.prompt_tokens
    )
    event.client = entry.client
    event.max_tokens = entry.max_tokens
    event.prompt_hash = entry.prompt_hash
    event.has_completed = has_completed


@bare_kernel
def send(
    accounts: Accounts,
    rank: int,
    prompt_tokens: int,
    request: int,
    client: int,
    max_tokens: int,
    prompt_hash: int,
    cached_tokens: int,
) -> int:
    """Book a request sent to `rank` and return its handle; the caller keeps a handle free."""
    counts = accounts.counts[0]
    handle = counts.first_free
    entry, there = accounts.entries[handle], accounts.ranks[rank]
    counts.first_free = entry.next_free
    counts.num_free -= 1
    entry.rank = rank
    entry.state = WAITING
    entry.prompt_tokens = prompt_tokens
    entry.due_tokens = prompt_tokens
    entry.base_tokens = 0
    entry.request = request
    entry.client = client
    entry.max_tokens = max_tokens
    entry.prompt_hash = prompt_hash
    entry.cached_tokens = cached_tokens
    there.num_waiting += 1
    there.due_tokens += prompt_tokens
    note_event(accounts, SENT, handle, 0)
    return handle


@bare_kernel
def start(accounts: Accounts, handle: int) -> None:
    """Book that a waiting request got a slot; what is cached of its prompt is resident at once."""
    entry = accounts.entries[handle]
    there = accounts.ranks[entry.rank]
    entry.state = PREFILLING
    there.num_waiting -= 1
    there.num_running += 1
    there.prompt_tokens += entry.prompt_tokens
    prefill(accounts, handle, entry.cached_tokens)


@bare_kernel
def prefill(accounts: Accounts, handle: int, num_tokens: int) -> None:
    """Book `num_tokens` of a started request as resident; with the last one it decodes."""
    entry = accounts.entries[handle]
    there = accounts.ranks[entry.rank]
    entry.due_tokens -= num_tokens
    entry.base_tokens += num_tokens
    there.due_tokens -= num_tokens
    there.load_tokens += num_tokens
    if entry.due_tokens == 0:
        entry.state = DECODING
        entry.base_tokens -= there.clock
        there.num_decoding += 1


@bare_kernel
def step(accounts: Accounts, rank: int) -> None:
    """Book one step of a rank: each of its decoding requests grows by one token."""
    there = accounts.ranks[rank]
    there.clock += 1
    there.load_tokens += there.num_decoding
    there.generated_tokens += there.num_decoding


@bare_kernel
def grow(accounts: Accounts, handle: int, num_tokens: int) -> None:
    """Book `num_tokens` output tokens of one decoding request."""
    entry = accounts.entries[handle]
    there = accounts.ranks[entry.rank]
    entry.base_tokens += num_tokens
    there.load_tokens += num_tokens
    there.generated_tokens += num_tokens


@bare_kernel
def release(accounts: Accounts, handle: int) -> int:
    """Take a running request's tokens and slot off its rank; return the tokens it held."""
    tokens = resident_tokens(accounts, handle)
    entry = accounts.entries[handle]
    there = accounts.ranks[entry.rank]
    there.load_tokens -= tokens
    there.num_running -= 1
    there.prompt_tokens -= entry.prompt_tokens
    if entry.state == DECODING:
        there.num_decoding -= 1
    return tokens


@bare_kernel
def preempt(accounts: Accounts, handle: int) -> None:
    """Book that a running request lost its slot and KV tokens, to be recomputed later."""
    note_event(accounts, PREEMPTED, handle, 0)
    tokens = release(accounts, handle)
    entry = accounts.entries[handle]
    there = accounts.ranks[entry.rank]
    entry.state = WAITING
    entry.base_tokens = 0
    entry.due_tokens += tokens
    there.due_tokens += tokens
    there.num_waiting += 1


@bare_kernel
def finish(accounts: Accounts, handle: int, has_completed: int) -> None:
    """Close the account of a request that ended or was aborted, wherever it was."""
    note_event(accounts, ENDED, handle, has_completed)
    entry = accounts.entries[handle]
    there = accounts.ranks[entry.rank]
    if entry.state == WAITING:
        there.num_waiting -= 1
    else:
        release(accounts, handle)
    there.due_tokens -= entry.due_tokens
    entry.state = FREE
    counts = accounts.counts[0]
    entry.next_free = counts.first_free
    counts.first_free = handle
    counts.num_free += 1
