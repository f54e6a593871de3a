"""What one data plane has booked with the brain."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from balanceroute.live.answers import Refusal
from balanceroute.live.booking import Booking
from balanceroute.live.parts import Parts
from balanceroute.live.processes.words import (
    FROM_PLANE,
    Failure,
    Finish,
    Placed,
    Progress,
    Refused,
    Release,
    Running,
    Select,
    Word,
)
from balanceroute.live.ticket import Ticket
from balanceroute.live.tokens import Usage
from balanceroute.live.wire import RequestFacts

# Data planes count prompts, and learn from what engines say of them; here they are just numbers.
COUNTED = RequestFacts(
    is_streamed=True,
    prompt_ids=0,
    prompt_bytes=0,
    num_messages=0,
    max_tokens=0,
    priority=0,
    prompt_hash=0,
    client=-1,
)


class Seat:
    """Books what a data plane says of its requests, and says where they should go.

    Parameters
    ----------
    parts : Parts
        That decide.
    say : callable
        Takes what the data plane is to hear.
    """

    def __init__(self, parts: Parts, say: Callable[[Word], object]) -> None:
        self._parts, self._booking, self._say = parts, Booking(parts), say
        self._tickets: dict[int, Ticket] = {}

    @property
    def num_requests(self) -> int:
        """Return how many requests it has, on ranks or waiting."""
        return len(self._tickets)

    def take(self, word: FROM_PLANE) -> None:
        """Book what is said; of a request that is not known here it has no effect."""
        if isinstance(word, Progress):
            for number, output_tokens in zip(word.numbers, word.output_tokens, strict=True):
                if (ticket := self._tickets.get(number)) is not None:
                    self._booking.grow(ticket, output_tokens - ticket.output_tokens)
        elif isinstance(word, Select):
            self._select(word)
        elif isinstance(word, Finish):
            self._finish(word)
        elif isinstance(word, Release):
            if (ticket := self._tickets.pop(word.number, None)) is not None:
                self._booking.settle(ticket)
        elif isinstance(word, Failure):
            self._parts.health.fail(word.rank, word.reason, has_answered=word.has_answered)

    def adopt(self, running: list[Running]) -> None:
        """Book requests that are on ranks already."""
        for its in running:
            ticket = self._tickets[its.number] = Ticket(
                prompt_tokens=its.prompt_tokens,
                max_tokens=its.max_tokens,
                num_prompts=its.num_prompts,
                num_choices=its.num_choices,
                client=its.client,
                prompt_hash=its.prompt_hash,
                is_streamed=its.is_streamed,
                name=its.name,
                pinned_rank=its.rank,
            )
            self._booking.adopt(ticket, its.output_tokens)

    def close(self) -> None:
        """End everything that is booked here: there is nobody any more to carry it."""
        tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            self._booking.settle(ticket)

    def _select(self, asked: Select) -> None:
        ticket = Ticket(
            prompt_tokens=asked.prompt_tokens,
            max_tokens=asked.max_tokens,
            num_prompts=asked.num_prompts,
            num_choices=asked.num_choices,
            client=asked.client,
            prompt_hash=asked.prompt_hash,
            priority=asked.priority,
            is_streamed=asked.is_streamed,
            name=asked.name,
            pinned_rank=asked.pinned_rank,
            age_s=asked.age_s,
        )
        try:
            if asked.is_new:
                self._booking.expect_room(asked.tenant)
        except Refusal as refusal:
            self._say(Refused(asked.number, refusal.status, refusal.message, refusal.reason))
            return
        self._tickets[asked.number] = ticket
        self._booking.enter(ticket, asked.tenant, partial(self._placed, asked.number))

    def _placed(self, number: int, ticket: Ticket) -> None:
        self._booking.note_wait(ticket)
        self._say(Placed(number, ticket.rank))

    def _finish(self, told: Finish) -> None:
        ticket = self._tickets.pop(told.number, None)
        if ticket is None:
            return
        self._booking.grow(ticket, told.output_tokens - ticket.output_tokens)
        usage = Usage(*told.usage) if told.usage is not None else None
        self._booking.complete(ticket, usage, COUNTED, has_completed=told.has_completed)
