from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.kernels.ledger import DECODING, WAITING
from balanceroute.live.group import LiveGroup
from balanceroute.live.ticket import Ticket
from balanceroute.policies.auto import BrAuto
from balanceroute.policies.classic import LeastTokens, RoundRobin
from balanceroute.vllm_plugin.balancer import Balancer
from balanceroute.vllm_plugin.facts import RequestFacts
from tests.vllm_plugin.stand_in import EngineCoreOutput


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def make_balancer(num_ranks: int = 2, **settings: Any) -> Balancer:
    policy = settings.pop("policy", LeastTokens())
    return Balancer(num_ranks=num_ranks, num_slots=8, kv_tokens=10_000, policy=policy, **settings)


def facts(name: str, prompt_tokens: int = 100) -> RequestFacts:
    return RequestFacts(request_id=name, prompt_tokens=prompt_tokens)


def tokens(*names: str, number: int = 1) -> list[EngineCoreOutput]:
    return [EngineCoreOutput(name, [7] * number) for name in names]


def loads(balancer: Balancer) -> list[int]:
    accounts = balancer.group.ledger.ranks
    assert np.array_equal(balancer.group.ledger.recount(), accounts)
    return accounts["load_tokens"].tolist()  # type: ignore[no-any-return]


def test_a_prompt_is_due_until_its_first_token_and_grows_with_each() -> None:
    """Due 100, then resident 101, then 102; nothing is left at the end."""
    balancer = make_balancer()
    assert 0 == balancer.place(facts("a"))
    assert ([0, 0], 100) == (loads(balancer), balancer.group.ledger.ranks["due_tokens"][0])
    balancer.take_step(0, tokens("a"), None)
    assert [101, 0] == loads(balancer)
    balancer.take_step(0, [EngineCoreOutput("a", [7], "stop")], {"a"})
    assert [0, 0] == loads(balancer)
    assert 0 == balancer.num_in_flight
    assert 2 == balancer.group.ledger.ranks["generated_tokens"][0]


def test_tokens_are_exact_however_many_a_step_gives() -> None:
    """Speculative decoding gives several at once: 100 + 1 + 3, and 100 + 1 + 1 beside it."""
    balancer = make_balancer(num_ranks=1)
    for name in "ab":
        balancer.place(facts(name))
    balancer.take_step(0, tokens("a", "b"), None)
    balancer.take_step(0, tokens("a", number=3) + tokens("b"), None)
    assert [104 + 102] == loads(balancer)


def test_who_is_not_named_gets_nothing() -> None:
    """A request that sits out one step keeps its 101 tokens and its slot."""
    balancer = make_balancer(num_ranks=1)
    for name in "ab":
        balancer.place(facts(name))
    balancer.take_step(0, tokens("a", "b"), None)
    balancer.take_step(0, tokens("a"), None)
    assert [102 + 101] == loads(balancer)
    assert 2 == balancer.group.ledger.ranks["num_running"][0]


def test_two_silent_steps_are_a_preemption_and_the_tokens_come_back() -> None:
    """Its 101 tokens are due again; with its next token 102 are resident."""
    balancer = make_balancer(num_ranks=1)
    for name in "ab":
        balancer.place(facts(name))
    balancer.take_step(0, tokens("a", "b"), None)
    for _ in range(3):
        balancer.take_step(0, tokens("a"), None)
    assert ([104], 101) == (loads(balancer), balancer.group.ledger.ranks["due_tokens"][0])
    assert 1 == balancer.num_preemptions
    balancer.take_step(0, tokens("a", "b"), None)
    assert [105 + 102] == loads(balancer)


def test_an_aborted_request_leaves_when_its_rank_says_so() -> None:
    """Until then it is still there, as it is on the rank."""
    balancer = make_balancer()
    balancer.place(facts("a"))
    balancer.take_step(0, tokens("a"), None)
    assert [101, 0] == loads(balancer)
    balancer.take_step(0, [], {"a"})
    assert [0, 0] == loads(balancer)


def test_more_input_of_a_request_adds_to_its_prompt() -> None:
    """100 tokens and 50 more on the same rank."""
    balancer = make_balancer()
    balancer.book(facts("a"), 1)
    balancer.book(facts("a", 50), 1)
    assert 150 == balancer.group.ledger.ranks["due_tokens"][1]


@given(
    prompts=st.lists(st.integers(1, 5000), min_size=1, max_size=40),
    policy=st.sampled_from([LeastTokens, BrAuto]),
)
def test_the_short_way_chooses_as_the_policy_does(prompts: list[int], policy: Any) -> None:
    """The kernel puts a lone request on a rank as light as the one that the policy's plan names."""
    balancer = make_balancer(4, policy=policy())
    other = LiveGroup(num_ranks=4, policy=policy(), num_slots=8, is_immediate=True)
    for number, prompt_tokens in enumerate(prompts):
        before = _committed(balancer)
        ticket = Ticket(prompt_tokens=prompt_tokens)
        other.enter(ticket)
        other.plan()
        assert before[balancer.lightest_rank()] == before.min() == before[ticket.rank]
        balancer.book(facts(str(number), prompt_tokens), ticket.rank)


def _committed(balancer: Balancer) -> Any:
    accounts = balancer.group.ledger.ranks
    return accounts["load_tokens"] + accounts["due_tokens"]


def test_idle_ranks_take_turns() -> None:
    """Requests that come and go one by one do not all go to the first rank."""
    balancer, chosen = make_balancer(4), []
    for number in range(4):
        chosen.append(balancer.place(facts(str(number))))
        balancer.take_step(chosen[-1], [], {str(number)})
    assert [0, 1, 2, 3] == chosen


def test_other_policies_choose_by_their_own_plan() -> None:
    """Round robin, whatever the ranks hold."""
    balancer = make_balancer(3, policy=RoundRobin())
    assert [0, 1, 2, 0] == [balancer.place(facts(name, 10**3)) for name in "abcd"]


def test_a_policy_that_fails_leaves_nothing_behind() -> None:
    """The request is neither booked nor in the pool."""

    class Broken:
        binding = "immediate"

        def plan(self, view: Any, pool: Any) -> Any:
            raise ZeroDivisionError

    balancer = make_balancer(policy=Broken())
    with pytest.raises(ZeroDivisionError):
        balancer.place(facts("a"))
    assert (0, 0) == (balancer.num_in_flight, balancer.group.num_waiting)


def test_time_at_the_barrier_is_added_up() -> None:
    """Loads of 101 and 0 for two seconds: 202 held, 404 paid for, 202 apart."""
    clock = Clock()
    balancer = make_balancer(clock=clock)
    balancer.place(facts("a"))
    balancer.take_step(0, tokens("a"), None)
    clock.now_s = 2.0
    balancer.pass_time()
    assert ([202.0, 404.0, 202.0], 2.0) == (balancer.token_seconds.tolist(), balancer.busy_s)


def test_idle_time_is_not_busy() -> None:
    """Ten seconds before a request comes, and five after it has gone."""
    clock = Clock()
    balancer = make_balancer(clock=clock)
    balancer.pass_time()
    clock.now_s = 10.0
    balancer.place(facts("a"))
    clock.now_s = 11.0
    balancer.take_step(0, tokens("a"), {"a"})
    clock.now_s = 16.0
    balancer.place(facts("b"))
    balancer.pass_time()
    assert 1.0 == balancer.busy_s


def test_shared_blocks_make_room() -> None:
    """An engine that uses 50 tokens for 101 has room for 51 more than its blocks say."""
    balancer = make_balancer()
    balancer.place(facts("a"))
    balancer.take_step(0, tokens("a"), None)
    balancer.see_usage(0, 50 / 10_000)
    assert [10_051, 10_000] == balancer.group.kv_tokens.tolist()
    assert -51 == balancer.group.disagreement_tokens[0]


def test_a_policy_that_nobody_asks_does_not_hoard_events(monkeypatch: Any) -> None:
    """Clients that all name their ranks leave it nothing to choose, for weeks perhaps."""
    monkeypatch.setattr("balanceroute.vllm_plugin.balancer.MOST_UNTOLD", 10)
    balancer = make_balancer(is_pooled=True, renew=LeastTokens)
    for number in range(20):
        balancer.book(facts(str(number)), 0)
    before = balancer.group.ledger.accounts.counts["num_events"][0]
    balancer.renew_policy()
    assert (20, 0) == (before, balancer.group.ledger.accounts.counts["num_events"][0])
    placed: list[int] = []
    balancer.hold(facts("held"), placed.append)
    balancer.group.plan()
    assert [1] == placed


def test_what_others_have_counts() -> None:
    """A rank with another server's 500 tokens gets nothing while its sibling has 100."""
    balancer = make_balancer()
    balancer.see_others(np.array([1, 0]), np.array([300, 0]), np.array([200, 0]))
    assert [1, 1, 1] == [balancer.place(facts(name)) for name in "abc"]


@given(st.data())
def test_accounts_are_those_of_a_plain_count(data: st.DataObject) -> None:
    """Whatever a rank reports, the ledger has what a dictionary has that adds the tokens up."""
    balancer, plain = make_balancer(num_ranks=1), dict[str, int]()
    state = balancer.group.ledger.accounts.entries
    for step in range(data.draw(st.integers(1, 25))):
        if data.draw(st.booleans()):
            plain[str(step)] = 0
            balancer.place(facts(str(step), 10))
        named = [name for name in plain if data.draw(st.booleans())]
        numbers = [data.draw(st.integers(1, 4)) for _ in named]
        ended = [name for name in named if data.draw(st.integers(0, 5)) == 0]
        outputs = [
            EngineCoreOutput(name, [1] * n, "stop" if name in ended else None)
            for name, n in zip(named, numbers, strict=True)
        ]
        balancer.take_step(0, outputs, set(ended))
        for name, n in zip(named, numbers, strict=True):
            plain[name] += n
        for name in ended:
            del plain[name]
    account = balancer.group.ledger.ranks[0]
    state = balancer.group.ledger.accounts.entries["state"]
    assert len(plain) == balancer.num_in_flight
    loads(balancer)
    in_all = int(account["load_tokens"] + account["due_tokens"])
    assert sum(10 + n for n in plain.values()) == in_all
    assert set(state.tolist()) <= {0, WAITING, DECODING}
