"""Counting tokens in streams, and how what they say reaches the ledger."""

from __future__ import annotations

import json
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.cluster.ledger import Ledger
from balanceroute.cluster.streams import observe, settle
from balanceroute.live.group import LiveGroup
from balanceroute.live.ticket import Ticket
from balanceroute.live.tokens import EventRate, TokenMeter, Usage
from balanceroute.live.wire import read_request
from balanceroute.policies.classic import Fcfs, RoundRobin


def event(**content: object) -> bytes:
    """Return one server-sent event."""
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


TEXT = event(choices=[{"index": 0, "text": " a"}])
CASES = {
    "completions": (TEXT * 3, 3),
    "chat, whose first event has a role and no token": (
        event(choices=[{"delta": {"role": "assistant", "content": ""}}])
        + event(choices=[{"delta": {"content": "a"}}]) * 2,
        2,
    ),
    "token ids": (event(choices=[{"text": "abc", "token_ids": [1, 2, 3]}]) * 2, 6),
    "usage all along": (
        event(choices=[{"text": "ab"}], usage={"prompt_tokens": 1, "completion_tokens": 2})
        + event(choices=[{"text": "cd"}], usage={"prompt_tokens": 1, "completion_tokens": 4}),
        4,
    ),
    "responses": (
        event(type="response.created")
        + event(type="response.output_text.delta", delta="a") * 2
        + event(type="response.completed", response={"usage": {"output_tokens": 2}}),
        2,
    ),
    "comments, other events and what is no JSON": (
        b": ping\n\n" + b"event: x\n\n" + b"data: {\n\n" + TEXT + b"data: [DONE]\n\n",
        1,
    ),
    "carriage returns": (TEXT.replace(b"\n", b"\r\n") * 2, 2),
}


@pytest.mark.parametrize("name", CASES)
@given(cuts=st.lists(st.integers(0, 400), max_size=5))
def test_tokens_are_counted_however_the_stream_is_cut(name: str, cuts: list[int]) -> None:
    """Bytes come in pieces that respect no event."""
    data, expected = CASES[name]
    meter, edges = TokenMeter(), [0, *sorted(cuts), len(data)]
    risen = sum(meter.feed(data[a:b]) for a, b in pairwise(edges))
    assert (expected, expected) == (risen, meter.num_tokens)


def test_usage_at_the_end_is_no_step() -> None:
    """It puts the request right; the rank's other requests have not grown by that."""
    group = LiveGroup(num_ranks=1, policy=Fcfs(), num_slots=2)
    tickets = [Ticket(prompt_tokens=10) for _ in range(2)]
    for ticket in tickets:
        group.enter(ticket)
    group.plan()
    meter = TokenMeter()
    for ticket in tickets:
        group.grow(ticket, 1)
    last = event(choices=[], usage={"prompt_tokens": 10, "completion_tokens": 200})
    assert 0 == meter.feed(last)
    assert Usage(10, 200) == meter.usage
    group.correct(tickets[0], prompt_tokens=10, output_tokens=200)
    group.close(tickets[0], has_completed=True)
    assert 11 == group.ledger.ranks["load_tokens"][0]
    np.testing.assert_array_equal(group.ledger.recount(), group.ledger.ranks)


@given(st.data())
def test_a_token_that_is_known_of_is_not_booked_again(data: st.DataObject) -> None:
    """What streams tell comes to the same as if each had been asked, whoever is ahead or lags."""
    group = LiveGroup(num_ranks=2, policy=RoundRobin(), num_slots=9)
    tickets = [Ticket(prompt_tokens=10 + number) for number in range(5)]
    for ticket in tickets:
        group.enter(ticket)
    group.plan()
    ledger = Ledger(num_ranks=2)
    handles = [ledger.send(rank=its.rank, prompt_tokens=its.prompt_tokens) for its in tickets]
    seen = [0] * len(tickets)
    for which, num_tokens in data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)))):
        seen[which] += num_tokens
        num_steps = observe(ledger, handles[which], seen[which])
        assert num_steps == group.grow(tickets[which], num_tokens)
        if data.draw(st.integers(0, 9)) == 0:
            seen[which] += 2
            settle(ledger, handles[which], seen[which])
            group.correct(tickets[which], prompt_tokens=0, output_tokens=seen[which])
        for name in ("load_tokens", "clock", "num_decoding", "due_tokens"):
            np.testing.assert_array_equal(ledger.ranks[name], group.ledger.ranks[name])
    group.check()


def test_several_tokens_per_event_are_learned() -> None:
    """The first event is taken for one token, the later ones for what streams have shown."""
    rate = EventRate()
    for _ in range(500):
        rate.learn(num_events=6, output_tokens=1 + 5 * 16)
    meter = TokenMeter(rate.tokens_per_event)
    assert [1, 16, 16] == [meter.feed(TEXT) for _ in range(3)]


def test_usage_that_makes_no_sense_teaches_nothing() -> None:
    """Fewer tokens than events, or a single event."""
    rate = EventRate()
    rate.learn(num_events=50, output_tokens=2)
    rate.learn(num_events=1, output_tokens=1000)
    assert 1.0 == rate.tokens_per_event


@pytest.mark.parametrize(
    ("prompt", "num_ids"),
    [
        ([1, 2, 3], 3),
        ([[1, 2], [3]], 3),
        ([7], 1),
        ([], None),
        ([[1], []], None),
        (["a", "b"], None),
        ([1.5], None),
        ("1,2", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_token_ids_are_counted(
    prompt: object, num_ids: int | None, separators: tuple[str, str]
) -> None:
    """Where a prompt is nothing else."""
    body = json.dumps({"prompt": prompt}, separators=separators).encode()
    assert read_request("/v1/completions", body).prompt_ids == num_ids
