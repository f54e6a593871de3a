"""Which group: bounded loads, wait, head-room, prefixes, worked by hand and as properties."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.traits import request_traits
from balanceroute.cluster.view import GroupView
from balanceroute.errors import ConfigError
from balanceroute.policies import Policy
from tests.policies.views import build, make_pool, make_view

PROMPT = 100


def choose(policy: Policy, view: GroupView, *, prompt: int = PROMPT, **known: int) -> int:
    """Return the group of one request, of which this is known."""
    traits = request_traits(1, **{name: [value] for name, value in known.items()})
    return int(policy.plan(view, make_pool([prompt], traits)).ranks[0])


def even(
    num_groups: int, *, running: list[int] | int = 0, slots: int | list[int] = 10
) -> GroupView:
    """Return groups of which each request in flight holds 100 tokens."""
    counts = np.broadcast_to(running, num_groups).tolist()
    return make_view(
        load=[PROMPT * count for count in counts], running=counts, slots=slots, is_immediate=True
    )


def test_head_room_decides_where_nobody_waits() -> None:
    """The least load per slot, so a group of twice the size may have twice the load."""
    view = make_view(load=[500, 900], running=[5, 9], slots=[10, 20], is_immediate=True)
    assert 1 == choose(build("br_fleet"), view)


def test_the_predicted_wait_decides_where_all_slots_are_taken() -> None:
    """Group 1 has more waiting, (16 − 10) / 25 s, and 30 have ended there; in the other 10.

    With the prior of a second at the mean rate, 20 ends: (14 − 10) / 15 s.
    """
    policy = build("br_fleet")
    policy.plan(even(2, running=[23, 45]), make_pool([]))
    assert 1 == choose(policy, replace(even(2, running=[13, 15]), now_s=1.0))


def test_kv_tokens_are_waited_for_like_slots() -> None:
    """Slots are free in both, but the first has no room for the prompt."""
    view = make_view(load=[900, 990], running=[3, 5], kv=[950, 2000], is_immediate=True)
    assert 1 == choose(build("br_fleet"), view)


def test_a_prefix_is_worth_the_tokens_that_it_saves() -> None:
    """It draws a request to a fuller group, unless that has to be waited for much longer."""
    free, full = even(2, running=[4, 3]), even(2, running=[11, 9])
    known = {"preferred_ranks": 0, "saved_tokens": 90}
    assert 0 == choose(build("br_fleet"), free, **known)
    assert 1 == choose(build("br_fleet,affinity=false"), free, **known)
    assert 1 == choose(build("br_fleet"), full, **known)


def test_costs_say_what_a_saved_token_is_worth() -> None:
    """At a second a token, 90 tokens are worth waiting for, whoever says so."""
    policy = build("br_fleet")
    policy.plan(even(2, running=[16, 14]), make_pool([]))
    full = replace(even(2, running=[11, 9]), now_s=1.0)
    costs = StepCosts(constant_s=0.01, s_per_token=1e-7, prefill_s_per_token=1.0)
    known = {"preferred_ranks": 0, "saved_tokens": 90}
    assert 0 == choose(policy, replace(full, costs=costs), **known)
    assert 1 == choose(policy, full, **known)


def test_a_prefix_does_not_draw_a_group_over_its_bound() -> None:
    """With 10 in flight and one to come, ε = 1/4 lets each of two groups have 7."""
    known = {"preferred_ranks": 0, "saved_tokens": 90}
    assert 0 == choose(build("br_fleet"), even(2, running=[6, 4], slots=50), **known)
    assert 1 == choose(build("br_fleet"), even(2, running=[7, 3], slots=50), **known)


def test_a_session_stays_until_its_group_is_full_and_spills_to_one_group() -> None:
    """It comes back when there is room."""
    home = choose(build("br_fleet"), even(4, running=2), sessions=77)
    full = [2, 2, 2, 2]
    full[home] = 5
    spills = {choose(build("br_fleet"), even(4, running=full), sessions=77) for _ in range(3)}
    assert 1 == len(spills)
    assert home not in spills
    assert home == choose(build("br_fleet"), even(4, running=3), sessions=77)


def test_a_group_that_is_away_gets_nothing() -> None:
    """Neither by prefix, nor by session, nor for being empty."""
    home = choose(build("br_fleet"), even(3, running=2), sessions=5)
    slots = [10, 10, 10]
    slots[home] = 0
    running = [2, 2, 2]
    running[home] = 0
    view = even(3, running=running, slots=slots)
    assert home != choose(build("br_fleet"), view, sessions=5)
    assert home != choose(build("br_fleet"), view, preferred_ranks=home, saved_tokens=90)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.lists(st.integers(1, 3), max_size=200),
    st.floats(0.05, 2.0),
)
def test_no_group_is_ever_above_its_bound(
    slots: list[int], sessions: list[int], excess: float
) -> None:
    """However few sessions there are: ⌈(1 + ε) · m · slots / Σ slots⌉, at each request."""
    policy, running = build(f"br_fleet,excess={excess!r}"), [0] * len(slots)
    for num_sent, session in enumerate(sessions, start=1):
        chosen = choose(policy, even(len(slots), running=running, slots=slots), sessions=session)
        running[chosen] += 1
        assert running[chosen] <= math.ceil((1 + excess) * num_sent * slots[chosen] / sum(slots))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 12))
def test_a_batch_is_placed_as_its_requests_one_by_one(running: list[int], num_new: int) -> None:
    """Each decision sees those before it."""
    together = build("br_fleet").plan(
        even(len(running), running=running), make_pool([PROMPT] * num_new)
    )
    one_by_one = []
    for _ in range(num_new):
        one_by_one.append(choose(build("br_fleet"), even(len(running), running=running)))
        running = [n + (g == one_by_one[-1]) for g, n in enumerate(running)]
    assert one_by_one == together.ranks.tolist()


def test_groups_that_come_later() -> None:
    """They take part at once."""
    policy = build("br_fleet")
    assert 0 == choose(policy, even(1, running=3))
    assert 1 == choose(policy, even(2, running=[3, 0]))


@pytest.mark.parametrize("setting", ["excess=0", "excess=inf", "prefill_s_per_token=-1"])
def test_settings_out_of_range(setting: str) -> None:
    """They are refused by name."""
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        build(f"br_fleet,{setting}")
