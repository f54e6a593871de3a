"""The ledger by hand, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from balanceroute.cluster.ledger import Ledger
from balanceroute.errors import ConfigError
from balanceroute.kernels import ledger as kernels
from balanceroute.kernels.ledger import ENDED, PREEMPTED, SENT, UNKNOWN


def contents(ledger: Ledger) -> bytes:
    """Return every byte of a ledger."""
    return b"".join(np.asarray(array).tobytes() for array in ledger.accounts)


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


def test_a_cached_prefix_by_hand() -> None:
    """It is due until the request has a slot, resident from then on, and again after preemption."""
    ledger = Ledger(num_ranks=1)
    handle = ledger.send(rank=0, prompt_tokens=100, cached_tokens=64)
    assert 64 == ledger.accounts.entries["cached_tokens"][handle]

    def load_and_due() -> list[int]:
        return [int(ledger.ranks[name][0]) for name in ("load_tokens", "due_tokens")]

    assert [0, 100] == load_and_due()
    ledger.start(handle)
    assert [64, 36] == load_and_due()
    ledger.prefill(handle, 36)
    ledger.grow(handle, 3)
    assert [103, 0] == load_and_due()
    ledger.preempt(handle)
    assert [0, 103] == load_and_due()
    ledger.start(handle)
    assert [64, 39] == load_and_due()
    assert 3 == ledger.age_tokens(handle)


REFUSALS: list[tuple[Callable[[Ledger], object], str]] = [
    (lambda ledger: ledger.send(rank=2, prompt_tokens=5), "rank must be in 0..1, got 2"),
    (lambda ledger: ledger.send(rank=-1, prompt_tokens=5), "rank must be in 0..1, got -1"),
    (
        lambda ledger: ledger.send(rank=0, prompt_tokens=0),
        "prompt_tokens must be at least 1, got 0",
    ),
    (
        lambda ledger: ledger.send(rank=0, prompt_tokens=5, max_tokens=-1),
        "max_tokens must be at least 0, got -1",
    ),
    (
        lambda ledger: ledger.send(rank=0, prompt_tokens=5, cached_tokens=5),
        "cached_tokens must be in 0..4, got 5",
    ),
    (
        lambda ledger: ledger.send(rank=0, prompt_tokens=5, cached_tokens=-1),
        "cached_tokens must be in 0..4, got -1",
    ),
    (lambda ledger: ledger.take_events(), "this ledger keeps no events; make it with"),
    (lambda ledger: ledger.age_tokens(-1), "request -1 is free"),
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


def test_ages_by_hand() -> None:
    """Output tokens so far in every state: they survive a preemption, and prefill adds none."""
    ledger = Ledger(num_ranks=1)
    handle = ledger.send(rank=0, prompt_tokens=10)
    ledger.step(0)  # of others: it is not there yet
    assert 0 == ledger.age_tokens(handle)
    ledger.start(handle)
    ledger.prefill(handle, 4)
    assert 0 == ledger.age_tokens(handle)
    ledger.prefill(handle, 6)
    ledger.step(0)
    ledger.grow(handle, 2)
    assert 3 == ledger.age_tokens(handle)
    ledger.preempt(handle)
    ledger.step(0)
    assert 3 == ledger.age_tokens(handle)
    ledger.start(handle)
    ledger.prefill(handle, 5)  # of 13
    assert 3 == ledger.age_tokens(handle)
    ledger.prefill(handle, 8)
    ledger.step(0)
    assert 4 == ledger.age_tokens(handle)


def test_events_of_one_request_by_hand() -> None:
    """Each kind, with what is known of the request and the tokens that it has by then."""
    ledger = Ledger(num_ranks=3, keeps_events=True)
    handle = ledger.send(
        rank=2, prompt_tokens=10, request=70, client=5, max_tokens=99, prompt_hash=-8
    )
    ledger.start(handle)
    ledger.prefill(handle, 10)
    ledger.grow(handle, 4)
    ledger.preempt(handle)
    ledger.finish(handle, has_completed=False)
    who = (5, 99, -8)
    assert [
        (SENT, handle, 70, 2, 10, 0, *who, 0),
        (PREEMPTED, handle, 70, 2, 10, 4, *who, 0),
        (ENDED, handle, 70, 2, 10, 4, *who, 0),
    ] == ledger.take_events().tolist()
    ledger.finish(ledger.send(rank=0, prompt_tokens=1))
    assert [
        (SENT, handle, UNKNOWN, 0, 1, 0, UNKNOWN, 0, 0, 0),
        (ENDED, handle, UNKNOWN, 0, 1, 0, UNKNOWN, 0, 0, 1),
    ] == ledger.take_events().tolist()


def test_events_taken_are_the_callers_own() -> None:
    """What comes later does not change them, and they can be written to."""
    ledger = Ledger(num_ranks=1, keeps_events=True)
    ledger.send(rank=0, prompt_tokens=1, request=1)
    taken = ledger.take_events()
    ledger.send(rank=0, prompt_tokens=1, request=2)
    assert [1] == taken["request"].tolist()
    taken["request"] = 9
    assert [2] == ledger.take_events()["request"].tolist()


def test_a_ledger_without_events_has_no_room_for_any() -> None:
    """Nothing is noted where nobody asks, so nothing piles up."""
    ledger = Ledger(num_ranks=1)
    ledger.reserve_events(5)
    ledger.send(rank=0, prompt_tokens=1)
    assert 0 == len(ledger.accounts.events)
    assert not ledger.keeps_events


def test_a_kernel_refuses_to_lose_an_event() -> None:
    """Whoever calls kernels has to make room; a fault there is an error and no silent loss."""
    ledger = Ledger(num_ranks=1, capacity=500, keeps_events=True)
    room = len(ledger.accounts.events)
    for _ in range(room):
        kernels.send(ledger.accounts, 0, 1, 0, 0, 0, 0, 0)
    before = contents(ledger)
    with pytest.raises(IndexError, match="no room for an event"):
        kernels.finish(ledger.accounts, 0, 1)
    assert before == contents(ledger)
    assert not kernels.has_event_room(ledger.accounts)
    assert room == len(ledger.take_events())
