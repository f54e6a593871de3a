"""A group that is served by a policy in thought: the same requests, in virtual time."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.live.decisions import POLICY_STREAM
from balanceroute.live.group import LiveGroup
from balanceroute.live.ticket import Ticket
from balanceroute.policies.registry import make_policy

UNKNOWN_TOKENS = 1 << 40  # of a request that goes on in truth
MAX_STANDSTILLS = 64  # plans in a row by which a policy holds everything back


@dataclass(slots=True)
class Sums:
    """What a twin has come to.

    Attributes
    ----------
    num_tokens : int
        Output tokens.
    step_s, mean_work_s, max_work_s : float
        Seconds of its steps, and of these the mean and the slowest rank's own work.
    """

    num_tokens: int = 0
    step_s: float = 0.0
    mean_work_s: float = 0.0
    max_work_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Return its output rate while anything ran; NaN before the first step."""
        return self.num_tokens / self.step_s if self.step_s > 0.0 else float("nan")

    @property
    def idle_ratio(self) -> float:
        """Return the part of the time that ranks have waited at the barrier; NaN likewise."""
        if self.step_s <= 0.0:
            return float("nan")
        return (self.max_work_s - self.mean_work_s) / self.step_s


@dataclass(slots=True)
class _Rank:
    """What runs on a rank, and what waits there."""

    queued: deque[Ticket] = field(default_factory=deque)
    prefilling: deque[list[int]] = field(default_factory=deque)  # number, tokens to compute
    decoding: list[tuple[int, int]] = field(default_factory=list)  # step of the end, number: a heap
    unknown: dict[int, int] = field(default_factory=dict)  # number, step of the first token
    clock: int = 0
    num_prefilled: int = 0  # tokens in the step under way


class Twin:
    """Serves requests by a policy, step by step, as ranks with a barrier would.

    A request arrives when the twin has ended as many requests as the real group had when it came:
    so the twin has as much to do at any time as the real group, however much faster it is. That is
    the right comparison for clients that send the next request when one has ended, and for a queue
    that never runs dry. A request's length is what it came to in truth.

    Parameters
    ----------
    policy, seed
        Who chooses.
    num_ranks, num_slots
        Of the group.
    costs : StepCosts
        What a step costs.
    is_immediate : bool or None
        As of `LiveGroup`.
    """

    def __init__(
        self,
        policy: str,
        seed: int,
        *,
        num_ranks: int,
        num_slots: int,
        costs: StepCosts,
        is_immediate: bool | None = None,
    ) -> None:
        self.now_s = 0.0
        rng = np.random.default_rng((seed, POLICY_STREAM))
        self.group = LiveGroup(
            num_ranks=num_ranks,
            policy=make_policy(policy, rng=rng),
            num_slots=num_slots,
            costs=costs,
            is_immediate=is_immediate,
            clock=lambda: self.now_s,
        )
        self._costs, self._num_slots = costs, num_slots
        self._ranks = [_Rank() for _ in range(num_ranks)]
        self._arrivals: deque[tuple[int, Ticket]] = deque()
        self._tickets: dict[int, Ticket] = {}
        self._lengths: dict[int, int] = {}
        self.num_completed, self.sums = 0, Sums()
        self.placed: list[tuple[int, int]] = []  # since somebody has looked: number, rank

    def arrive(self, number: int, num_completed: int, ticket: Ticket) -> None:
        """Note a request that came when the real group had completed so many."""
        ticket.name = str(number)
        self._arrivals.append((num_completed, ticket))

    def learn(self, number: int, output_tokens: int) -> None:
        """Note how long a request has become in truth."""
        self._lengths[number] = output_tokens
        ticket = self._tickets.get(number)
        if ticket is None or ticket.rank < 0:
            return
        rank = self._ranks[ticket.rank]
        began = rank.unknown.pop(number, None)
        if began is not None:
            heapq.heappush(rank.decoding, (max(rank.clock + 1, began + output_tokens), number))

    def advance(self, num_completed: int, max_steps: int) -> int:
        """Make steps until so many requests are completed; return how many steps."""
        num_standstills = 0
        for step in range(max_steps):
            if self.num_completed >= num_completed:
                return step
            self._admit()
            self._place()
            if not self._step():
                num_standstills += 1
                if num_standstills > MAX_STANDSTILLS or not self._tickets:
                    return step
            elif not any(rank.decoding or rank.prefilling for rank in self._ranks):
                return step  # only requests that go on in truth: their ends are awaited
        return max_steps

    def _admit(self) -> None:
        while self._arrivals:
            due, ticket = self._arrivals[0]
            if due > self.num_completed and self._tickets:
                return
            self._arrivals.popleft()
            self._tickets[int(ticket.name)] = ticket
            self.group.enter(ticket)

    def _place(self) -> None:
        for ticket in self.group.plan():
            self._ranks[ticket.rank].queued.append(ticket)
            self.placed.append((int(ticket.name), ticket.rank))

    def _step(self) -> bool:
        """Make a step; False if there is nothing to compute."""
        for rank in self._ranks:
            self._schedule(rank)
        ranks = self.group.ledger.ranks
        running = [
            len(its.decoding) + len(its.unknown) + len(its.prefilling) for its in self._ranks
        ]
        if not any(running):
            self.now_s += self._costs.constant_s
            return False
        costs = self._costs
        prefilled = np.array([rank.num_prefilled for rank in self._ranks], np.float64)
        loads = ranks["load_tokens"] + costs.kappa0_tokens * np.array(running)
        own_s = costs.s_per_token * loads + costs.own_prefill_s_per_token * prefilled
        own_s += costs.mixed_step_s * (prefilled > 0)
        shared_s = costs.prefill_shared * costs.prefill_s_per_token * float(prefilled.mean())
        step_s = costs.constant_s + float(own_s.max()) + shared_s
        self.now_s += step_s
        self.sums.step_s += step_s
        self.sums.max_work_s += float(own_s.max())
        self.sums.mean_work_s += float(own_s.mean())
        for rank in self._ranks:
            self._end_step(rank)
        return True

    def _schedule(self, rank: _Rank) -> None:
        """Start what has a slot, and share out the budget, as engines do: first come first."""
        num_decoding = len(rank.decoding) + len(rank.unknown)
        while rank.queued and num_decoding + len(rank.prefilling) < self._num_slots:
            ticket = rank.queued.popleft()
            rank.prefilling.append([int(ticket.name), ticket.prompt_tokens])
        budget = self._costs.budget_tokens
        left = 1 << 60 if budget is None else max(0, budget - num_decoding)
        rank.num_prefilled = 0
        for job in rank.prefilling:
            chunk = min(left, job[1])
            job[1] -= chunk
            left -= chunk
            rank.num_prefilled += chunk if budget is not None else 0

    def _end_step(self, rank: _Rank) -> None:
        """Give everybody a token who decodes, and the first to those that are prefilled."""
        rank.clock += 1
        self.sums.num_tokens += len(rank.decoding) + len(rank.unknown)
        self._grow_one(rank)
        while rank.decoding and rank.decoding[0][0] <= rank.clock:
            self._complete(heapq.heappop(rank.decoding)[1])
        while rank.prefilling and rank.prefilling[0][1] == 0:
            number, _ = rank.prefilling.popleft()
            self._begin(rank, number)

    def _grow_one(self, rank: _Rank) -> None:
        """Let one request's token tell the ledger of the step; the others grow with it."""
        if rank.decoding:
            number = rank.decoding[0][1]
        elif rank.unknown:
            number = next(iter(rank.unknown))
        else:
            return
        ticket = self._tickets[number]
        age = self.group.ledger.age_tokens(ticket.handle)
        self.group.grow(ticket, age + 1 - ticket.output_tokens)

    def _begin(self, rank: _Rank, number: int) -> None:
        ticket = self._tickets[number]
        self.group.grow(ticket, 1)
        self.sums.num_tokens += 1
        length = self._lengths.get(number)
        if length is None:
            rank.unknown[number] = rank.clock - 1
        elif length <= 1:
            self._complete(number)
        else:
            heapq.heappush(rank.decoding, (rank.clock - 1 + length, number))

    def _complete(self, number: int) -> None:
        self.group.close(self._tickets.pop(number), has_completed=True)
        self._lengths.pop(number, None)
        self.num_completed += 1
