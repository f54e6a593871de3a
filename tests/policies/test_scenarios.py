"""What the toy groups of `check_policy` tell a policy that follows requests."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.kernels.ledger import ENDED, PREEMPTED, SENT
from balanceroute.policies import Plan, check_policy
from balanceroute.policies.base import Binding, follows_requests
from balanceroute.policies.classic import LeastTokens
from balanceroute.policies.scenarios import SCENARIOS, Scenario, ToyGroup
from tests.policies.following import Following
from tests.policies.views import build

ROUNDS = 30


def play(scenario: Scenario, binding: Binding) -> Following:
    """Let a following policy plan for a toy group."""
    policy = Following()
    is_immediate = binding == "immediate"
    rng = np.random.default_rng(0)
    group = ToyGroup(
        scenario, rounds=ROUNDS, is_immediate=is_immediate, rng=rng, follows_requests=True
    )
    for _ in range(ROUNDS):
        group.receive()
        plan = policy.plan(group.view(), group.pool.view())
        group.send(plan.requests, plan.ranks)
        group.step()
    return policy


@pytest.mark.parametrize("binding", get_args(Binding))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_events_and_entries_agree(scenario: Scenario, binding: Binding) -> None:
    """Whatever happens to ranks and views (`Following` asserts it); limits are never passed."""
    told = play(scenario, binding).told
    assert ((told["max_tokens"] == 0) | (told["generated_tokens"] <= told["max_tokens"])).all()
    has_ended = (told["kind"] == ENDED) & (told["has_completed"] == 1)
    assert (told["generated_tokens"][has_ended] > 0).all()


def test_the_scenarios_show_every_kind_of_event() -> None:
    """Sends, ends, aborts and preemptions, so that a check meets all of them."""
    told = np.concatenate([play(scenario, "pooled").told for scenario in SCENARIOS])
    kinds = set(zip(told["kind"].tolist(), told["has_completed"].tolist(), strict=True))
    assert {(SENT, 0), (ENDED, 0), (ENDED, 1), (PREEMPTED, 0)} == kinds
    assert {-1, 0, 1, 2, 3} == set(told["client"].tolist())
    assert told["generated_tokens"][told["kind"] == PREEMPTED].max() > 0


def test_requests_on_a_rank_that_fails_are_aborted() -> None:
    """As it goes away, rank 0 loses all that ran or waited there, and serves new ones later."""
    (scenario,) = (each for each in SCENARIOS if each.name == "rank fails for a while")
    policy = play(scenario, "pooled")
    (fails_at,) = (
        number
        for number, events in enumerate(policy.events)
        if ((events["kind"] == ENDED) & (events["has_completed"] == 0)).any()
    )
    assert ROUNDS // 3 == fails_at
    later = np.concatenate(policy.events[fails_at + 1 :])
    sent_to_0 = (later["kind"] == SENT) & (later["rank"] == 0)
    assert sent_to_0.any()
    assert not any(
        (events["kind"] == SENT)[events["rank"] == 0].any()
        for events in policy.events[fails_at + 1 : 2 * ROUNDS // 3]
    )


def test_a_following_policy_can_be_checked() -> None:
    """Both copies see the same events, each once."""
    check_policy(Following)


class NeverAsked(LeastTokens):
    """A policy that does not follow requests."""

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        assert view.entries is None
        assert view.clocks is None
        assert 0 == len(view.events)
        return super().plan(view, pool)


def test_who_does_not_follow_is_not_shown_requests() -> None:
    """No policy pays for what it does not use."""
    assert not follows_requests(NeverAsked())
    check_policy(NeverAsked)


def test_all_that_may_be_known_of_a_request_is_shown() -> None:
    """Known and unknown clients, limits, prompts and preferred ranks, in one pool."""
    group = ToyGroup(
        Scenario(name="many", max_waiting=99),
        rounds=ROUNDS,
        is_immediate=False,
        rng=np.random.default_rng(0),
    )
    while len(group.pool) < 50:
        group.receive()
    pool = group.pool.view()
    assert {-1, 0, 1, 2, 3} == set(pool.client_ids.tolist())
    assert {-1, 0, 1, 2, 3} == set(pool.preferred_ranks.tolist())
    assert {True, False} == set((pool.max_tokens > 0).tolist())
    assert {True, False} == set((pool.prompt_hashes != 0).tolist())
    assert ((pool.saved_tokens > 0) <= (pool.preferred_ranks >= 0)).all()
    assert (pool.saved_tokens <= pool.prompt_tokens).all()
    assert build("least_tokens").plan(group.view(), pool).ranks.max() < 4
