"""Reservations: ranks chosen for requests that others carry, and held as long as these speak."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from balanceroute.live.answers import Refusal
from balanceroute.live.booking import Booking
from balanceroute.live.decision_api.definition import (
    Booked,
    Decision,
    Progress,
    Release,
    SelectRequest,
)
from balanceroute.live.parts import Parts
from balanceroute.live.ticket import Ticket, ticket_of
from balanceroute.live.tokens import Usage
from balanceroute.live.wire import RequestFacts, read_request

COMPLETIONS = "/v1/completions"


@dataclass(eq=False, slots=True, kw_only=True)
class _Reservation:
    """A rank that is held for a request."""

    ticket: Ticket
    facts: RequestFacts
    lease_s: float
    expires_s: float
    timer: asyncio.TimerHandle | None = None


class Reservations:
    """Selects ranks, and books what becomes of the requests.

    Parameters
    ----------
    parts : Parts
        Of the router, whose own requests go through the same pool and ledger.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts, self._booking = parts, Booking(parts)
        self._loop = asyncio.get_running_loop()
        self._held: dict[str, _Reservation] = {}
        # Ids of a router that has been started anew must not name reservations of the one before.
        self._instance, self._numbers = secrets.token_hex(4), itertools.count()

    @property
    def num_held(self) -> int:
        """Return how many ranks are held at present."""
        return len(self._held)

    async def select(self, asked: SelectRequest) -> Decision:
        """Wait for a rank in the pool and hold it.

        Raises
        ------
        Refusal
            503 if no rank is fit, 429 if too many wait, 408 if there is none in time, 400 if
            nothing is said of the prompt.
        """
        config = self._parts.config
        tenant = asked.tenant if config.has_tenants else None
        self._booking.expect_room(tenant)
        facts = await self._facts(asked)
        self._booking.expect_room(tenant)  # others may have come meanwhile
        ticket = ticket_of(facts, self._parts.prompts.count(facts))
        ticket.priority, ticket.is_streamed = asked.priority, not asked.is_silent
        limit_s = asked.max_wait_s or config.queue_timeout_secs
        try:
            await self._booking.place(ticket, tenant, limit_s)
        except BaseException:
            self._booking.settle(ticket)
            raise
        return self._hold(ticket, facts, asked.lease_s or config.decision_lease_secs)

    async def _facts(self, asked: SelectRequest) -> RequestFacts:
        if asked.prompt_tokens == 0 and not asked.prompt:
            raise Refusal(400, "prompt_tokens or prompt must be given", "bad_body")
        body = msgspec.json.encode(
            {
                "prompt": asked.prompt or None,
                "user": asked.client or None,
                "max_tokens": asked.max_tokens,
            }
        )
        facts = read_request(COMPLETIONS, body)
        if asked.prompt_tokens > 0:
            return replace(facts, prompt_ids=asked.prompt_tokens)
        return await self._parts.counting.count(COMPLETIONS, body, facts)

    def _hold(self, ticket: Ticket, facts: RequestFacts, lease_s: float) -> Decision:
        name = f"{self._instance}-{next(self._numbers):x}"
        held = _Reservation(
            ticket=ticket, facts=facts, lease_s=lease_s, expires_s=self._loop.time() + lease_s
        )
        held.timer = self._loop.call_later(lease_s, self._expire, name)
        self._held[name] = held
        address = self._parts.addresses[ticket.rank]
        return Decision(
            id=name,
            rank=ticket.rank,
            url=address.url,
            rank_header="" if address.rank is None else str(address.rank),
            prompt_tokens=ticket.prompt_tokens,
            waited_s=ticket.sent_s - ticket.arrived_s,
            lease_s=lease_s,
        )

    def _expire(self, name: str) -> None:
        held = self._held[name]
        left_s = held.expires_s - self._loop.time()
        if left_s > 0.0:  # there has been a word of it meanwhile
            held.timer = self._loop.call_later(left_s, self._expire, name)
            return
        del self._held[name]
        self._parts.counters.dropped.labels("lease_expired").inc()
        self._booking.settle(held.ticket)

    async def progress(self, told: Progress) -> Booked:
        """Book tokens, and hold the rank for another lease; 404 if it is not held."""
        held = self._find(told.id)
        self._book(held, told)
        held.expires_s = self._loop.time() + held.lease_s
        return Booked(id=told.id, output_tokens=held.ticket.output_tokens, lease_s=held.lease_s)

    async def finish(self, told: Progress) -> Booked:
        """Book that a request has come to its end; 404 if its rank is not held."""
        held = self._take(told.id)
        self._book(held, told)
        self._booking.complete(held.ticket, None, held.facts)
        return Booked(id=told.id, output_tokens=held.ticket.output_tokens)

    async def release(self, told: Release) -> Booked:
        """Give a rank back; 404 if it is not held."""
        held = self._take(told.id)
        if told.failure:
            self._parts.health.fail(held.ticket.rank, told.failure)
        self._booking.settle(held.ticket)
        return Booked(id=told.id, output_tokens=held.ticket.output_tokens)

    def _book(self, held: _Reservation, told: Progress) -> None:
        ticket = held.ticket
        if ticket.is_streamed:
            self._booking.grow(ticket, told.output_tokens - ticket.output_tokens)
        if told.prompt_tokens > 0 or not ticket.is_streamed:
            usage = Usage(told.prompt_tokens, 0 if ticket.is_streamed else told.output_tokens)
            self._booking.correct(ticket, usage, held.facts)

    def _find(self, name: str) -> _Reservation:
        held = self._held.get(name)
        if held is None:
            message = f"no rank is held for {name!r}: it has been given back, or its lease is over"
            raise Refusal(404, message, "no_decision")
        return held

    def _take(self, name: str) -> _Reservation:
        held = self._find(name)
        del self._held[name]
        if held.timer is not None:
            held.timer.cancel()
        return held

    def stop(self) -> None:
        """Give all ranks back."""
        for name in list(self._held):
            self._booking.settle(self._take(name).ticket)
