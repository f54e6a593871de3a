"""A ticket's way through pool and ledger, whoever carries the request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from balanceroute.live.answers import no_rank, overdue
from balanceroute.live.deadlines import Deadlines
from balanceroute.live.misfits import rank_for_misfit
from balanceroute.live.parts import Parts
from balanceroute.live.ticket import NO_HANDLE, Ticket
from balanceroute.live.tokens import Usage
from balanceroute.live.wire import RequestFacts

UNSAID = Usage(0, 0)


class Booking:
    """Books requests as they come, wait, run and end.

    Parameters
    ----------
    parts : Parts
        Of the router.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts, self._group = parts, parts.group
        self._queue, self._planner = parts.queue, parts.planner
        self._deadlines = Deadlines()

    def expect_room(self, tenant: str | None) -> None:
        """Refuse a request with 503 if no rank is fit, and with 429 if too many wait."""
        if not any(self._parts.health.is_open):
            raise no_rank()
        self._parts.expect_room(tenant)

    def enter(self, ticket: Ticket, tenant: str | None, placed: Callable[[Ticket], None]) -> None:
        """Let a request wait for a rank; `placed` is called once it has one."""
        rank = ticket.pinned_rank
        if rank < 0:
            rank = rank_for_misfit(self._group, ticket.load_tokens)
        if rank >= 0:
            self._group.enter_pinned(ticket, rank)
            placed(ticket)
            return
        ticket.on_placed = placed
        if self._parts.affinity is not None:
            self._parts.affinity.advise(ticket)
            ticket.on_placed = partial(self._note_place, placed)
        self._queue.enter(ticket, tenant)
        self._planner.arrive()

    def _note_place(self, placed: Callable[[Ticket], None], ticket: Ticket) -> None:
        """Note which group will have a request's prefix."""
        assert self._parts.affinity is not None
        self._parts.affinity.note(ticket)
        placed(ticket)

    async def place(self, ticket: Ticket, tenant: str | None, limit_s: float) -> None:
        """Wait until the request has a rank; 408 if it has none in time."""
        placed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.enter(ticket, tenant, partial(_note_placed, placed))
        await self._deadlines.wait(placed, limit_s, overdue)
        self.note_wait(ticket)

    def note_wait(self, ticket: Ticket) -> None:
        """Measure how long a request has waited."""
        self._parts.meters.wait.observe(ticket.sent_s - ticket.arrived_s)

    def adopt(self, ticket: Ticket, output_tokens: int) -> None:
        """Book a request that is on its rank already, and has given so many tokens there."""
        self._group.enter_pinned(ticket)
        self._group.correct(ticket, prompt_tokens=0, output_tokens=output_tokens)

    def grow(self, ticket: Ticket, num_tokens: int) -> None:
        """Book tokens that a request has given."""
        is_running = ticket.handle != NO_HANDLE  # whatever comes after its end
        if num_tokens > 0 and is_running and self._group.grow(ticket, num_tokens) > 0:
            self._planner.free()

    def complete(
        self, ticket: Ticket, usage: Usage | None, facts: RequestFacts, has_completed: bool = True
    ) -> None:
        """Book that a request has come to its end, its own or not, and what it has come to."""
        if ticket.handle == NO_HANDLE:
            return
        self._parts.health.succeed(ticket.rank)
        if usage is not None:
            self._parts.prompts.learn(facts, usage.prompt_tokens)
        self._close(ticket, usage or UNSAID, has_completed=has_completed)

    def correct(self, ticket: Ticket, usage: Usage, facts: RequestFacts) -> None:
        """Book what the engine says that a request has come to, and learn from it."""
        self._group.correct(
            ticket, prompt_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens
        )
        self._parts.prompts.learn(facts, usage.prompt_tokens)

    def settle(self, ticket: Ticket) -> None:
        """See to it that the request is neither in the pool nor on a rank."""
        if ticket.handle != NO_HANDLE:
            self._close(ticket, UNSAID, has_completed=False)
        else:
            self._queue.leave(ticket)

    def move(self, ticket: Ticket, rank: int) -> None:
        """Book that another rank serves a request than the one that was chosen."""
        self._group.close(ticket, has_completed=False)
        self._group.send(ticket, rank)

    def _close(self, ticket: Ticket, stated: Usage, *, has_completed: bool) -> None:
        self._group.close(
            ticket,
            has_completed=has_completed,
            prompt_tokens=stated.prompt_tokens,
            output_tokens=stated.output_tokens,
        )
        self._parts.meters.tokens.inc(ticket.output_tokens)
        self._queue.end(ticket)
        self._planner.free()


def _note_placed(placed: asyncio.Future[None], _: Ticket) -> None:
    if not placed.done():
        placed.set_result(None)
