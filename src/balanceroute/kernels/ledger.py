"""Token accounts of a group, as arrays; every event is O(1).

A request that decodes grows by one token at each step of its rank. Instead of touching every
request at every step, a rank counts its steps in `clock` and a decoding request stores its tokens
relative to that clock, so one step of a rank costs O(1) whatever it runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels.jit import kernel

Int64Array = NDArray[np.int64]
RecordArray = NDArray[Any]  # one record per row; kernels read fields as attributes

FREE, WAITING, PREFILLING, DECODING = 0, 1, 2, 3


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
    ]
)


class Accounts(NamedTuple):
    """A ledger's arrays."""

    ranks: RecordArray  # RANK_ACCOUNT, shape (G,)
    entries: RecordArray  # ENTRY_ACCOUNT, shape (capacity,)
    free_handles: Int64Array  # shape (capacity,), stack of unused handles, the next one on top
    num_free: Int64Array  # shape (1,)


@kernel
def send(accounts: Accounts, rank: int, prompt_tokens: int) -> int:
    """Book a request sent to `rank` and return its handle; the caller keeps a handle free."""
    accounts.num_free[0] -= 1
    handle = accounts.free_handles[accounts.num_free[0]]
    entry, there = accounts.entries[handle], accounts.ranks[rank]
    entry.rank = rank
    entry.state = WAITING
    entry.prompt_tokens = prompt_tokens
    entry.due_tokens = prompt_tokens
    entry.base_tokens = 0
    there.num_waiting += 1
    there.due_tokens += prompt_tokens
    return handle


@kernel
def start(accounts: Accounts, handle: int) -> None:
    """Book that a waiting request got a slot; nothing of it is resident yet."""
    entry = accounts.entries[handle]
    there = accounts.ranks[entry.rank]
    entry.state = PREFILLING
    there.num_waiting -= 1
    there.num_running += 1
    there.prompt_tokens += entry.prompt_tokens


@kernel
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


@kernel
def step(accounts: Accounts, rank: int) -> None:
    """Book one step of a rank: each of its decoding requests grows by one token."""
    there = accounts.ranks[rank]
    there.clock += 1
    there.load_tokens += there.num_decoding
    there.generated_tokens += there.num_decoding


@kernel
def grow(accounts: Accounts, handle: int, num_tokens: int) -> None:
    """Book `num_tokens` output tokens of one decoding request."""
    entry = accounts.entries[handle]
    there = accounts.ranks[entry.rank]
    entry.base_tokens += num_tokens
    there.load_tokens += num_tokens
    there.generated_tokens += num_tokens


@kernel
def resident_tokens(accounts: Accounts, handle: int) -> int:
    """Return the KV tokens that a request holds on its rank."""
    entry = accounts.entries[handle]
    if entry.state == DECODING:
        return entry.base_tokens + accounts.ranks[entry.rank].clock
    return entry.base_tokens


@kernel
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


@kernel
def preempt(accounts: Accounts, handle: int) -> None:
    """Book that a running request lost its slot and KV tokens, to be recomputed later."""
    tokens = release(accounts, handle)
    entry = accounts.entries[handle]
    there = accounts.ranks[entry.rank]
    entry.state = WAITING
    entry.base_tokens = 0
    entry.due_tokens += tokens
    there.due_tokens += tokens
    there.num_waiting += 1


@kernel
def finish(accounts: Accounts, handle: int) -> None:
    """Close the account of a request that ended or was aborted, wherever it was."""
    entry = accounts.entries[handle]
    there = accounts.ranks[entry.rank]
    if entry.state == WAITING:
        there.num_waiting -= 1
    else:
        release(accounts, handle)
    there.due_tokens -= entry.due_tokens
    entry.state = FREE
    accounts.free_handles[accounts.num_free[0]] = handle
    accounts.num_free[0] += 1
