"""Where a data plane has its requests booked: by the brain, or by itself while there is none."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass

from balanceroute.live.answers import Refusal, no_rank, overdue
from balanceroute.live.deadlines import Deadlines
from balanceroute.live.processes.stopgap import Stopgap
from balanceroute.live.processes.words import (
    FROM_BRAIN,
    Failure,
    Finish,
    Hello,
    Loads,
    Placed,
    Progress,
    Refused,
    Release,
    Running,
    Select,
    Word,
)
from balanceroute.live.prompts import PromptCounter
from balanceroute.live.ticket import NO_HANDLE, Ticket
from balanceroute.live.tokens import Usage
from balanceroute.live.wire import RequestFacts

PROGRESS_S = 0.01  # that tokens wait to be told, at most


@dataclass(eq=False, slots=True)
class _Asked:
    """A request that waits for its rank."""

    ticket: Ticket
    tenant: str | None
    placed: asyncio.Future[None]


class Desk:
    """Books requests as `Booking` does, over a connection that may break and come again.

    A ticket's handle is the number by which its request is called over the connection.

    Parameters
    ----------
    plane, num_planes : int
        Which data plane of how many this is.
    prompts : PromptCounter
        That learns how long prompts are.
    """

    def __init__(self, plane: int, num_planes: int, prompts: PromptCounter) -> None:
        self._plane, self._prompts = plane, prompts
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines()
        self._stopgap = Stopgap(plane, num_planes)
        self._numbers = itertools.count()
        self._waiting: dict[int, _Asked] = {}
        self._running: dict[int, Ticket] = {}
        self._grown: dict[int, Ticket] = {}
        self._due: asyncio.TimerHandle | None = None
        self._say: Callable[[Word], object] | None = None  # None: there is no brain
        self._loads = Loads([], [], [])

    @property
    def is_open(self) -> list[bool]:
        """Return which ranks may have new requests, as far as is known."""
        return self._loads.is_open

    def fail(self, rank: int, reason: str, /, *, has_answered: bool = False) -> None:
        """Tell of a request that has failed on a rank."""
        if self._say is not None:
            self._say(Failure(rank, reason[:1024], has_answered))

    def expect_room(self, _tenant: str | None, /) -> None:
        """Refuse a request if no rank is fit; whether too many wait is for the brain to say."""
        if not any(self.is_open):
            raise no_rank()

    async def place(self, ticket: Ticket, tenant: str | None, limit_s: float, /) -> None:
        """Wait until the request has a rank; 408 if it has none in time."""
        is_new = ticket.number < 0
        if is_new:
            ticket.arrived_s = self._loop.time()
        ticket.number = next(self._numbers)
        # One that comes again has had its turn among tenants.
        asked = _Asked(ticket, tenant if is_new else None, self._loop.create_future())
        self._waiting[ticket.number] = asked
        if self._say is not None:
            self._say(self._select(asked, is_new=is_new))
        else:
            self._fill()
        await self._deadlines.wait(asked.placed, limit_s, overdue)

    def grow(self, ticket: Ticket, num_tokens: int, /) -> None:
        """Book tokens that a request has given; they are told together with others'."""
        if num_tokens <= 0 or ticket.handle == NO_HANDLE:
            return
        ticket.output_tokens += num_tokens
        self._grown[ticket.handle] = ticket
        if self._due is None:
            self._due = self._loop.call_later(PROGRESS_S, self._tell_progress)

    def complete(
        self, ticket: Ticket, usage: Usage | None, facts: RequestFacts, has_completed: bool = True
    ) -> None:
        """Book that a request has come to its end, its own or not, and what it has come to."""
        if ticket.handle == NO_HANDLE:
            return
        stated = None
        if usage is not None:
            stated = (usage.prompt_tokens, usage.output_tokens)
            self._prompts.learn(facts, usage.prompt_tokens)
        told = Finish(ticket.handle, ticket.output_tokens, stated, has_completed)
        self._end(ticket, told)

    def settle(self, ticket: Ticket, /) -> None:
        """See to it that the request neither waits nor is on a rank."""
        if ticket.handle != NO_HANDLE:
            self._end(ticket, Release(ticket.handle))
        elif self._waiting.pop(ticket.number, None) is not None and self._say is not None:
            self._say(Release(ticket.number))

    def take(self, word: FROM_BRAIN) -> None:
        """Take in what the brain says."""
        if isinstance(word, Loads):
            self._loads = word
        elif isinstance(word, Placed):
            self._place(word.number, word.rank)
        elif isinstance(word, Refused):
            asked = self._waiting.pop(word.number, None)
            if asked is not None and not asked.placed.done():
                asked.placed.set_exception(Refusal(word.status, word.message, word.reason))

    def join(self, say: Callable[[Word], object]) -> None:
        """Let a brain decide from now on; it is told of all that there is."""
        self._say = say
        say(Hello(self._plane, os.getpid(), [_running(its) for its in self._running.values()]))
        for asked in self._waiting.values():
            say(self._select(asked, is_new=False))

    def leave(self) -> None:
        """Note that there is no brain any more."""
        self._say = None
        self._stopgap.begin(self._loads)
        self._fill()

    def _select(self, asked: _Asked, *, is_new: bool) -> Select:
        its = asked.ticket
        return Select(
            number=its.number,
            prompt_tokens=its.prompt_tokens,
            max_tokens=its.max_tokens,
            num_prompts=its.num_prompts,
            num_choices=its.num_choices,
            client=its.client,
            prompt_hash=its.prompt_hash,
            priority=its.priority,
            is_streamed=its.is_streamed,
            name=its.name,
            pinned_rank=its.pinned_rank,
            tenant=asked.tenant,
            age_s=self._loop.time() - its.arrived_s,
            is_new=is_new,
        )

    def _fill(self) -> None:
        """Send those on that wait, as far as there is room by what was known last."""
        for number, asked in list(self._waiting.items()):
            rank = asked.ticket.pinned_rank
            if rank >= 0:
                self._stopgap.put(rank, asked.ticket.prompt_tokens)
            else:
                rank = self._stopgap.take(asked.ticket.prompt_tokens)
            if rank < 0:
                return
            self._place(number, rank)

    def _place(self, number: int, rank: int) -> None:
        asked = self._waiting.pop(number, None)
        if asked is None:  # it has been given up, and the brain is about to hear it
            return
        ticket = asked.ticket
        ticket.rank, ticket.handle, ticket.output_tokens = rank, number, 0
        ticket.sent_s = self._loop.time()
        self._running[number] = ticket
        if not asked.placed.done():
            asked.placed.set_result(None)

    def _end(self, ticket: Ticket, told: Word) -> None:
        number, ticket.handle = ticket.handle, NO_HANDLE
        del self._running[number]
        self._grown.pop(number, None)
        if self._say is not None:
            self._tell_progress()  # of the same step: its slots are to be filled together
            self._say(told)
        else:
            self._stopgap.give_back(ticket.rank, ticket.prompt_tokens + ticket.output_tokens)
            self._fill()

    def _tell_progress(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        grown, self._grown = self._grown, {}
        if grown and self._say is not None:
            self._say(Progress(list(grown), [its.output_tokens for its in grown.values()]))


def _running(ticket: Ticket) -> Running:
    return Running(
        number=ticket.handle,
        rank=ticket.rank,
        prompt_tokens=ticket.prompt_tokens,
        output_tokens=ticket.output_tokens,
        max_tokens=ticket.max_tokens,
        num_prompts=ticket.num_prompts,
        num_choices=ticket.num_choices,
        client=ticket.client,
        prompt_hash=ticket.prompt_hash,
        is_streamed=ticket.is_streamed,
        name=ticket.name,
    )
