"""What is needed to carry requests, whichever process decides about them."""

from __future__ import annotations

from typing import Protocol

import aiohttp

from balanceroute.live.addresses import RankAddress
from balanceroute.live.config import ServeConfig
from balanceroute.live.counters import Counters
from balanceroute.live.prefill import PrefillTier
from balanceroute.live.prompts import PromptCounter
from balanceroute.live.ticket import Ticket
from balanceroute.live.tokens import Usage
from balanceroute.live.unanswered import Unanswered
from balanceroute.live.wire import RequestFacts


class Fitness(Protocol):
    """Knows which ranks are fit for requests."""

    @property
    def is_open(self) -> list[bool]:
        """Return which ranks may have new requests."""
        ...

    def fail(self, rank: int, reason: str, /, *, has_answered: bool = False) -> None:
        """Count a request that has failed on a rank."""
        ...


class Counting(Protocol):
    """Finds out how long a prompt is."""

    async def count(self, path: str, body: bytes, facts: RequestFacts, /) -> RequestFacts:
        """Return the facts of a request with what has been found out about its prompt."""
        ...

    def stop(self) -> None:
        """Let go of what has been held."""
        ...


class Processes(Protocol):
    """The processes of a router that has several."""

    def missing(self) -> str:
        """Return which of them are not up; empty: all are."""
        ...

    def shown(self) -> list[dict[str, object]]:
        """Return them as `/workers` shows them."""
        ...


class Carrying(Protocol):
    """The parts that carry requests; their meaning is that of `Parts`."""

    is_stopping: bool

    @property
    def config(self) -> ServeConfig:
        """Return the settings in force."""
        ...

    @property
    def addresses(self) -> list[RankAddress]:
        """Return where the ranks are, by number."""
        ...

    @property
    def session(self) -> aiohttp.ClientSession:
        """Return what engines are asked with."""
        ...

    @property
    def prompts(self) -> PromptCounter:
        """Return what tells how long prompts are."""
        ...

    @property
    def counting(self) -> Counting:
        """Return what finds out about prompts."""
        ...

    @property
    def prefill(self) -> PrefillTier | None:
        """Return the servers that compute prompts first, if there are any."""
        ...

    @property
    def unanswered(self) -> Unanswered | None:
        """Return what gives up on groups that are closed, if ranks are groups."""
        ...

    @property
    def health(self) -> Fitness:
        """Return what knows which ranks are fit."""
        ...

    @property
    def counters(self) -> Counters:
        """Return what is counted here."""
        ...


class Bookings(Protocol):
    """Books requests as `Booking` does, here or in another process."""

    def expect_room(self, tenant: str | None, /) -> None:
        """Refuse a request that has no prospect of a rank."""
        ...

    async def place(self, ticket: Ticket, tenant: str | None, limit_s: float, /) -> None:
        """Wait until the request has a rank."""
        ...

    def grow(self, ticket: Ticket, num_tokens: int, /) -> None:
        """Book tokens that a request has given."""
        ...

    def complete(
        self, ticket: Ticket, usage: Usage | None, facts: RequestFacts, has_completed: bool = True
    ) -> None:
        """Book that a request has come to its end."""
        ...

    def settle(self, ticket: Ticket, /) -> None:
        """See to it that the request neither waits nor is on a rank."""
        ...
