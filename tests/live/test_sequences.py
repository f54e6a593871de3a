"""Requests that ask for several sequences at once."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.live.group import LiveGroup
from balanceroute.live.ticket import Ticket, ticket_of
from balanceroute.live.wire import MAX_SEQUENCES, read_request
from balanceroute.policies.classic import Fcfs
from tests.live.fake_engine import FakeEngine, chunk, routing, run, serving, until

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "body", "num_prompts", "num_choices"),
    [
        (COMPLETIONS, {"prompt": "a b"}, 1, 1),
        (COMPLETIONS, {"prompt": [1, 2, 3], "n": 4}, 1, 4),
        (COMPLETIONS, {"prompt": ["a", "b"]}, 2, 1),
        (COMPLETIONS, {"prompt": [[1, 2], [3], [4]], "n": 2}, 3, 2),
        (COMPLETIONS, {"prompt": [], "n": 0}, 1, 1),
        (COMPLETIONS, {"prompt": [1], "n": -3}, 1, 1),
        (COMPLETIONS, {"prompt": [1], "n": "many"}, 1, 1),
        (COMPLETIONS, {"prompt": [1], "n": 1 << 30}, 1, MAX_SEQUENCES),
        (COMPLETIONS, {"prompt": ["a"] * 2000, "n": 3}, MAX_SEQUENCES, 1),
        (CHATS, {"messages": [{"role": "user", "content": "a"}], "n": 8}, 1, 8),
    ],
)
def test_how_many_a_request_asks_for(
    path: str, body: object, num_prompts: int, num_choices: int
) -> None:
    """Prompts times choices; what is no number is one, and none are more than can be booked."""
    facts = read_request(path, msgspec.json.encode(body))
    assert (num_prompts, num_choices) == (facts.num_prompts, facts.num_choices)


def test_each_has_a_slot_and_grows_with_its_rank() -> None:
    """Of a step that gives a token to each, one step is seen, by others on the rank, too."""
    group = LiveGroup(num_ranks=2, policy=Fcfs(), num_slots=8)
    single = Ticket(prompt_tokens=100)
    group.enter_pinned(single, 1)
    group.grow(single, 1)
    facts = read_request(COMPLETIONS, b'{"prompt": [[1, 2, 3], [4]], "n": 2, "stream": true}')
    asked = ticket_of(facts, 4)
    group.enter_pinned(asked, 1)
    ranks = group.ledger.ranks
    assert (1, 4, 8) == (ranks["num_running"][1], ranks["num_waiting"][1], ranks["due_tokens"][1])
    for num_known in (0, 1, 1):  # the other's second token comes before its third step
        assert [num_known, 0, 0, 0] == [group.grow(asked, 1) for _ in range(4)]
        assert 0 == (group.grow(single, 1) if num_known else 0)
    assert 100 + 3 + 4 * (2 + 3) == ranks["load_tokens"][1]
    group.close(asked, has_completed=True, prompt_tokens=4, output_tokens=12)
    assert (1, 103) == (ranks["num_running"][1], ranks["load_tokens"][1])
    group.check()


def test_what_a_policy_sees_of_them() -> None:
    """The prompts of all, as load that is to come."""
    group = LiveGroup(num_ranks=1, policy=Fcfs(), num_slots=4)
    group.enter(Ticket(prompt_tokens=10, num_prompts=3, num_choices=2))
    assert [24] == group._pool.view().prompt_tokens.tolist()


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=40),
    st.booleans(),
)
def test_the_ledger_stays_exact(
    choices: list[int], grown: list[tuple[int, int]], is_streamed: bool
) -> None:
    """Whatever comes in which order, totals are those of the requests, and nothing is left."""
    group = LiveGroup(num_ranks=1, policy=Fcfs(), num_slots=64)
    tickets = [Ticket(prompt_tokens=7, num_choices=n, is_streamed=is_streamed) for n in choices]
    for its in tickets:
        group.enter_pinned(its, 0)
    for which, num_tokens in grown:
        group.grow(tickets[which % len(tickets)], num_tokens)
        group.check()
    assert sum(choices) == group.ledger.num_in_flight
    for its in tickets:
        group.close(its, has_completed=True, prompt_tokens=7, output_tokens=its.output_tokens)
    group.check()
    assert 0 == group.ledger.num_in_flight


def test_over_http() -> None:
    """Two choices of three tokens, one event each, are two sequences on a rank."""
    told = asyncio.Event()

    async def script(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(6):
            await answer.write(chunk())
        await told.wait()
        await answer.write(b"data: [DONE]\n\n")
        return answer

    async def test() -> None:
        async with serving(FakeEngine(script)) as engine, routing(engine) as client:
            body = {"prompt": [1, 2], "n": 2, "stream": True}
            asked = asyncio.create_task(client.post(body))
            ranks = client.router.group.ledger.ranks
            await until(lambda: int(ranks["load_tokens"][0]) == 2 * (2 + 3))
            assert 2 == ranks["num_running"][0]
            told.set()
            assert 200 == (await asked)[0]
            client.expect_nothing_left()

    run(test())
