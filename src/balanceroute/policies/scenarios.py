"""The situations that `check_policy` puts a policy in: toy groups, empty at first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.events import NO_EVENTS
from balanceroute.cluster.ledger import UNLIMITED_TOKENS, Ledger, add_sends
from balanceroute.cluster.pool import Pool
from balanceroute.cluster.traits import request_traits
from balanceroute.cluster.view import GroupView
from balanceroute.kernels.ledger import Int64Array, RecordArray

ROUND_S = 0.03  # between two plans; a load snapshot of 100 ms then serves several of them
NEVER = (1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A group, and the requests that come to it.

    Attributes
    ----------
    name : str
        What is special about it.
    num_ranks, num_slots, kv_tokens : int
        Ranks, and what each of them can hold.
    prompt_range_tokens : tuple of int
        Shortest and longest prompt.
    max_waiting : int
        Each round brings a random number of requests, as long as no more than this many wait.
    finish_prob : float
        Chance of a running request to end in a round.
    refresh_rounds : int
        Rounds after which the view is brought up to date.
    slow, away : tuple of float
        Begin and end, as fractions of the run, of the time in which rank 0 does nothing, and of
        that in which it has no slots.
    loses_requests : bool
        Whether the requests on rank 0 are aborted when its slots go.
    preempts : bool
        Whether a rank short of KV tokens sends its youngest request back to its queue; else its
        oldest is aborted.
    kappa0_tokens : float
    speeds : tuple of float
        As `GroupView` shows them; empty for equal ranks.
    """

    name: str
    num_ranks: int = 4
    num_slots: int = 3
    kv_tokens: int = UNLIMITED_TOKENS
    prompt_range_tokens: tuple[int, int] = (1, 4000)
    max_waiting: int = 12
    finish_prob: float = 0.3
    refresh_rounds: int = 1
    slow: tuple[float, float] = NEVER
    away: tuple[float, float] = NEVER
    loses_requests: bool = False
    preempts: bool = False
    kappa0_tokens: float = 0.0
    speeds: tuple[float, ...] = ()
    costs: StepCosts | None = None


PREFILLING = StepCosts(
    constant_s=0.01,
    s_per_token=1e-7,
    kappa0_tokens=100.0,
    prefill_s_per_token=2e-5,
    prefill_shared=0.25,
    mixed_step_s=0.002,
    budget_tokens=512,
)

SCENARIOS = (
    Scenario(name="cold start"),
    Scenario(name="empty pool", max_waiting=0),
    Scenario(name="one request at a time", max_waiting=1),
    Scenario(name="idle group", finish_prob=1.0),
    Scenario(name="full group", finish_prob=0.0),
    Scenario(name="one rank", num_ranks=1),
    Scenario(name="one slot", num_slots=1),
    Scenario(name="many ranks", num_ranks=144, num_slots=4, max_waiting=300),
    Scenario(name="long backlog", max_waiting=500),
    Scenario(name="huge prompts", prompt_range_tokens=(1, 1 << 30)),
    Scenario(name="equal prompts", prompt_range_tokens=(512, 512)),
    Scenario(name="scarce KV tokens", kv_tokens=6000),
    Scenario(name="stale view", refresh_rounds=7),
    Scenario(name="slow middle", slow=(1 / 3, 2 / 3)),
    Scenario(name="rank joins late", away=(0.0, 1 / 3)),
    Scenario(name="rank away for a while", away=(1 / 3, 2 / 3)),
    Scenario(name="rank away for good", away=(1 / 3, 1.0)),
    Scenario(name="rank fails for a while", away=(1 / 3, 2 / 3), loses_requests=True),
    Scenario(name="rank fails unseen", away=(1 / 3, 2 / 3), loses_requests=True, refresh_rounds=4),
    Scenario(
        name="preemption",
        kv_tokens=6000,  # three prompts, and a few output tokens
        prompt_range_tokens=(1980, 2000),
        finish_prob=0.05,
        preempts=True,
    ),
    Scenario(name="unequal ranks", kappa0_tokens=1900.0, speeds=(1.0, 1.0, 0.5, 0.75)),
    Scenario(name="ranks prefill", costs=PREFILLING),
    Scenario(name="ranks prefill, few slots", costs=PREFILLING, num_slots=2, max_waiting=100),
    Scenario(name="ranks prefill, scarce KV tokens", costs=PREFILLING, kv_tokens=6000),
    Scenario(name="ranks prefill, stale view", costs=PREFILLING, refresh_rounds=7),
)


class ToyGroup:
    """Ranks that give every running request one token a round, and the pool in front of them.

    A rank starts queued requests first come, first served, and prefills them at once, or as fast
    as the scenario's token budget allows. Views of a
    group with `follows_requests` show requests and events; each view is to be handed to the policy.

    Parameters
    ----------
    scenario : Scenario
        What happens.
    rounds : int
        Length of the run.
    is_immediate : bool
        How requests are bound.
    rng : numpy.random.Generator
        For lengths, arrivals and ends.
    follows_requests : bool
        Whether views show requests.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        rounds: int,
        is_immediate: bool,
        rng: np.random.Generator,
        follows_requests: bool = False,
    ) -> None:
        self.pool = Pool()
        self._scenario = scenario
        self._rounds = rounds
        self._is_immediate = is_immediate
        self._rng = rng
        self._round = 0
        self._num_received = 0
        self._ledger = Ledger(num_ranks=scenario.num_ranks, keeps_events=follows_requests)
        self._queues: list[list[int]] = [[] for _ in range(scenario.num_ranks)]
        self._running: list[list[int]] = [[] for _ in range(scenario.num_ranks)]
        self._seen = self._ledger.ranks.copy()
        self._entries = self._ledger.accounts.entries.copy()
        self._speeds = np.array(scenario.speeds) if scenario.speeds else None

    @property
    def now_s(self) -> float:
        """Return the time."""
        return self._round * ROUND_S

    def receive(self) -> None:
        """Let some requests arrive."""
        room = self._scenario.max_waiting - len(self.pool)
        num_new = int(self._rng.integers(room, endpoint=True))
        shortest, longest = self._scenario.prompt_range_tokens
        prompts = self._rng.integers(shortest, longest, num_new, endpoint=True)
        ids = np.arange(self._num_received, self._num_received + num_new)
        self._num_received += num_new
        self.pool.append(ids, prompts, self.now_s, self._traits(ids, prompts))

    def _traits(self, ids: Int64Array, prompts: Int64Array) -> RecordArray:
        """Return a mixture of all that may be known, or not, of requests."""
        preferred_ranks = ids % (self._scenario.num_ranks + 1) - 1
        return request_traits(
            len(ids),
            client_ids=ids % 5 - 1,
            max_tokens=np.where(ids % 3 == 0, 0, self._rounds + ids % 7),
            prompt_hashes=ids % 11,
            preferred_ranks=preferred_ranks,
            saved_tokens=np.where(preferred_ranks >= 0, prompts // 2, 0),
        )

    def view(self) -> GroupView:
        """Return what the router knows."""
        events = NO_EVENTS
        if self._round % self._scenario.refresh_rounds == 0:
            self._seen = self._ledger.ranks.copy()
            if self._ledger.keeps_events:
                self._entries = self._ledger.accounts.entries.copy()
                events = self._ledger.take_events()
        view = GroupView.of_accounts(
            self._seen,
            self._ledger.ranks,
            now_s=self.now_s,
            is_immediate=self._is_immediate,
            num_slots=self._num_slots(),
            kv_capacity_tokens=np.full(self._scenario.num_ranks, self._scenario.kv_tokens),
            kappa0_tokens=self._scenario.kappa0_tokens,
            speeds=self._speeds,
            costs=self._scenario.costs,
        )
        if not self._ledger.keeps_events:
            return view
        return view.with_requests(self._entries, self._seen["clock"], events)

    def send(self, requests: Int64Array, ranks: Int64Array) -> None:
        """Carry a plan out."""
        waiting = self.pool.view()
        for i, rank in zip(requests.tolist(), ranks.tolist(), strict=True):
            handle = self._ledger.send(
                rank=rank,
                prompt_tokens=int(waiting.prompt_tokens[i]),
                request=int(waiting.ids[i]),
                client=int(waiting.client_ids[i]),
                max_tokens=int(waiting.max_tokens[i]),
                prompt_hash=int(waiting.prompt_hashes[i]),
            )
            self._queues[rank].append(handle)
        add_sends(self._seen, ranks, waiting.prompt_tokens[requests])
        self.pool.take(requests)

    def step(self) -> None:
        """Let the ranks work for one round."""
        is_slow = self._is_in(self._scenario.slow)
        for rank, num_slots in enumerate(self._num_slots().tolist()):
            if rank > 0 or not is_slow:
                self._step_rank(rank, num_slots)
        was_away = self._is_in(self._scenario.away)
        self._round += 1
        if self._scenario.loses_requests and self._is_in(self._scenario.away) and not was_away:
            for handle in (*self._running[0], *self._queues[0]):
                self._ledger.finish(handle, has_completed=False)
            self._running[0].clear()
            self._queues[0].clear()

    def _step_rank(self, rank: int, num_slots: int) -> None:
        there, queue = self._ledger.ranks[rank], self._queues[rank]
        running = self._running[rank]
        budget = self._budget_tokens()
        if running:  # only the one admitted last can be in the middle of its prompt
            budget = self._prefill(running[-1], budget)
        while queue and len(running) < num_slots and budget > 0:
            due_tokens = self._due_tokens(queue[0])
            if there["load_tokens"] + due_tokens > self._scenario.kv_tokens:
                break
            self._ledger.start(queue[0])
            running.append(queue.pop(0))
            budget = self._prefill(running[-1], budget)
        while running and there["load_tokens"] + len(running) > self._scenario.kv_tokens:
            if self._scenario.preempts and len(running) > 1:
                queue.insert(0, running.pop())
                self._ledger.preempt(queue[0])
            else:
                self._ledger.finish(running.pop(0), has_completed=False)
        self._ledger.step(rank)
        for handle in tuple(running):
            if self._due_tokens(handle) > 0:
                continue
            if self._rng.random() < self._scenario.finish_prob:
                running.remove(handle)
                self._ledger.finish(handle)

    def _due_tokens(self, handle: int) -> int:
        return int(self._ledger.accounts.entries[handle]["due_tokens"])

    def _budget_tokens(self) -> int:
        costs = self._scenario.costs
        return 1 << 62 if costs is None or costs.budget_tokens is None else costs.budget_tokens

    def _prefill(self, handle: int, budget_tokens: int) -> int:
        """Prefill what the budget allows, and return what is left of it."""
        num_tokens = min(self._due_tokens(handle), budget_tokens)
        if num_tokens > 0:
            self._ledger.prefill(handle, num_tokens)
        return budget_tokens - num_tokens

    def _num_slots(self) -> Int64Array:
        num_slots = np.full(self._scenario.num_ranks, self._scenario.num_slots)
        if self._is_in(self._scenario.away):
            num_slots[0] = 0
        return num_slots

    def _is_in(self, span: tuple[float, float]) -> bool:
        return span[0] <= self._round / self._rounds < span[1]
