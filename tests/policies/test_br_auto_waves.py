"""br_auto: where it plans by waves, and where it levels though ranks prefill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.events import NO_EVENTS
from balanceroute.cluster.ledger import Ledger
from balanceroute.cluster.view import GroupView
from balanceroute.policies.auto import BrAuto
from balanceroute.policies.wave import BrWave
from balanceroute.policies.waves import TRUSTED_SAMPLES
from tests.policies.views import make_pool, make_view

COSTS = StepCosts(constant_s=0.01, s_per_token=1e-7, prefill_s_per_token=2e-5, budget_tokens=2048)
LATER_S = 0.1


BUILDERS: list[Callable[..., BrAuto | BrWave]] = [
    partial(BrAuto, look_ahead=False),
    partial(BrAuto, look_ahead=False, waves=False),
    BrWave,
]


def prefilling_view(*, step: int = 0, kv: int = 1_000_000) -> GroupView:
    """Return two ranks that prefill, 10 requests and 10,000 tokens on each, 16 slots."""
    view = make_view(load=[10_000] * 2, slots=16, running=10, kv=kv, now_s=step * LATER_S)
    return replace(view, costs=COSTS, clocks=np.full(2, step))


def after(prompt_tokens: int, *, steps: int = 100) -> BrAuto:
    """Return a policy that has seen one such request per rank in each step of a tenth second."""
    policy = BrAuto(look_ahead=False)
    for step in range(steps):
        plan = policy.plan(prefilling_view(step=step), make_pool([prompt_tokens] * 2))
        assert len(plan) == 2
    return policy


def num_sent_alone(policy: BrAuto, *, step: int) -> int:
    """Return 1 if a new request that is the only one is sent at once, else 0."""
    lone = replace(make_pool([3000]), ids=np.array([7]))
    return len(policy.plan(prefilling_view(step=step), lone))


@pytest.mark.parametrize(("prompt_tokens", "can_win"), [(3000, True), (400, False)])
def test_waves_where_a_tenth_of_the_time_can_be_won(prompt_tokens: int, can_win: bool) -> None:
    """Of a step's 100 ms the other rank waits for 60 ms of prefill, or for 8."""
    policy = after(prompt_tokens)
    assert policy.times_releases == can_win
    assert num_sent_alone(policy, step=100) == (0 if can_win else 1)


def test_waves_again_when_prompts_get_longer() -> None:
    policy = after(100)
    for step in range(100, 200):
        policy.plan(prefilling_view(step=step), make_pool([3000] * 2))
    assert policy.times_releases


@pytest.mark.parametrize(
    ("num_samples", "is_trusted"), [(TRUSTED_SAMPLES - 1, False), (TRUSTED_SAMPLES, True)]
)
def test_trusts_learned_costs_once_enough_steps_tell(num_samples: int, is_trusted: bool) -> None:
    """Fewer noisy steps may tell wrong whether ranks wait for each other's prompts."""
    view = replace(prefilling_view(), costs=replace(COSTS, num_samples=num_samples))
    policy = BrWave()
    policy._without_prefill = BrAuto(look_ahead=False, waves=False)  # the view shows no requests
    assert len(policy.plan(view, make_pool([3000]))) == (0 if is_trusted else 1)
    assert policy.times_releases == is_trusted


def test_levels_again_when_prompts_get_shorter() -> None:
    policy = after(3000)
    for step in range(100, 1000):
        policy.plan(prefilling_view(step=step), make_pool([10] * 2))
    assert not policy.times_releases
    assert len(policy.plan(prefilling_view(step=1000), make_pool([1000]))) == 1


@pytest.mark.parametrize("build", BUILDERS)
def test_leaves_room_for_growth(build: Callable[..., BrAuto | BrWave]) -> None:
    """12,000 tokens hold 10,000 and a reserve of 1,200, which leaves 800."""
    view, pool = prefilling_view(kv=12_000), make_pool([900] * 2)
    assert len(build().plan(view, pool)) == 0
    assert len(build(kv_reserve=0.05).plan(view, pool)) == 2
    assert len(build().plan(view, make_pool([800] * 2))) == 2


def test_br_wave_leaves_as_much_room_where_it_levels() -> None:
    """Costs that are not known yet change what is sent when, not how full a rank may get."""
    ledger = Ledger(num_ranks=2, keeps_events=True)
    view = replace(prefilling_view(kv=12_000), costs=None)
    view = view.with_requests(ledger.accounts.entries, np.zeros(2, np.int64), NO_EVENTS)
    assert len(BrWave().plan(view, make_pool([900] * 2))) == 0
    assert len(BrWave(kv_reserve=0.05).plan(view, make_pool([900] * 2))) == 2


def test_an_idle_rank_takes_what_it_can_hold() -> None:
    """Nothing runs there that could grow, so nobody waits for more than there can ever be."""
    view = replace(prefilling_view(kv=12_000), num_inflight_reqs=np.array([10, 0]))
    view = replace(view, load_tokens=np.array([10_000, 0]))
    assert BrAuto(look_ahead=False).plan(view, make_pool([12_000])).ranks.tolist() == [1]
