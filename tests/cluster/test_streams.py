"""A request's begin and end in one call each, against the ledger's own events one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.cluster.ledger import Ledger
from balanceroute.cluster.streams import begin, end, observe, resize, settle
from balanceroute.errors import ConfigError

NUM_RANKS = 3


def ledgers() -> tuple[Ledger, Ledger]:
    """Return two, with next to no room."""
    first, second = (Ledger(num_ranks=NUM_RANKS, capacity=1, keeps_events=True) for _ in range(2))
    return first, second


def expect_same(one: Ledger, other: Ledger) -> None:
    """See that two ledgers hold the same, and that it adds up."""
    np.testing.assert_array_equal(one.ranks, other.ranks)
    np.testing.assert_array_equal(one.recount(), one.ranks)
    np.testing.assert_array_equal(one.accounts.entries, other.accounts.entries)


@given(st.data())
def test_as_the_events_one_by_one(data: st.DataObject) -> None:
    """Totals, accounts and events are the same, however much has to be made room for."""
    quick, slow = ledgers()
    running: list[int] = []
    for number in range(data.draw(st.integers(1, 90))):
        has_end = bool(running) and data.draw(st.booleans())
        if has_end:
            handle = running.pop(data.draw(st.integers(0, len(running) - 1)))
            prompt_tokens, output_tokens = data.draw(st.sampled_from([(0, 0), (12, 9), (0, 3)]))
            has_completed = data.draw(st.booleans())
            told = (prompt_tokens, output_tokens)
            assert len(running) == end(quick, handle, *told, has_completed=has_completed)
            if output_tokens > 0:
                settle(slow, handle, output_tokens)
            if prompt_tokens > 0:
                resize(slow, handle, prompt_tokens)
            slow.finish(handle, has_completed=has_completed)
        else:
            rank, has_stream = data.draw(st.integers(0, NUM_RANKS - 1)), data.draw(st.booleans())
            known = {"request": number, "client": 7, "max_tokens": 64, "prompt_hash": -number}
            handle = begin(quick, rank=rank, prompt_tokens=10, has_stream=has_stream, **known)
            assert handle == slow.send(rank=rank, prompt_tokens=10, **known)
            if not has_stream:
                slow.start(handle)
                slow.prefill(handle, 10)
            running.append(handle)
        expect_same(quick, slow)
    np.testing.assert_array_equal(quick.take_events(), slow.take_events())


def test_a_prompt_that_is_still_computed_gets_its_length_at_the_end() -> None:
    """Without a word of any output, as of a request that an engine has refused late."""
    quick, slow = ledgers()
    for ledger in (quick, slow):
        ledger.start(begin(ledger, rank=0, prompt_tokens=10))
        ledger.prefill(0, 4)
    assert 0 == end(quick, 0, 8)
    resize(slow, 0, 8)
    slow.finish(0)
    expect_same(quick, slow)
    np.testing.assert_array_equal(quick.take_events(), slow.take_events())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 3}, r"rank must be in 0\.\.2, got 3"),
        ({"rank": -1}, r"rank must be in 0\.\.2, got -1"),
        ({"prompt_tokens": 0}, "prompt_tokens must be at least 1, got 0"),
        ({"max_tokens": -1}, "max_tokens must be at least 0, got -1"),
    ],
    ids=["no such rank", "below the first", "no prompt", "a limit below 0"],
)
def test_what_cannot_begin(given: dict[str, int], message: str) -> None:
    """It is said why, and nothing is booked."""
    ledger, _ = ledgers()
    known = {"rank": 0, "prompt_tokens": 10, "max_tokens": 0} | given
    with pytest.raises(ConfigError, match=message):
        begin(
            ledger,
            rank=known["rank"],
            prompt_tokens=known["prompt_tokens"],
            max_tokens=known["max_tokens"],
        )
    assert (0, 0) == (ledger.num_in_flight, len(ledger.take_events()))


@pytest.mark.parametrize("handle", [-1, 0, 99])
def test_what_is_not_in_flight(handle: int) -> None:
    """It can neither give tokens nor end."""
    ledger, _ = ledgers()
    with pytest.raises(ConfigError, match=f"request {handle} is free"):
        end(ledger, handle, 10, 10)
    with pytest.raises(ConfigError, match=f"request {handle} is free"):
        observe(ledger, handle, 1)


def test_no_tokens_are_no_sign_of_life() -> None:
    """Whoever has given none is not observed."""
    ledger, _ = ledgers()
    handle = begin(ledger, rank=0, prompt_tokens=10)
    with pytest.raises(ConfigError, match="output_tokens must be at least 1, got 0"):
        observe(ledger, handle, 0)
