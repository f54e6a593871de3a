"""The ledger and its events against a plain model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from balanceroute.cluster.ledger import Ledger
from balanceroute.errors import ConfigError
from balanceroute.kernels.ledger import ENDED, PREEMPTED, RANK_ACCOUNT, SENT

Event = tuple[int, ...]

NUM_RANKS = 3
MAX_CAPACITY = 500
WAITING, PREFILLING, DECODING = "waiting", "prefilling", "decoding"


@dataclass
class Booked:
    """What the model knows of one request."""

    rank: int
    prompt_tokens: int
    due_tokens: int
    request: int
    client: int
    max_tokens: int
    prompt_hash: int
    cached_tokens: int
    resident_tokens: int = 0
    generated_tokens: int = 0
    state: str = WAITING


class LedgerMachine(RuleBasedStateMachine):
    """Any sequence of events leaves the ledger equal to a model and to its own recount.

    The events that it notes are exactly those that happened, however rarely they are taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(num_ranks=NUM_RANKS, capacity=1, keeps_events=True)
        self.happened: list[Event] = []  # since events were taken
        self.live: dict[int, int] = {}  # replayed from events: handle to request
        self.booked: dict[int, Booked] = {}
        self.num_sent = self.num_finished = 0
        self.generated = [0] * NUM_RANKS

    def pick(self, index: int, *states: str) -> tuple[int, Booked] | None:
        """Return one of the requests in these states."""
        found = [item for item in self.booked.items() if item[1].state in states]
        return found[index % len(found)] if found else None

    def event_room(self) -> int:
        """Return how many events fit."""
        accounts = self.ledger.accounts
        return len(accounts.events) - int(accounts.counts["num_events"][0])

    def note(self, kind: int, handle: int, has_completed: bool = False) -> None:
        """Note in the model what happens to a request."""
        booked = self.booked[handle]
        who = (booked.client, booked.max_tokens, booked.prompt_hash)
        tokens = (booked.prompt_tokens, booked.generated_tokens)
        event = (kind, handle, booked.request, booked.rank, *tokens, *who, int(has_completed))
        self.happened.append(event)

    @rule(
        rank=st.integers(0, NUM_RANKS - 1),
        prompt_tokens=st.integers(1, 9000),
        client=st.integers(-1, 3),
        max_tokens=st.integers(0, 9),
        prompt_hash=st.integers(-(2**63), 2**63 - 1),
        cached_share=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def send(
        self,
        rank: int,
        prompt_tokens: int,
        client: int,
        max_tokens: int,
        prompt_hash: int,
        cached_share: float,
    ) -> None:
        request = self.num_sent
        cached_tokens = int(cached_share * (prompt_tokens - 1))
        handle = self.ledger.send(
            rank=rank,
            prompt_tokens=prompt_tokens,
            request=request,
            client=client,
            max_tokens=max_tokens,
            prompt_hash=prompt_hash,
            cached_tokens=cached_tokens,
        )
        assert handle not in self.booked
        self.booked[handle] = Booked(
            rank,
            prompt_tokens,
            prompt_tokens,
            request,
            client,
            max_tokens,
            prompt_hash,
            cached_tokens,
        )
        self.note(SENT, handle)
        self.num_sent += 1

    @precondition(lambda self: self.booked)
    @rule(index=st.integers(0, 99))
    def start(self, index: int) -> None:
        if found := self.pick(index, WAITING):
            handle, request = found
            self.ledger.start(handle)
            request.state = PREFILLING
            request.due_tokens -= request.cached_tokens
            request.resident_tokens += request.cached_tokens

    @precondition(lambda self: self.booked)
    @rule(index=st.integers(0, 99), share=st.floats(0, 1))
    def prefill(self, index: int, share: float) -> None:
        if found := self.pick(index, PREFILLING):
            handle, request = found
            num_tokens = max(1, round(share * request.due_tokens))
            self.ledger.prefill(handle, num_tokens)
            request.due_tokens -= num_tokens
            request.resident_tokens += num_tokens
            request.state = PREFILLING if request.due_tokens else DECODING

    @precondition(lambda self: self.booked)
    @rule(index=st.integers(0, 99), num_tokens=st.integers(0, 5))
    def grow(self, index: int, num_tokens: int) -> None:
        if found := self.pick(index, DECODING):
            handle, request = found
            self.ledger.grow(handle, num_tokens)
            request.resident_tokens += num_tokens
            request.generated_tokens += num_tokens
            self.generated[request.rank] += num_tokens

    @rule(rank=st.integers(0, NUM_RANKS - 1))
    def step(self, rank: int) -> None:
        self.ledger.step(rank)
        for request in self.booked.values():
            if request.rank == rank and request.state == DECODING:
                request.resident_tokens += 1
                request.generated_tokens += 1
                self.generated[rank] += 1

    @precondition(lambda self: self.booked)
    @rule(index=st.integers(0, 99))
    def preempt(self, index: int) -> None:
        if found := self.pick(index, PREFILLING, DECODING):
            handle, request = found
            self.ledger.preempt(handle)
            self.note(PREEMPTED, handle)
            request.due_tokens += request.resident_tokens
            request.resident_tokens = 0
            request.state = WAITING

    @precondition(lambda self: self.booked)
    @rule(index=st.integers(0, 99), has_completed=st.booleans())
    def finish(self, index: int, has_completed: bool) -> None:
        if found := self.pick(index, WAITING, PREFILLING, DECODING):
            self.ledger.finish(found[0], has_completed=has_completed)
            self.note(ENDED, found[0], has_completed)
            del self.booked[found[0]]
            self.num_finished += 1

    @rule()
    def take_events(self) -> None:
        """Each event is given once, in order, and together they tell who is in flight."""
        events = self.ledger.take_events()
        assert self.happened == events.tolist()
        self.happened.clear()
        for event in events:
            if event["kind"] == SENT:
                assert event["handle"] not in self.live
                self.live[int(event["handle"])] = int(event["request"])
            elif event["kind"] == ENDED:
                assert self.live.pop(int(event["handle"])) == event["request"]
        assert self.live == {handle: booked.request for handle, booked in self.booked.items()}

    @precondition(lambda self: len(self.ledger.accounts.events) < MAX_CAPACITY)  # it doubles
    @rule(num_events=st.integers(0, 5))
    def reserve_events(self, num_events: int) -> None:
        """Room for events is made without losing any."""
        wanted = self.event_room() + num_events
        self.ledger.reserve_events(wanted)
        assert self.event_room() >= wanted

    @precondition(lambda self: self.ledger.capacity < MAX_CAPACITY)  # it doubles
    @rule(excess=st.integers(-1, 2))
    def reserve(self, excess: int) -> None:
        num_requests = max(0, self.ledger.capacity - len(self.booked) + excess)
        self.ledger.reserve(num_requests)
        assert self.ledger.capacity - len(self.booked) >= num_requests

    @rule(
        handle=st.integers(-2, 40), event=st.sampled_from(["start", "prefill", "grow", "preempt"])
    )
    def refuse(self, handle: int, event: str) -> None:
        """Try an event that the request's state does not allow: it raises and changes nothing."""
        allowed = {
            "start": (WAITING,),
            "prefill": (PREFILLING,),
            "grow": (DECODING,),
            "preempt": (PREFILLING, DECODING),
        }
        request = self.booked.get(handle)
        if request is not None and request.state in allowed[event]:
            return
        call: Callable[..., None] = getattr(self.ledger, event)
        arguments = (handle, 1) if event in ("prefill", "grow") else (handle,)
        before = contents(self.ledger)
        with pytest.raises(ConfigError, match=rf"request {handle} is \w+, but must be "):
            call(*arguments)
        assert before == contents(self.ledger)

    @invariant()
    def requests_are_conserved(self) -> None:
        """Sent = finished + in flight."""
        ranks = self.ledger.ranks
        num_in_flight = ranks["num_running"].sum() + ranks["num_waiting"].sum()
        assert self.num_sent == self.num_finished + num_in_flight

    @invariant()
    def nothing_is_negative(self) -> None:
        """Neither counts nor tokens."""
        assert all((self.ledger.ranks[name] >= 0).all() for name in RANK_ACCOUNT.names or ())

    @invariant()
    def running_totals_equal_a_recount(self) -> None:
        """Record for record."""
        assert self.ledger.recount().tobytes() == self.ledger.ranks.tobytes()

    @invariant()
    def totals_equal_the_model(self) -> None:
        """Every account of every rank, and every request's tokens."""
        for rank, there in enumerate(self.ledger.ranks):
            here = [request for request in self.booked.values() if request.rank == rank]
            running = [request for request in here if request.state != WAITING]
            assert there["load_tokens"] == sum(request.resident_tokens for request in here)
            assert there["due_tokens"] == sum(request.due_tokens for request in here)
            assert there["prompt_tokens"] == sum(request.prompt_tokens for request in running)
            assert there["num_running"] == len(running)
            assert there["num_waiting"] == len(here) - len(running)
            assert there["num_decoding"] == sum(request.state == DECODING for request in here)
            assert there["generated_tokens"] == self.generated[rank]
        for handle, request in self.booked.items():
            assert request.resident_tokens == self.ledger.resident_tokens(handle)
            assert request.generated_tokens == self.ledger.age_tokens(handle)

    def teardown(self) -> None:
        """Check what has happened since events were last taken."""
        self.take_events()


def contents(ledger: Ledger) -> bytes:
    """Return every byte of a ledger."""
    return b"".join(array.tobytes() for array in ledger.accounts)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
