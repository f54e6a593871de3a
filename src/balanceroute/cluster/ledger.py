"""The ledger: exact resident tokens per request and rank, O(1) per event."""

from __future__ import annotations

import numpy as np

from balanceroute.cluster.events import NO_EVENTS, events_of, join_events
from balanceroute.cluster.recount import recount
from balanceroute.errors import ConfigError
from balanceroute.kernels import ages
from balanceroute.kernels import ledger as kernels
from balanceroute.kernels.ledger import (
    ENTRY_ACCOUNT,
    LEDGER_COUNTS,
    RANK_ACCOUNT,
    REQUEST_EVENT,
    UNKNOWN,
    Accounts,
    Int64Array,
    RecordArray,
)

UNLIMITED_TOKENS = 1 << 62  # stands for "no KV limit" in int64 arithmetic
FEWEST_EVENT_ROWS = 64


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
    keeps_events : bool
        Note what happens to requests, for `take_events`.

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

    def __init__(self, *, num_ranks: int, capacity: int = 1024, keeps_events: bool = False) -> None:
        if num_ranks < 1:
            raise ConfigError(f"num_ranks must be at least 1, got {num_ranks}")
        if capacity < 0:
            raise ConfigError(f"capacity must be at least 0, got {capacity}")
        num_rows = max(capacity, FEWEST_EVENT_ROWS) if keeps_events else 0
        self.accounts = Accounts(
            np.zeros(num_ranks, RANK_ACCOUNT),
            _free_entries(capacity),
            np.zeros(num_rows, REQUEST_EVENT),
            np.array([(0, capacity, 0)], LEDGER_COUNTS),
        )
        # Views that outlive every change of `accounts`, whose `counts` always stay the same array.
        self._num_free = self.accounts.counts["num_free"]
        self._num_events = self.accounts.counts["num_events"]
        self._earlier_events: list[RecordArray] = []

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

    @property
    def num_in_flight(self) -> int:
        """Return how many requests have a handle."""
        return self.capacity - int(self._num_free[0])

    @property
    def keeps_events(self) -> bool:
        """Tell whether `take_events` has something to give."""
        return len(self.accounts.events) > 0

    def add_rank(self) -> None:
        """Open accounts for one more rank, the last one."""
        ranks = np.zeros(self.num_ranks + 1, RANK_ACCOUNT)
        ranks[:-1] = self.accounts.ranks
        self.accounts = self.accounts._replace(ranks=ranks)

    def retold_events(self) -> RecordArray:
        """Return what would tell of all requests in flight to one who has heard of none."""
        return events_of(self.accounts.entries)

    def reserve(self, num_requests: int) -> None:
        """Make room for `num_requests` more requests in flight."""
        num_free = int(self._num_free[0])
        if num_free >= num_requests:
            return
        old = self.accounts.entries
        num_new = max(len(old), num_requests - num_free)
        entries = _free_entries(len(old) + num_new)
        entries[: len(old)] = old
        # The last free handle of an array always leads to its end, which is the first new handle.
        self._num_free += num_new
        self.accounts = self.accounts._replace(entries=entries)

    def reserve_events(self, num_events: int) -> None:
        """Make room for `num_events` more events; none that was noted is lost."""
        if not self.keeps_events:
            return
        events = self.accounts.events
        if self._num_events[0] + num_events <= len(events):
            return
        self._earlier_events.append(self._used_events().copy())
        self._num_events[0] = 0
        if len(events) < 2 * num_events:  # so that room is short again only after as many events
            self.accounts = self.accounts._replace(events=np.zeros(2 * num_events, REQUEST_EVENT))

    def take_events(self) -> RecordArray:
        """Return what has happened to requests since the last call, oldest first.

        Returns
        -------
        REQUEST_EVENT array, shape (number of events,)
            The caller's own.

        Raises
        ------
        ConfigError
            If the ledger keeps no events.

        Examples
        --------
        >>> ledger = Ledger(num_ranks=1, keeps_events=True)
        >>> ledger.finish(ledger.send(rank=0, prompt_tokens=9, request=7))
        >>> ledger.take_events()[["kind", "request", "has_completed"]].tolist()
        [(0, 7, 0), (1, 7, 1)]
        >>> len(ledger.take_events())
        0
        """
        if not self.keeps_events:
            raise ConfigError("this ledger keeps no events; make it with keeps_events=True")
        latest = self._used_events()
        if len(latest) == 0 and not self._earlier_events:
            return NO_EVENTS
        taken = join_events([*self._earlier_events, latest])
        self._earlier_events.clear()
        self._num_events[0] = 0
        return taken

    def forget_events(self) -> None:
        """Let go of what `take_events` would return, where nobody wants to hear of it."""
        self._earlier_events.clear()
        self._num_events[0] = 0

    def _used_events(self) -> RecordArray:
        return self.accounts.events[: int(self._num_events[0])]

    def send(
        self,
        *,
        rank: int,
        prompt_tokens: int,
        request: int = UNKNOWN,
        client: int = UNKNOWN,
        max_tokens: int = 0,
        prompt_hash: int = 0,
        cached_tokens: int = 0,
    ) -> int:
        """Book a request sent to `rank` and return its handle.

        Parameters
        ----------
        rank, prompt_tokens : int
            Where it goes, and how long its prompt is, at least 1.
        request, client : int
            The owner's names for the request and for who sent it; -1 if there are none.
        max_tokens : int
            The request's own limit of output tokens; 0 if unknown.
        prompt_hash : int
            Hash of its whole prompt; 0 if unknown.
        cached_tokens : int
            Prompt tokens that are resident as soon as it has a slot; less than its prompt has.
        """
        self._expect_rank(rank)
        if prompt_tokens < 1:
            raise ConfigError(f"prompt_tokens must be at least 1, got {prompt_tokens}")
        if max_tokens < 0:
            raise ConfigError(f"max_tokens must be at least 0, got {max_tokens}")
        if not 0 <= cached_tokens < prompt_tokens:
            raise ConfigError(
                f"cached_tokens must be in 0..{prompt_tokens - 1}, got {cached_tokens}"
            )
        self.reserve(1)
        self.reserve_events(1)
        known = (request, client, max_tokens, prompt_hash, cached_tokens)
        return int(kernels.send(self.accounts, rank, prompt_tokens, *known))

    def start(self, handle: int) -> None:
        """Book that a waiting request got a slot; what is cached of its prompt is resident then."""
        self.expect(handle, kernels.WAITING)
        kernels.start(self.accounts, handle)

    def prefill(self, handle: int, num_tokens: int) -> None:
        """Book `num_tokens` of a started request as resident; with the last one it decodes."""
        self.expect(handle, kernels.PREFILLING)
        due_tokens = int(self.accounts.entries["due_tokens"][handle])
        if not 1 <= num_tokens <= due_tokens:
            raise ConfigError(f"num_tokens must be in 1..{due_tokens}, got {num_tokens}")
        kernels.prefill(self.accounts, handle, num_tokens)

    def grow(self, handle: int, num_tokens: int = 1) -> None:
        """Book output tokens of one decoding request."""
        self.expect(handle, kernels.DECODING)
        if num_tokens < 0:
            raise ConfigError(f"num_tokens must be at least 0, got {num_tokens}")
        kernels.grow(self.accounts, handle, num_tokens)

    def step(self, rank: int) -> None:
        """Book one token for every decoding request of `rank`."""
        self._expect_rank(rank)
        kernels.step(self.accounts, rank)

    def preempt(self, handle: int) -> None:
        """Book that a running request lost its slot and tokens and waits to be recomputed."""
        self.expect(handle, kernels.PREFILLING, kernels.DECODING)
        self.reserve_events(1)
        kernels.preempt(self.accounts, handle)

    def finish(self, handle: int, *, has_completed: bool = True) -> None:
        """Close the account of a request that ended, or was aborted (`has_completed` False)."""
        self.expect(handle, kernels.WAITING, kernels.PREFILLING, kernels.DECODING)
        self.reserve_events(1)
        kernels.finish(self.accounts, handle, int(has_completed))

    def resident_tokens(self, handle: int) -> int:
        """Return the KV tokens that a request holds on its rank."""
        self.expect(handle, kernels.WAITING, kernels.PREFILLING, kernels.DECODING)
        return int(kernels.resident_tokens(self.accounts, handle))

    def age_tokens(self, handle: int) -> int:
        """Return the output tokens that a request has so far."""
        self.expect(handle, kernels.WAITING, kernels.PREFILLING, kernels.DECODING)
        entry = self.accounts.entries[handle]
        return int(ages.age_tokens(entry, int(self.ranks["clock"][entry["rank"]])))

    def recount(self) -> RecordArray:
        """Add up the accounts per rank anew from the requests, to check the running totals.

        `clock` and `generated_tokens` are counters of what happened and are returned as they are.
        """
        return recount(self.accounts)

    def _expect_rank(self, rank: int) -> None:
        if not 0 <= rank < self.num_ranks:
            raise ConfigError(f"rank must be in 0..{self.num_ranks - 1}, got {rank}")

    def expect(self, handle: int, *states: int) -> None:
        """Raise `ConfigError` unless a request is in one of these states."""
        names = ["free", "waiting", "prefilling", "decoding"]
        is_known = 0 <= handle < self.capacity
        state = int(self.accounts.entries["state"][handle]) if is_known else kernels.FREE
        if state not in states:
            allowed = " or ".join(names[allowed_state] for allowed_state in states)
            raise ConfigError(
                f"request {handle} is {names[state]}, but must be {allowed} for this event"
            )


def _free_entries(capacity: int) -> RecordArray:
    entries = np.zeros(capacity, ENTRY_ACCOUNT)
    entries["next_free"] = np.arange(1, capacity + 1)
    return entries


def add_sends(seen: RecordArray, ranks: Int64Array, prompt_tokens: Int64Array) -> None:
    """Count requests just sent as queued in accounts that will not show them for a while."""
    np.add.at(seen["num_waiting"], ranks, 1)
    np.add.at(seen["due_tokens"], ranks, prompt_tokens)
