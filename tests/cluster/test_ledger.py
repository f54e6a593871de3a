"""The ledger against a plain model, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from balanceroute.cluster.ledger import Ledger
from balanceroute.errors import ConfigError
from balanceroute.kernels.ledger import RANK_ACCOUNT

NUM_RANKS = 3
WAITING, PREFILLING, DECODING = "waiting", "prefilling", "decoding"


@dataclass
class Booked:
    """What the model knows of one request."""

    rank: int
    prompt_tokens: int
    due_tokens: int
    resident_tokens: int = 0
    state: str = WAITING


class LedgerMachine(RuleBasedStateMachine):
    """Any sequence of events leaves the ledger equal to a model and to its own recount."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(num_ranks=NUM_RANKS, capacity=1)
        self.booked: dict[int, Booked] = {}
        self.num_sent = self.num_finished = 0
        self.generated = [0] * NUM_RANKS

    def pick(self, index: int, *states: str) -> tuple[int, Booked] | None:
        """Return one of the requests in these states."""
        found = [item for item in self.booked.items() if item[1].state in states]
        return found[index % len(found)] if found else None

    @rule(rank=st.integers(0, NUM_RANKS - 1), prompt_tokens=st.integers(1, 9000))
    def send(self, rank: int, prompt_tokens: int) -> None:
        handle = self.ledger.send(rank=rank, prompt_tokens=prompt_tokens)
        assert handle not in self.booked
        self.booked[handle] = Booked(rank, prompt_tokens, prompt_tokens)
        self.num_sent += 1

    @precondition(lambda self: self.booked)
    @rule(index=st.integers(0, 99))
    def start(self, index: int) -> None:
        if found := self.pick(index, WAITING):
            handle, request = found
            self.ledger.start(handle)
            request.state = PREFILLING

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
            self.generated[request.rank] += num_tokens

    @rule(rank=st.integers(0, NUM_RANKS - 1))
    def step(self, rank: int) -> None:
        self.ledger.step(rank)
        for request in self.booked.values():
            if request.rank == rank and request.state == DECODING:
                request.resident_tokens += 1
                self.generated[rank] += 1

    @precondition(lambda self: self.booked)
    @rule(index=st.integers(0, 99))
    def preempt(self, index: int) -> None:
        if found := self.pick(index, PREFILLING, DECODING):
            handle, request = found
            self.ledger.preempt(handle)
            request.due_tokens += request.resident_tokens
            request.resident_tokens = 0
            request.state = WAITING

    @precondition(lambda self: self.booked)
    @rule(index=st.integers(0, 99))
    def finish(self, index: int) -> None:
        if found := self.pick(index, WAITING, PREFILLING, DECODING):
            self.ledger.finish(found[0])
            del self.booked[found[0]]
            self.num_finished += 1

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


def contents(ledger: Ledger) -> bytes:
    """Return every byte of a ledger."""
    return b"".join(np.asarray(array).tobytes() for array in ledger.accounts)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_one_request_from_send_to_finish() -> None:
    """The accounts of its rank after each event, by hand."""
    ledger = Ledger(num_ranks=2)
    names = ["load_tokens", "due_tokens", "prompt_tokens", "num_running", "num_waiting"]

    def rank_1() -> list[int]:
        return [int(ledger.ranks[name][1]) for name in names]

    handle = ledger.send(rank=1, prompt_tokens=100)
    assert [0, 100, 0, 0, 1] == rank_1()
    ledger.start(handle)
    assert [0, 100, 100, 1, 0] == rank_1()
    ledger.prefill(handle, 60)
    assert [60, 40, 100, 1, 0] == rank_1()
    ledger.step(1)  # it does not decode yet, so it does not grow
    assert [60, 40, 100, 1, 0] == rank_1()
    ledger.prefill(handle, 40)
    ledger.step(1)
    assert [101, 0, 100, 1, 0] == rank_1()
    ledger.preempt(handle)  # all 101 tokens must be computed again
    assert [0, 101, 0, 0, 1] == rank_1()
    ledger.finish(handle)
    assert [0, 0, 0, 0, 0] == rank_1()


REFUSALS: list[tuple[Callable[[Ledger], object], str]] = [
    (lambda ledger: ledger.send(rank=2, prompt_tokens=5), "rank must be in 0..1, got 2"),
    (lambda ledger: ledger.send(rank=-1, prompt_tokens=5), "rank must be in 0..1, got -1"),
    (
        lambda ledger: ledger.send(rank=0, prompt_tokens=0),
        "prompt_tokens must be at least 1, got 0",
    ),
    (lambda ledger: ledger.step(2), "rank must be in 0..1, got 2"),
    (lambda ledger: ledger.prefill(0, 11), "num_tokens must be in 1..10, got 11"),
    (lambda ledger: ledger.prefill(0, 0), "num_tokens must be in 1..10, got 0"),
    (lambda ledger: ledger.grow(1, -1), "num_tokens must be at least 0, got -1"),
    (lambda ledger: ledger.start(0), "request 0 is prefilling, but must be waiting"),
    (lambda ledger: ledger.grow(0), "request 0 is prefilling, but must be decoding"),
    (
        lambda ledger: ledger.preempt(7),
        "request 7 is free, but must be prefilling or decoding for this event",
    ),
    (lambda ledger: ledger.finish(10**9), "request 1000000000 is free"),
    (lambda ledger: ledger.resident_tokens(-1), "request -1 is free"),
    (lambda ledger: Ledger(num_ranks=0), "num_ranks must be at least 1, got 0"),
    (lambda ledger: Ledger(num_ranks=1, capacity=-1), "capacity must be at least 0, got -1"),
]


@pytest.mark.parametrize(("event", "message"), REFUSALS, ids=[message for _, message in REFUSALS])
def test_impossible_events_change_nothing(event: Callable[[Ledger], object], message: str) -> None:
    """Request 0 prefills (10 tokens to go), request 1 decodes, no other exists."""
    ledger = Ledger(num_ranks=2)
    for _ in range(2):
        ledger.start(ledger.send(rank=0, prompt_tokens=10))
    ledger.prefill(1, 10)
    before = contents(ledger)
    with pytest.raises(ConfigError, match=re.escape(message)):
        event(ledger)
    assert before == contents(ledger)


def test_growing_keeps_handles_and_the_ranks_array() -> None:
    """Requests in flight keep their handles; views of the accounts per rank stay valid."""
    ledger = Ledger(num_ranks=1, capacity=0)
    ranks = ledger.ranks
    handles = [ledger.send(rank=0, prompt_tokens=tokens) for tokens in range(1, 51)]
    assert list(range(50)) == sorted(handles)
    assert ranks is ledger.ranks
    assert sum(range(1, 51)) == ranks["due_tokens"][0]
    for tokens, handle in enumerate(handles, start=1):
        assert tokens == ledger.accounts.entries["prompt_tokens"][handle]


def test_growing_keeps_track_of_which_handles_are_free() -> None:
    """Handle 0, given back before the ledger grew, is free afterwards, and handle 1 is not."""
    ledger = Ledger(num_ranks=1, capacity=2)
    handles = [ledger.send(rank=0, prompt_tokens=5) for _ in range(2)]
    ledger.finish(handles[0])
    ledger.reserve(2)
    assert handles[0] == ledger.send(rank=0, prompt_tokens=5)
    assert ledger.send(rank=0, prompt_tokens=5) not in handles
