"""The ledger by hand, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from balanceroute.cluster.ledger import Ledger
from balanceroute.errors import ConfigError


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
