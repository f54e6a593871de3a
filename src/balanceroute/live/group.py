"""What the router knows of a group and decides about it: ledger, pool and policy, without I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.events import NO_EVENTS
from balanceroute.cluster.ledger import UNLIMITED_TOKENS, Ledger
from balanceroute.cluster.pool import Pool
from balanceroute.cluster.sight import Sight, look
from balanceroute.cluster.streams import observe
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import PlanError
from balanceroute.kernels.ledger import RecordArray
from balanceroute.live.progress import progress_of
from balanceroute.live.sequences import begin_all, end_all, follow, resize_all, settle_all
from balanceroute.live.telling import Telling
from balanceroute.live.ticket import NO_HANDLE, UNSEEN, Ticket
from balanceroute.policies.base import Plan, Policy, checked_plan, follows_requests


class LiveGroup:
    """The ranks of one group as the router sees them, and the requests that wait for one.

    Pure bookkeeping: it reads no clock but the one it is given, and talks to nobody.

    Parameters
    ----------
    num_ranks : int
        G.
    policy : Policy
        A fresh one.
    num_slots, kv_tokens : int or None
        Of each rank; None while unknown. They may be set later, rank by rank.
    costs : StepCosts or None
        What a step costs, if that is known.
    is_immediate : bool or None
        Whether a rank is chosen on arrival; None: as the policy does by nature.
    learns_costs : bool
        Whether costs that are not known are learned at `end_step`, for a policy that follows
        requests.
    clock : callable
        Returns seconds.

    Attributes
    ----------
    lag_steps : int
        Steps until what a plan sends is computed, 0 to begin with. Who reaches its own limit of
        output before that counts as gone, unless ranks are chosen on arrival.
    holds_back : bool
        Whether the last plan has left requests waiting although a rank may have more.
    on_step, on_rest : callable
        Who looks on: called with a rank, its steps and the time when its stream reveals some, and
        when nothing is in flight any more.
    arrival_watchers, end_watchers : list of callable
        Called with a request that is new here, and with one that leaves its rank or the pool.
    plan_watchers : list of callable
        Called with each view, pool and plan before it is carried out.
    """

    def __init__(
        self,
        *,
        num_ranks: int,
        policy: Policy,
        num_slots: int,
        kv_tokens: int | None = None,
        costs: StepCosts | None = None,
        is_immediate: bool | None = None,
        learns_costs: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy, self.costs, self._clock = policy, costs, clock
        self._follows_requests = follows_requests(policy)
        natural = policy.binding == "immediate"
        self.is_immediate = natural if is_immediate is None else is_immediate
        self.ledger = Ledger(num_ranks=num_ranks, keeps_events=True)
        self._progress = progress_of(self.ledger, costs)
        self._telling = Telling(learns_costs=learns_costs and self._follows_requests)
        self._num_steps = [0] * num_ranks  # by which `grow` has set the ledger's clocks forward
        self._pool = Pool()
        self._pooled: dict[int, Ticket] = {}
        self._next_number, self.lag_steps, self.holds_back = 0, 0, False
        self.num_slots = np.full(num_ranks, num_slots, np.int64)
        self.kv_tokens = np.full(num_ranks, kv_tokens or UNLIMITED_TOKENS, np.int64)
        self._is_open = np.ones(num_ranks, np.bool_)
        # On the ranks, but not from this router, as far as the engines tell.
        self.foreign_reqs = np.zeros(num_ranks, np.int64)
        self.foreign_tokens = np.zeros(num_ranks, np.int64)
        self.disagreement_tokens = np.zeros(num_ranks, np.int64)
        self.on_step: Callable[[int, int, float], object] = lambda *_: None
        self.on_rest: Callable[[], object] = bool
        self.arrival_watchers: list[Callable[[Ticket], object]] = []
        self.end_watchers: list[Callable[[Ticket], object]] = []
        self.plan_watchers: list[Callable[[GroupView, PoolView, Plan], object]] = []

    @property
    def num_ranks(self) -> int:
        """Return G."""
        return self.ledger.num_ranks

    @property
    def num_waiting(self) -> int:
        """Return how many requests wait for a rank."""
        return len(self._pooled)

    @property
    def oldest_wait_s(self) -> float:
        """Return how long the request has waited that is first in the pool, 0 if there is none."""
        arrivals_s = self._pool.view(1).arrival_s
        return float(self._clock() - arrivals_s[0]) if len(arrivals_s) > 0 else 0.0

    def name_of(self, number: int) -> str:
        """Return how its client calls a request that waits."""
        return self._pooled[number].name

    def replace_policy(self, policy: Policy, *, is_immediate: bool | None = None) -> None:
        """Let another policy choose from now on; it is told of the requests in flight."""
        self.policy, self._follows_requests = policy, follows_requests(policy)
        natural = policy.binding == "immediate"
        self.is_immediate = natural if is_immediate is None else is_immediate
        self._telling.restart(self.ledger)

    def add_rank(self, *, num_slots: int, kv_tokens: int | None) -> None:
        """Make room for one more rank, the last one; it is closed to begin with."""
        self.ledger.add_rank()
        self._num_steps.append(0)
        if self._progress is not None:
            self._progress.add_rank()
        columns = ("num_slots", "kv_tokens", "_is_open", "foreign_reqs", "foreign_tokens")
        first = (num_slots, kv_tokens or UNLIMITED_TOKENS, False, 0, 0, 0)
        for name, value in zip((*columns, "disagreement_tokens"), first, strict=True):
            setattr(self, name, np.append(getattr(self, name), np.int64(value)))
        self._is_open = self._is_open.astype(np.bool_)

    def set_open(self, rank: int, *, is_open: bool) -> None:
        """Let a rank have new requests, or keep them from it."""
        self._is_open[rank] = is_open

    @property
    def is_open(self) -> Sequence[bool]:
        """Return which ranks may have new requests."""
        is_open: list[bool] = self._is_open.tolist()
        return is_open

    def enter(self, ticket: Ticket) -> None:
        """Put a request into the pool, behind those that are there."""
        self._register(ticket)
        self._pool.append_one(ticket.number, ticket.load_tokens, ticket.arrived_s, ticket.traits)
        self._pooled[ticket.number] = ticket

    def enter_pinned(self, ticket: Ticket, rank: int | None = None) -> None:
        """Book a request as sent to the rank that its client has chosen, or to the one given."""
        self._register(ticket)
        self.send(ticket, ticket.pinned_rank if rank is None else rank)

    def _register(self, ticket: Ticket) -> None:
        if ticket.number < 0:  # else it comes again, and keeps its number and its age
            ticket.number, self._next_number = self._next_number, self._next_number + 1
            ticket.arrived_s = self._clock() - ticket.age_s
            for watch in self.arrival_watchers:
                watch(ticket)

    def leave(self, ticket: Ticket) -> bool:
        """Take a request out of the pool again; False if it is not there."""
        if self._pooled.pop(ticket.number, None) is None:
            return False
        position = np.flatnonzero(self._pool.view().ids == ticket.number)
        self._pool.take(position)
        for watch in self.end_watchers:
            watch(ticket)
        return True

    def send(self, ticket: Ticket, rank: int) -> None:
        """Book a request as sent to a rank, whatever a policy would say."""
        ticket.rank, ticket.sent_s, ticket.output_tokens = rank, self._clock(), 0
        ticket.lead_tokens = UNSEEN
        begin_all(self.ledger, ticket)
        if ticket.is_streamed and self._progress is not None:
            self._progress.send(ticket)

    def grow(self, ticket: Ticket, num_tokens: int) -> int:
        """Book tokens that a request has given; return the steps of its rank that this reveals."""
        num_before, ticket.output_tokens = ticket.output_tokens, ticket.output_tokens + num_tokens
        output_tokens = ticket.output_tokens
        if ticket.companions:
            output_tokens = follow(self.ledger, ticket, num_before)
        rank, num_seen = ticket.rank, self._num_steps[ticket.rank]
        if ticket.lead_tokens + num_seen == output_tokens:
            return 0  # its rank's step has been seen on another, and it has been counted then
        num_steps = observe(self.ledger, ticket.handle, output_tokens)
        self._num_steps[rank] = num_seen + num_steps
        ticket.lead_tokens = output_tokens - num_seen - num_steps
        if num_steps > 0:
            now_s = self._clock()
            if self._progress is not None:
                self._progress.step(rank, now_s, self.num_slots)
            self.on_step(rank, num_steps, now_s)
        return num_steps

    def correct(self, ticket: Ticket, *, prompt_tokens: int, output_tokens: int) -> None:
        """Book what the engine says that a request has come to."""
        if output_tokens > 0:
            ticket.output_tokens, ticket.lead_tokens = output_tokens, UNSEEN
            settle_all(self.ledger, ticket)
        if prompt_tokens > 0 and prompt_tokens != ticket.prompt_tokens:
            ticket.prompt_tokens = prompt_tokens
            resize_all(self.ledger, ticket)

    def close(
        self, ticket: Ticket, *, has_completed: bool, prompt_tokens: int = 0, output_tokens: int = 0
    ) -> None:
        """Book that a request has ended or was given up, and what the engine says it has come to.

        The engine's numbers are 0 where it says nothing.
        """
        if output_tokens > 0:
            ticket.output_tokens = output_tokens
        if prompt_tokens > 0:
            ticket.prompt_tokens = prompt_tokens
        stated = (prompt_tokens, output_tokens)
        num_left = end_all(self.ledger, ticket, stated, has_completed=has_completed)
        for watch in self.end_watchers:
            watch(ticket)
        ticket.handle, ticket.lead_tokens = NO_HANDLE, UNSEEN
        if num_left == 0:
            self.on_rest()

    def view(self) -> GroupView:
        """Return the group as a policy sees it that does not follow requests."""
        return self._view(self._look(), None)

    def _look(self, lag_steps: int = 0) -> Sight:
        """Return the group as it is, or as it will be in some steps for all that is certain."""
        foreign = (self.foreign_reqs, self.foreign_tokens)
        of_ranks = (self.ledger.ranks, self.num_slots, self._is_open, *foreign)
        sight = look(*of_ranks, is_immediate=self.is_immediate)
        if lag_steps == 0 or self.is_immediate:
            return sight
        return sight.without_leaving(self.ledger.accounts.entries, lag_steps)

    def _view(self, sight: Sight, events: RecordArray | None) -> GroupView:
        return sight.view(
            now_s=self._clock(),
            kv_capacity_tokens=self.kv_tokens,
            costs=self.costs,
            entries=None if events is None else self.ledger.accounts.entries,
            events=NO_EVENTS if events is None else events,
        )

    def plan(self) -> list[Ticket]:
        """Let the policy place waiting requests; they are booked as sent, and told.

        Raises
        ------
        PlanError
            If the policy breaks its contract; nothing is placed then.
        """
        self.holds_back = False
        if not self._pooled or (sight := self._look(self.lag_steps)).num_able == 0:
            return []
        view = self._view(sight, self._take_events())
        waiting = self._pool.view()
        placed = self.policy.plan(view, waiting)
        plan = Plan(*checked_plan(placed, len(self._pool), sight.max_sends))
        for watch in self.plan_watchers:
            watch(view, waiting, plan)
        self.holds_back = len(plan) < len(waiting) and len(plan) < sum(sight.max_sends.tolist())
        return self._dispatch(plan)

    def _take_events(self) -> RecordArray | None:
        """Return what has happened to requests since the last plan, if the policy follows them."""
        if self._follows_requests:
            return self._telling.to_policy(self.ledger)
        self.ledger.forget_events()
        return None

    def end_step(self) -> None:
        """Note that all ranks have just told of a step: what it costs is learned from that."""
        learned = self._telling.to_learner(self.ledger, lambda new: self._view(self._look(), new))
        self.costs = learned or self.costs

    def _dispatch(self, plan: Plan) -> list[Ticket]:
        numbers = self._pool.take(plan.requests).tolist()
        placed = [self._pooled.pop(number) for number in numbers]
        for ticket, rank in zip(placed, plan.ranks.tolist(), strict=True):
            self.send(ticket, rank)
        for ticket in placed:
            ticket.on_placed(ticket)
        return placed

    def check(self) -> None:
        """Raise `PlanError` if the running totals differ from the requests in flight."""
        if not np.array_equal(self.ledger.recount(), self.ledger.ranks):
            raise PlanError("the ledger's totals differ from its requests; please report this")
