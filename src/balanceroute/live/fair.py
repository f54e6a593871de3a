"""Fair shares for tenants: which waiting requests a policy may see."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from balanceroute.live.group import LiveGroup
from balanceroute.live.ticket import Ticket

WINDOW_SLOTS, LEAST_WINDOW = 0.25, 32  # of a group's slots, and requests at least
MEAN_OF = 64  # requests that have ended last, of which the mean cost is taken
MAX_KEPT = 4096  # tenants that are remembered though nothing of theirs waits

Staged = tuple[int, int, "_Entry"]  # priority, number, request


@dataclass(eq=False, slots=True)
class _Tenant:
    """What a tenant has here, and what it has been given, both per unit of weight."""

    name: str
    staged: list[Staged] = field(default_factory=list)
    num_waiting: int = 0
    shown: float = 0.0  # tokens of requests that the policy has been shown so far
    served: float = 0.0  # tokens of those that have been sent
    num_tokens: int = 0  # the same, of itself


@dataclass(eq=False, slots=True)
class _Entry:
    """One request that waits or runs."""

    ticket: Ticket
    tenant: _Tenant
    arrived_s: float
    notify: Callable[[Ticket], None]
    cost: float = 0.0  # that it was shown at, tokens per weight
    is_staged: bool = True
    has_left: bool = False


class FairQueue:
    """Lets requests into a group's pool so that each tenant gets its share, whoever chooses there.

    A tenant's service is counted in tokens: prompts when they are sent, outputs when they end, both
    divided by the tenant's weight [1]_. Of all tenants that have requests waiting, the one that has
    been shown least is shown next, as long as it is not further than a window ahead of what the one
    served least has got. So a policy chooses freely inside the window, no tenant that waits falls
    behind another by more than that, and as long as anybody waits, somebody is in the pool. Who has
    had nothing here for a while begins level with the one served least: idleness earns no credit.

    Parameters
    ----------
    group : LiveGroup
        Whose pool it fills; a group that binds on arrival gets all at once.
    weight_of : callable
        Returns a tenant's weight, above 0, relative to the largest, which is 1.
    on_shown : callable
        Called when requests have come into the pool by themselves.
    clock : callable
        Returns seconds, as the group's does.

    References
    ----------
    .. [1] Y. Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, which counts
       the same way and has no window.

    Examples
    --------
    >>> from balanceroute.policies.classic import Fcfs
    >>> group = LiveGroup(num_ranks=1, policy=Fcfs(), num_slots=2)
    >>> queue = FairQueue(group, weight_of=lambda tenant: 1.0)
    >>> for tenant in 100 * ["flood"] + ["drop"]:
    ...     queue.enter(Ticket(prompt_tokens=10), tenant)
    >>> group.num_waiting, queue.num_staged
    (34, 67)
    >>> queue.has_room("flood", num_places=200), queue.has_room("drop", num_places=200)
    (False, True)

    Of the flood, 33 are in the pool, and the drop is, too.
    """

    def __init__(
        self,
        group: LiveGroup,
        *,
        weight_of: Callable[[str], float],
        on_shown: Callable[[], object] = bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._group, self._weight_of, self._on_shown = group, weight_of, on_shown
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        self._waiting: dict[_Tenant, None] = {}  # those that have requests waiting
        self._entries: dict[Ticket, _Entry] = {}
        self._numbers = itertools.count()
        self._floor = 0.0  # service of the tenant that has been served least of those that wait
        self._mean_tokens, self._num_ended = 0.0, 0  # of a request, and of how many
        self.num_staged = 0

    @property
    def window_tokens(self) -> float:
        """Return how far ahead a tenant may be, in tokens of a tenant of weight 1."""
        num_requests = max(LEAST_WINDOW, WINDOW_SLOTS * float(self._group.num_slots.sum()))
        return num_requests * self._mean_tokens

    def num_waiting(self, tenant: str) -> int:
        """Return how many requests of a tenant wait."""
        found = self._tenants.get(tenant)
        return found.num_waiting if found is not None else 0

    def num_tokens(self, tenant: str) -> int:
        """Return the tokens of a tenant so far: prompts that were sent, outputs that have ended."""
        found = self._tenants.get(tenant)
        return found.num_tokens if found is not None else 0

    def has_room(self, tenant: str, num_places: int) -> bool:
        """Tell whether a tenant may have another request waiting.

        It may have as many as there are places left, times its weight. So however many come from
        some tenants, there are always places for others.
        """
        num_left = num_places - self.num_staged - self._group.num_waiting
        return self.num_waiting(tenant) < self._weight_of(tenant) * num_left

    def enter(self, ticket: Ticket, tenant: str | None) -> None:
        """Let a request wait; without a tenant, or if it comes again, in the pool at once."""
        if tenant is None or self._group.is_immediate or ticket.number >= 0:
            self._group.enter(ticket)
            return
        its = self._tenants.get(tenant)
        if its is None:
            its = self._tenants[tenant] = _Tenant(tenant)
        if its not in self._waiting:
            self._waiting[its] = None
            its.shown = its.served = max(its.served, self._floor)
        entry = _Entry(ticket, its, self._clock() - ticket.age_s, ticket.on_placed)
        ticket.on_placed = self._note_placed
        self._entries[ticket] = entry
        its.num_waiting += 1
        heapq.heappush(its.staged, (ticket.priority, next(self._numbers), entry))
        self.num_staged += 1
        self._show()

    def leave(self, ticket: Ticket) -> None:
        """Take a request out that waits, if it does."""
        entry = self._entries.get(ticket)
        if entry is None:
            self._group.leave(ticket)
            return
        if entry.is_staged:
            entry.has_left = True
            self.num_staged -= 1
        elif self._group.leave(ticket):
            entry.tenant.shown -= entry.cost
        else:
            return
        del self._entries[ticket]
        self._leave_queue(entry.tenant)
        self._show_more()

    def end(self, ticket: Ticket) -> None:
        """Count what a request has been given that has ended on its rank."""
        entry = self._entries.pop(ticket, None)
        if entry is None:
            return
        output = ticket.output_tokens / self._weight_of(entry.tenant.name)
        entry.tenant.shown += output
        entry.tenant.served += output
        entry.tenant.num_tokens += ticket.output_tokens
        tokens = float(ticket.prompt_tokens + ticket.output_tokens)
        self._num_ended += 1
        self._mean_tokens += (tokens - self._mean_tokens) / min(self._num_ended, MEAN_OF)
        self._show_more()

    def _note_placed(self, ticket: Ticket) -> None:
        entry = self._entries[ticket]
        ticket.on_placed, ticket.arrived_s = entry.notify, entry.arrived_s
        self._leave_queue(entry.tenant)
        entry.tenant.served += entry.cost
        entry.tenant.num_tokens += ticket.prompt_tokens
        entry.notify(ticket)
        self._show_more()

    def _leave_queue(self, tenant: _Tenant) -> None:
        tenant.num_waiting -= 1
        if tenant.num_waiting == 0:
            del self._waiting[tenant]

    def _show_more(self) -> None:
        num_before = self.num_staged
        self._show()
        if self.num_staged < num_before:
            self._on_shown()

    def _show(self) -> None:
        """Let requests into the pool, of the tenant first that has been shown least."""
        if self._waiting:
            self._floor = max(self._floor, min(tenant.served for tenant in self._waiting))
        if len(self._tenants) > MAX_KEPT + len(self._waiting):
            self._forget()
        queued = [
            (its.shown, n, its) for n, its in enumerate(self._waiting) if self._has_staged(its)
        ]
        heapq.heapify(queued)
        while queued:
            _, n, its = queued[0]
            if self._mean_tokens == 0.0:
                self._mean_tokens = float(its.staged[0][2].ticket.prompt_tokens)
            if its.shown > self._floor + self.window_tokens:
                return
            self._admit(heapq.heappop(its.staged)[2])
            if self._has_staged(its):
                heapq.heapreplace(queued, (its.shown, n, its))
            else:
                heapq.heappop(queued)

    def _admit(self, entry: _Entry) -> None:
        entry.cost = entry.ticket.prompt_tokens / self._weight_of(entry.tenant.name)
        entry.tenant.shown += entry.cost
        entry.is_staged = False
        self.num_staged -= 1
        self._group.enter(entry.ticket)

    def _has_staged(self, tenant: _Tenant) -> bool:
        while tenant.staged and tenant.staged[0][2].has_left:
            heapq.heappop(tenant.staged)
        return bool(tenant.staged)

    def _forget(self) -> None:
        """Drop half of the tenants of which nothing waits, those first that have had least."""
        idle = [its for its in self._tenants.values() if its.num_waiting == 0]
        idle.sort(key=lambda its: its.served)
        for its in idle[: len(idle) // 2]:
            del self._tenants[its.name]
