"""The ranks as one client of vLLM knows them, and which request goes where; without I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.ledger import UNLIMITED_TOKENS, Ledger
from balanceroute.cluster.streams import resize
from balanceroute.kernels import outputs as kernels
from balanceroute.kernels.ledger import Int64Array
from balanceroute.live.group import LiveGroup
from balanceroute.live.ticket import Ticket
from balanceroute.policies.auto import BrAuto
from balanceroute.policies.base import Policy, times_releases
from balanceroute.policies.classic import LeastTokens
from balanceroute.vllm_plugin.ahead import Ahead
from balanceroute.vllm_plugin.facts import (
    AT_LIMIT,
    COMPLETE,
    Output,
    RequestFacts,
    forget,
    ticket_of,
)

NO_RANK = -1
SILENT_STEPS = 2  # steps without a token, while others have some, that mean a preemption
MOST_UNTOLD = 50_000  # requests booked since a policy was asked last


class Balancer:
    """Exact accounts of what one client has sent, and the choice of ranks.

    Parameters
    ----------
    num_ranks, num_slots, kv_tokens : int
        Of the group, and of each rank.
    policy : Policy
        A fresh one.
    is_pooled : bool
        Whether requests may be held.
    ahead : Ahead or None
        Says how many requests a rank may have beyond its slots then; None: none.
    renew : callable or None
        Returns a fresh policy, for `renew_policy`.
    costs : StepCosts or None
        What a step costs, if that is known.
    silent_steps : int
        As the constant of that name; more where a rank's requests take turns.
    clock : callable
        Returns seconds.

    Examples
    --------
    >>> balancer = Balancer(num_ranks=2, num_slots=8, kv_tokens=1000, policy=LeastTokens())
    >>> [balancer.place(RequestFacts(request_id=name, prompt_tokens=tokens))
    ...  for name, tokens in [("a", 100), ("b", 10), ("c", 10)]]
    [0, 1, 1]
    """

    def __init__(
        self,
        *,
        num_ranks: int,
        num_slots: int,
        kv_tokens: int,
        policy: Policy,
        is_pooled: bool = False,
        ahead: Ahead | None = None,
        renew: Callable[[], Policy] | None = None,
        costs: StepCosts | None = None,
        silent_steps: int = SILENT_STEPS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.group = LiveGroup(
            num_ranks=num_ranks,
            policy=policy,
            num_slots=num_slots,
            kv_tokens=kv_tokens,
            costs=costs,
            is_immediate=not is_pooled,
            learns_costs=is_pooled and costs is None,
            clock=clock,
        )
        self._kv_tokens, self._clock, self._silent_steps = kv_tokens, clock, silent_steps
        self._num_slots, self._ahead = num_slots, ahead if is_pooled else None
        self._renew, self._num_untold = renew, 0
        # What these do with a lone request, while they know of no prefill, is one kernel.
        is_plain = type(policy) in (LeastTokens, BrAuto) and costs is None
        self._is_lightest = is_plain and not is_pooled
        if self._is_lightest:  # nobody will ask for events
            self.group.ledger = Ledger(num_ranks=num_ranks)
        self._first_rank = 0
        self._is_open = np.ones(num_ranks, np.bool_)
        self._tickets: dict[str, Ticket] = {}
        self._steps = [0] * num_ranks
        self._last_steps = np.zeros(self.group.ledger.capacity, np.int64)
        self._others_load_tokens = np.zeros(num_ranks, np.int64)
        self._time_s: float | None = None
        self.token_seconds = np.zeros(3)  # as `add_time` has them
        self.busy_s = 0.0
        self.num_preemptions = 0

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._tickets

    @property
    def num_in_flight(self) -> int:
        """Return how many requests are on the ranks."""
        return len(self._tickets)

    @property
    def num_reqs(self) -> list[int]:
        """Return how many requests are on each rank."""
        accounts = self.group.ledger.ranks
        num_reqs: list[int] = (accounts["num_running"] + accounts["num_waiting"]).tolist()
        return num_reqs

    def place(self, facts: RequestFacts) -> int:
        """Choose a rank for a request that has to have one now, and book it there."""
        if self._is_lightest or not self.group.is_immediate:
            return self._place_at(facts, self.lightest_rank())
        ticket = ticket_of(facts)
        self.group.enter(ticket)
        try:
            self.group.plan()
        except Exception:
            self.group.leave(ticket)
            raise
        self._note_sent(facts.request_id, ticket)
        return ticket.rank

    def lightest_rank(self) -> int:
        """Return the rank with the least work; ties take turns."""
        group = self.group
        rank = int(
            kernels.lightest_rank(
                group.ledger.accounts.ranks,
                self._is_open,
                group.foreign_reqs,
                group.foreign_tokens,
                0.0,
                self._first_rank,
            )
        )
        self._first_rank = (self._first_rank + 1) % group.num_ranks
        return rank

    def book(self, facts: RequestFacts, rank: int) -> None:
        """Book a request that goes to a rank which somebody else has chosen."""
        ticket = self._tickets.get(facts.request_id)
        if ticket is None:
            self._place_at(facts, rank)
        else:  # more input of a request that is there
            ticket.prompt_tokens += facts.prompt_tokens
            resize(self.group.ledger, ticket.handle, ticket.prompt_tokens)

    def _place_at(self, facts: RequestFacts, rank: int) -> int:
        ticket = ticket_of(facts)
        ticket.pinned_rank = rank
        self._num_untold += 1
        self.group.enter_pinned(ticket)
        self._note_sent(facts.request_id, ticket)
        return rank

    def hold(self, facts: RequestFacts, on_placed: Callable[[int], None]) -> Ticket:
        """Put a request into the pool; `on_placed` is told its rank, once it is booked there."""
        ticket, self._num_untold = ticket_of(facts), 0

        def note(placed: Ticket) -> None:
            placed.on_placed = forget  # or the request would be kept as long as its ticket
            self._note_sent(facts.request_id, placed)
            on_placed(placed.rank)

        ticket.on_placed = note
        self.group.enter(ticket)
        return ticket

    def _note_sent(self, request_id: str, ticket: Ticket) -> None:
        if not self._tickets:
            self._time_s = self._clock()  # what has passed was nobody's time
        self._tickets[request_id] = ticket
        if len(self._last_steps) < self.group.ledger.capacity:
            added = self.group.ledger.capacity - len(self._last_steps)
            self._last_steps = np.append(self._last_steps, np.zeros(added, np.int64))
        self._last_steps[ticket.handle] = self._steps[ticket.rank]

    def take_step(
        self, rank: int, outputs: Sequence[Output], finished: Collection[str] | None
    ) -> None:
        """Book what a rank reports of one step.

        Parameters
        ----------
        rank : int
            In 0..G − 1.
        outputs : sequence of Output
            What this client's requests have given in the step.
        finished : collection of str or None
            Requests that are no more on the rank, the aborted ones included.
        """
        self.pass_time()
        num_before, num_foreseen = len(self._tickets), 0
        handles, new_tokens, complete = [], [], set()
        for output in outputs:
            ticket = self._tickets.get(output.request_id)
            if ticket is None or ticket.rank != rank:
                continue
            if output.new_token_ids:
                handles.append(ticket.handle)
                new_tokens.append(len(output.new_token_ids))
            if output.finish_reason is not None and str(output.finish_reason) in COMPLETE:
                complete.add(output.request_id)
                num_foreseen += str(output.finish_reason) == AT_LIMIT
            elif output.finish_reason is not None:
                self.close(output.request_id, has_completed=False)
        if handles:
            self._book_step(rank, np.array(handles), np.array(new_tokens))
        for request_id in complete:
            self.close(request_id, has_completed=True)
        for request_id in finished or ():
            self.close(request_id, has_completed=False)
        if self._ahead is not None:
            self._ahead.note(num_before - len(self._tickets) - num_foreseen)
            is_timed = times_releases(self.group.policy)
            self.group.num_slots[:] = self._num_slots + (0 if is_timed else self._ahead.num_reqs)
            self.group.lag_steps = 0 if is_timed else self._ahead.lag_steps

    def _book_step(self, rank: int, handles: Int64Array, new_tokens: Int64Array) -> None:
        ledger = self.group.ledger
        ledger.reserve_events(len(handles))
        self._steps[rank] += 1
        step = self._steps[rank]
        num_silent = kernels.book_step(
            ledger.accounts, rank, handles, new_tokens, self._last_steps, step
        )
        if num_silent > 0:
            self._find_preempted(rank, step - self._silent_steps + 1)

    def _find_preempted(self, rank: int, since_step: int) -> None:
        ledger, found = self.group.ledger, np.empty(len(self._last_steps), np.int64)
        num_found = kernels.silent_since(ledger.accounts, rank, self._last_steps, since_step, found)
        for handle in found[:num_found].tolist():
            ledger.preempt(handle)
            self.num_preemptions += 1

    def close(self, request_id: str, *, has_completed: bool) -> None:
        """Book that a request has left its rank, if it was there."""
        ticket = self._tickets.pop(request_id, None)
        if ticket is not None:
            self.group.close(ticket, has_completed=has_completed)

    def see_usage(self, rank: int, kv_usage: float) -> None:
        """Compare with what an engine says of its KV cache, in [0, 1].

        Where requests share blocks there is room for more than their tokens add up to.
        """
        group, load_tokens = self.group, int(self.group.ledger.ranks["load_tokens"][rank])
        if self._kv_tokens >= UNLIMITED_TOKENS:
            return
        used_tokens = round(kv_usage * self._kv_tokens)
        group.disagreement_tokens[rank] = used_tokens - load_tokens
        group.kv_tokens[rank] = self._kv_tokens + max(0, load_tokens - used_tokens)

    def see_others(
        self, num_reqs: Int64Array, load_tokens: Int64Array, due_tokens: Int64Array
    ) -> None:
        """Take in what other clients have on the ranks, each int64 of shape (G,)."""
        self.group.foreign_reqs[:] = num_reqs
        self._others_load_tokens[:] = load_tokens
        np.add(load_tokens, due_tokens, out=self.group.foreign_tokens)

    def pass_time(self) -> None:
        """Add the time since the last event to the sums that tell of the barrier."""
        now_s = self._clock()
        group = self.group
        if self._time_s is not None and (self._tickets or group.foreign_reqs.any()):
            dt_s = now_s - self._time_s
            self.busy_s += dt_s
            kernels.add_time(
                group.ledger.accounts.ranks, self._others_load_tokens, dt_s, self.token_seconds
            )
        self._time_s = now_s

    def renew_policy(self) -> None:
        """Begin with a fresh policy where the old one has not been asked for very long.

        It would have to be told of all that has happened meanwhile, and that has to be kept.
        """
        if self._renew is not None and self._num_untold > MOST_UNTOLD:
            self.group.replace_policy(self._renew(), is_immediate=self.group.is_immediate)
            self._num_untold = 0

    def strays(self, known: Collection[str]) -> list[str]:
        """Return requests in the accounts that vLLM's client does not know of any more."""
        return [request_id for request_id in self._tickets if request_id not in known]
