"""The ledger: exact resident tokens per request and rank, O(1) per event."""

from __future__ import annotations

import numpy as np

from balanceroute.errors import ConfigError
from balanceroute.kernels import ledger as kernels
from balanceroute.kernels.ledger import ENTRY_ACCOUNT, RANK_ACCOUNT, Accounts, RecordArray

UNLIMITED_TOKENS = 1 << 62  # stands for "no KV limit" in int64 arithmetic


class Ledger:
    """What each rank of a group holds, as far as the router has been told.

    A request is booked with `send`, gets a slot with `start`, becomes resident with `prefill`,
    grows with `grow` (or with `step`, one token for every decoding request of a rank), and leaves
    with `finish`; `preempt` sends it back to its rank's queue.

    Parameters
    ----------
    num_ranks : int
        G, at least 1.
    capacity : int
        Requests in flight to make room for at first; the ledger grows when it needs more.

    Examples
    --------
    >>> ledger = Ledger(num_ranks=2)
    >>> handle = ledger.send(rank=1, prompt_tokens=100)
    >>> ledger.start(handle)
    >>> ledger.prefill(handle, 100)
    >>> ledger.grow(handle, 3)
    >>> ledger.ranks["load_tokens"]
    array([  0, 103])
    >>> ledger.finish(handle)
    >>> ledger.ranks["load_tokens"]
    array([0, 0])
    """

    def __init__(self, *, num_ranks: int, capacity: int = 1024) -> None:
        if num_ranks < 1:
            raise ConfigError(f"num_ranks must be at least 1, got {num_ranks}")
        if capacity < 0:
            raise ConfigError(f"capacity must be at least 0, got {capacity}")
        self.accounts = _empty_accounts(np.zeros(num_ranks, RANK_ACCOUNT), capacity)

    @property
    def ranks(self) -> RecordArray:
        """Return the accounts per rank, records `RANK_ACCOUNT` of shape (G,); do not write them."""
        return self.accounts.ranks

    @property
    def num_ranks(self) -> int:
        """Return G."""
        return len(self.ranks)

    @property
    def capacity(self) -> int:
        """Return how many requests in flight there is room for at present."""
        return len(self.accounts.entries)

    def reserve(self, num_requests: int) -> None:
        """Make room for `num_requests` more requests in flight."""
        old = self.accounts
        num_free = int(old.num_free[0])
        if num_free >= num_requests:
            return
        num_new = max(self.capacity, num_requests - num_free)
        wider = _empty_accounts(old.ranks, self.capacity + num_new)
        wider.entries[: self.capacity] = old.entries
        # Handles of the old arrays that are free go on top of the stack, so they are used first.
        wider.free_handles[num_new : num_new + num_free] = old.free_handles[:num_free]
        wider.num_free[0] = num_new + num_free
        self.accounts = wider

    def send(self, *, rank: int, prompt_tokens: int) -> int:
        """Book a request sent to `rank` and return its handle."""
        self._expect_rank(rank)
        if prompt_tokens < 1:
            raise ConfigError(f"prompt_tokens must be at least 1, got {prompt_tokens}")
        self.reserve(1)
        return int(kernels.send(self.accounts, rank, prompt_tokens))

    def start(self, handle: int) -> None:
        """Book that a waiting request got a slot on its rank."""
        self._expect(handle, kernels.WAITING)
        kernels.start(self.accounts, handle)

    def prefill(self, handle: int, num_tokens: int) -> None:
        """Book `num_tokens` of a started request as resident; with the last one it decodes."""
        self._expect(handle, kernels.PREFILLING)
        due_tokens = int(self.accounts.entries["due_tokens"][handle])
        if not 1 <= num_tokens <= due_tokens:
            raise ConfigError(f"num_tokens must be in 1..{due_tokens}, got {num_tokens}")
        kernels.prefill(self.accounts, handle, num_tokens)

    def grow(self, handle: int, num_tokens: int = 1) -> None:
        """Book output tokens of one decoding request."""
        self._expect(handle, kernels.DECODING)
        if num_tokens < 0:
            raise ConfigError(f"num_tokens must be at least 0, got {num_tokens}")
        kernels.grow(self.accounts, handle, num_tokens)

    def step(self, rank: int) -> None:
        """Book one token for every decoding request of `rank`."""
        self._expect_rank(rank)
        kernels.step(self.accounts, rank)

    def preempt(self, handle: int) -> None:
        """Book that a running request lost its slot and tokens and waits to be recomputed."""
        self._expect(handle, kernels.PREFILLING, kernels.DECODING)
        kernels.preempt(self.accounts, handle)

    def finish(self, handle: int) -> None:
        """Close the account of a request that ended or was aborted."""
        self._expect(handle, kernels.WAITING, kernels.PREFILLING, kernels.DECODING)
        kernels.finish(self.accounts, handle)

    def resident_tokens(self, handle: int) -> int:
        """Return the KV tokens that a request holds on its rank."""
        self._expect(handle, kernels.WAITING, kernels.PREFILLING, kernels.DECODING)
        return int(kernels.resident_tokens(self.accounts, handle))

    def recount(self) -> RecordArray:
        """Add up the accounts per rank anew from the requests, to check the running totals.

        `clock` and `generated_tokens` are counters of what happened and are returned as they are.
        """
        fresh = np.zeros(self.num_ranks, RANK_ACCOUNT)
        for counter in ("clock", "generated_tokens"):
            fresh[counter] = self.ranks[counter]
        for entry in self.accounts.entries:
            if entry["state"] == kernels.FREE:
                continue
            there = fresh[entry["rank"]]
            there["due_tokens"] += entry["due_tokens"]
            if entry["state"] == kernels.WAITING:
                there["num_waiting"] += 1
                continue
            there["num_running"] += 1
            there["prompt_tokens"] += entry["prompt_tokens"]
            there["load_tokens"] += entry["base_tokens"]
            if entry["state"] == kernels.DECODING:
                there["num_decoding"] += 1
                there["load_tokens"] += there["clock"]
        return fresh

    def _expect_rank(self, rank: int) -> None:
        if not 0 <= rank < self.num_ranks:
            raise ConfigError(f"rank must be in 0..{self.num_ranks - 1}, got {rank}")

    def _expect(self, handle: int, *states: int) -> None:
        names = ["free", "waiting", "prefilling", "decoding"]
        is_known = 0 <= handle < self.capacity
        state = int(self.accounts.entries["state"][handle]) if is_known else kernels.FREE
        if state not in states:
            allowed = " or ".join(names[allowed_state] for allowed_state in states)
            raise ConfigError(
                f"request {handle} is {names[state]}, but must be {allowed} for this event"
            )


def _empty_accounts(ranks: RecordArray, capacity: int) -> Accounts:
    # The stack is popped from its end: low handles first.
    free_handles = np.arange(capacity - 1, -1, -1, dtype=np.int64)
    entries = np.zeros(capacity, ENTRY_ACCOUNT)
    return Accounts(ranks, entries, free_handles, np.array([capacity], np.int64))
