"""One group of replicas as a router of Ray Serve knows it, and its requests; without Ray."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import partial

import numpy as np

from balanceroute.errors import BalanceRouteError
from balanceroute.live.group import LiveGroup
from balanceroute.live.misfits import rank_for_misfit
from balanceroute.live.planner import Planner
from balanceroute.live.prompts import PromptCounter
from balanceroute.live.ticket import NO_HANDLE, Ticket, ticket_of
from balanceroute.live.tokens import Usage
from balanceroute.live.wire import RequestFacts
from balanceroute.policies.costs import parse_costs
from balanceroute.ray_serve.settings import RouterSettings, policy_of

MAX_SLOTS = 256  # of a replica whose ``max_ongoing_requests`` stands for "no limit"
UNREAD_TOKENS = 256  # of a prompt, where none has been read yet
NUM_LOOKS = 3  # at a replica's queue, of which the one that shows least counts
LOOK_S = 2.0  # how long such a look counts; nobody may hear of a replica that gets no requests


class GroupGoneError(BalanceRouteError):
    """The replicas of a group have gone while a request waited for one."""


class Desk:
    """Books the requests of one group of replicas.

    A replica is a rank. One that has gone leaves its number to the next that comes, once its last
    request has ended, so that a deployment that is scaled up and down for years stays small.

    Parameters
    ----------
    settings : RouterSettings
        Of the deployment.
    slots_of : mapping of str to int
        The replicas that run, at least one, and how many requests Serve lets each have.
    clock : callable
        Returns seconds.

    Raises
    ------
    ConfigError
        If the settings name a policy or costs that are none.
    """

    def __init__(
        self,
        settings: RouterSettings,
        slots_of: Mapping[str, int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._clock = settings, clock
        self.group = LiveGroup(
            num_ranks=len(slots_of),
            policy=policy_of(settings),
            num_slots=1,
            kv_tokens=settings.kv_tokens,
            costs=parse_costs(settings.costs) if settings.costs else None,
            is_immediate=settings.is_immediate,
            clock=clock,
        )
        self.names: list[str] = list(slots_of)
        self._rank_of = {name: rank for rank, name in enumerate(self.names)}
        self._looks: list[deque[int]] = [deque(maxlen=NUM_LOOKS) for _ in self.names]
        self._looked_s = [0.0] * len(self.names)
        self.planner = Planner(
            self.group, settle_s=settings.settle_secs, on_plan=_ignore, on_fallback=bool
        )
        self._prompts = PromptCounter()
        self._waiting: set[asyncio.Future[None]] = set()
        self.set_replicas(slots_of)

    def __contains__(self, name: str) -> bool:
        return name in self._rank_of

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is here that could be missed."""
        num = self.group.num_waiting + self.group.ledger.num_in_flight
        return num == 0 and not any(self.group.is_open)

    @property
    def pressure(self) -> float:
        """Return how many requests there are for each slot of an open replica."""
        slots = int(self.group.num_slots[np.array(self.group.is_open)].sum())
        num = self.group.num_waiting + self.group.ledger.num_in_flight
        num += int(self.group.foreign_reqs.sum())
        return num / slots if slots > 0 else float("inf")

    def set_replicas(self, slots_of: Mapping[str, int]) -> None:
        """Let those replicas have requests that run now; what is in flight on others goes on."""
        for name, max_ongoing in slots_of.items():
            rank = (
                self._rank_of[name] if name in self._rank_of else self._take_number(name, slots_of)
            )
            self.group.num_slots[rank] = self._settings.slots or min(max_ongoing, MAX_SLOTS)
        for name, rank in self._rank_of.items():
            self.group.set_open(rank, is_open=name in slots_of)
        self.planner.arrive()

    def _take_number(self, name: str, running: Collection[str]) -> int:
        """Return a number for a replica that is new."""
        for rank, before in enumerate(self.names):
            if before not in running and self._num_on(rank) == 0:
                self._rank_of.pop(before, None)
                break
        else:
            rank = len(self.names)
            self.names.append("")
            self._looks.append(deque(maxlen=NUM_LOOKS))
            self._looked_s.append(0.0)
            self.group.add_rank(num_slots=1, kv_tokens=self._settings.kv_tokens)
        self.names[rank], self._rank_of[name] = name, rank
        self._forget_look(rank)
        self.group.set_open(rank, is_open=True)
        return rank

    def close_replica(self, name: str) -> None:
        """Keep requests from a replica that has died; Serve tells how each of its requests ends."""
        if name in self._rank_of:
            self.group.set_open(self._rank_of[name], is_open=False)

    def _num_on(self, rank: int) -> int:
        here = self.group.ledger.ranks[rank]
        return int(here["num_running"] + here["num_waiting"])

    def ticket_of(self, facts: RequestFacts | None, *, is_streamed: bool) -> Ticket:
        """Return what the group knows a request by; of no facts: one like the others."""
        if facts is None:
            return Ticket(prompt_tokens=self._usual_tokens(), is_streamed=is_streamed)
        ticket = ticket_of(facts, self._prompts.count(facts))
        ticket.is_streamed = is_streamed
        return ticket

    def _usual_tokens(self) -> int:
        """Return the load of a request here, on average."""
        here, num = self.group.ledger.ranks, self.group.ledger.num_in_flight
        num_tokens = int(here["load_tokens"].sum() + here["due_tokens"].sum())
        return max(1, num_tokens // num) if num > 0 else UNREAD_TOKENS

    async def place(self, ticket: Ticket) -> str:
        """Wait until a request has a replica; return its name. A wait that is cancelled is over.

        Raises
        ------
        GroupGoneError
            If it has to look for another group.
        """
        rank = rank_for_misfit(self.group, ticket.prompt_tokens)
        if rank >= 0:
            self.group.enter_pinned(ticket, rank)
            return self.names[rank]
        placed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket.on_placed = partial(_note_placed, placed)
        self.group.enter(ticket)
        self.planner.arrive()
        self._waiting.add(placed)
        try:
            await placed
        except (asyncio.CancelledError, GroupGoneError):
            self.release(ticket)
            raise
        finally:
            self._waiting.discard(placed)
        return self.names[ticket.rank]

    def evict(self) -> None:
        """Send away those that wait, since there are other groups and this one has gone."""
        for placed in self._waiting:
            if not placed.done():
                placed.set_exception(GroupGoneError("its replicas have gone"))

    def move(self, ticket: Ticket, name: str) -> None:
        """Book that another replica has a request than the one that was chosen."""
        rank = self._rank_of.get(name, ticket.rank)
        if ticket.handle != NO_HANDLE and rank != ticket.rank:
            self.group.close(ticket, has_completed=False)
            self.group.send(ticket, rank)

    def grow(self, ticket: Ticket, num_tokens: int) -> None:
        """Book tokens that a request has given."""
        is_running = ticket.handle != NO_HANDLE
        if num_tokens > 0 and is_running and self.group.grow(ticket, num_tokens) > 0:
            self.planner.free()

    def release(self, ticket: Ticket, *, has_completed: bool = False) -> None:
        """See to it that a request is neither in the pool nor on a replica."""
        if ticket.handle == NO_HANDLE:
            self.group.leave(ticket)
            return
        self.group.close(ticket, has_completed=has_completed)
        self.planner.free()

    def learn(self, ticket: Ticket, facts: RequestFacts | None, usage: Usage) -> None:
        """Take in what a request has come to, as its engine says."""
        if ticket.handle == NO_HANDLE:
            return
        self.group.correct(
            ticket, prompt_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens
        )
        if facts is not None:
            self._prompts.learn(facts, usage.prompt_tokens)

    def see_queue(self, name: str, num_ongoing: int) -> None:
        """Take in how many requests a replica says that it has, those of other routers included."""
        rank = self._rank_of.get(name)
        if rank is None:
            return
        self._looks[rank].append(max(0, num_ongoing - self._num_on(rank)))
        self._looked_s[rank] = self._clock()
        num_foreign = min(self._looks[rank])
        self.group.foreign_reqs[rank] = num_foreign
        self.group.foreign_tokens[rank] = num_foreign * self._usual_tokens()

    def see_full(self, name: str) -> None:
        """Take in that a replica had no room, or could not be asked."""
        rank = self._rank_of.get(name)
        if rank is not None:
            self._looks[rank].clear()
            self.see_queue(name, self._num_on(rank) + int(self.group.num_slots[rank]))

    def tend(self) -> None:
        """Forget what was heard too long ago, and see whether that makes room."""
        for rank, looked_s in enumerate(self._looked_s):
            if self._looks[rank] and self._clock() - looked_s > LOOK_S:
                self._forget_look(rank)
        self.planner.arrive()

    def _forget_look(self, rank: int) -> None:
        self._looks[rank].clear()
        self.group.foreign_reqs[rank] = self.group.foreign_tokens[rank] = 0


def _note_placed(placed: asyncio.Future[None], _: Ticket) -> None:
    if not placed.done():
        placed.set_result(None)


def _ignore(took_s: float) -> None:
    """Do nothing with how long a plan took."""
