"""BR-0: stages worked by hand, and against slow references."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balanceroute.cluster.view import GroupView
from balanceroute.errors import ConfigError
from tests.policies.views import build, make_pool, make_view, placements

MARGIN = "br_0,select_by=margin"


def f_score(added: int, margin: int, num_ranks: int) -> int:
    """Eq. (1), written out anew."""
    return added - num_ranks * max(0, added - margin)


def largest_margin_reference(view: GroupView, prompts: list[int]) -> list[tuple[int, int]]:
    """`select_by=margin` in O(N·G) per admission: every rank, every request."""
    load = view.committed_tokens.tolist()
    sends = view.max_sends.tolist()
    free_kv = view.free_kv_tokens.tolist()
    waiting = dict(enumerate(prompts))
    placed: list[tuple[int, int]] = []
    while True:
        envelope = max(load)
        by_margin = sorted(range(len(load)), key=lambda g: (load[g] - envelope, g))
        for rank in by_margin:
            fitting = [r for r, s in waiting.items() if s <= free_kv[rank]]
            if sends[rank] > 0 and fitting:
                break
        else:
            return placed
        margin = envelope - load[rank]
        best = max(fitting, key=lambda r: (f_score(waiting[r], margin, len(load)), -r))
        load[rank] += waiting[best]
        free_kv[rank] -= waiting[best]
        sends[rank] -= 1
        del waiting[best]
        placed.append((best, rank))


@st.composite
def groups(draw: st.DrawFn, least_ranks: int = 2) -> tuple[GroupView, list[int]]:
    """Return a view and prompts, small enough for ties and for limits that bind."""
    num_ranks = draw(st.integers(least_ranks, 6))
    most_tokens = draw(st.sampled_from([9, 60, 100_000]))
    view = make_view(
        load=[draw(st.integers(0, 3 * most_tokens)) for _ in range(num_ranks)],
        due=[draw(st.integers(0, most_tokens)) for _ in range(num_ranks)],
        slots=[draw(st.integers(0, 4)) for _ in range(num_ranks)],
        kv=draw(st.sampled_from([2**62, 4 * most_tokens, 5 * most_tokens])),
    )
    return view, draw(st.lists(st.integers(1, 2 * most_tokens), max_size=14))


@settings(max_examples=300)
@given(groups())
def test_largest_margin_equals_the_slow_reference(group: tuple[GroupView, list[int]]) -> None:
    """Sorted search and heap choose what trying everything chooses, ties included."""
    view, prompts = group
    assert largest_margin_reference(view, prompts) == placements(build(MARGIN), view, prompts)


def test_largest_margin_worked_by_hand() -> None:
    """Loads 100, 90, 70, 60 (margins 0, 10, 30, 40) and a slot each."""
    view = make_view(load=[100, 90, 70, 60], slots=1)
    expected = [
        (3, 3),  # margin 40: F(38) = 38, F(45) = 45 - 4·5 = 25
        (0, 2),  # margin 30: F(31) = 31 - 4 = 27, F(9) = 9
        (2, 1),  # margin 10: F(9) = 9, F(45) = 45 - 4·35
        # margin 0 of an envelope now at 101, so 1: F(45) = 45 - 4·44 = -131, and still admitted
        (1, 0),
    ]
    assert expected == placements(build(MARGIN), view, [31, 45, 9, 38])


def test_stage_1_worked_by_hand() -> None:
    """Most free slots first, then lowest load; one request at a time; it ends at 7 free slots."""
    view = make_view(load=[100, 90, 70, 60], slots=[1, 3, 3, 2])  # 9 free: two admissions
    expected = [
        (1, 2),  # 3 slots and less load than rank 1; margin 30: F(25) = 25, F(40) = 40 - 40 = 0
        (3, 1),  # 3 slots; margin 10: F(9) = 9, F(8) = 8, F(40) = 40 - 4·30
    ]
    assert expected == placements(build("br_0"), view, [40, 25, 8, 9])[:2]


def test_stage_2_worked_by_hand() -> None:
    """A rank takes its best set of the first four requests; leftovers go where slots remain."""
    view = make_view(load=[100, 60, 90], slots=[1, 3, 2])  # 6 free slots: stage 2 only
    expected = [
        # Rank 1 has most slots and a margin of 40. Of 30, 25, 15, 50: F(25 + 15) = 40 is the most.
        (1, 1),
        (2, 1),
        # Load now 100, 100, 90. Rank 2 has 2 slots, margin 10; the first four are 30, 50, 7, 2:
        # F(7 + 2) = 9, F(7) = 7, F(30) = 30 - 3·20.
        (4, 2),
        (5, 2),
        # Ranks 0 and 1 have one slot and load 100 (rank 2 has 99, but is full). First in turn is
        # rank 0: margin 0, F(30) = -60, F(50) = -100: the best single one goes all the same.
        (0, 0),
        # Rank 1: envelope 130, margin 30: F(50) = 50 - 3·20 = -10 is all there is.
        (3, 1),
    ]
    assert expected == placements(build("br_0"), view, [30, 25, 15, 50, 7, 2])


def test_stage_2_looks_at_the_oldest_r_max_requests() -> None:
    """With `r_max=1` BR-0 is first come, first served; two and three see more of the pool."""
    view, prompts = make_view(load=[100, 60], slots=[0, 2]), [38, 39, 2, 37]
    assert [(0, 1), (1, 1)] == placements(build("br_0,r_max=1"), view, prompts)
    # F(39) = 39 leaves a margin of 1: F(2) = 2 - 2·1, F(38) = 38 - 2·37.
    assert [(1, 1), (2, 1)] == placements(build("br_0,r_max=2"), view, prompts)
    # F(38 + 2) = 40.
    assert [(0, 1), (2, 1)] == placements(build("br_0,r_max=3"), view, prompts)


def test_a_wide_window_finds_a_set_that_four_requests_do_not_hold() -> None:
    """Margin 40 is 33 + 7, where 7 is the sixth request."""
    view = make_view(load=[100, 60], slots=[0, 2])
    prompts = [33, 41, 42, 43, 44, 7]
    assert [(0, 1), (5, 1)] == placements(build("br_0,r_max=6"), view, prompts)
    # F(41) = 41 - 2·1 is the best of the first four; then nothing fits and the smallest goes.
    assert [(1, 1), (0, 1)] == placements(build("br_0,r_max=4"), view, prompts)


def test_equal_ranks_take_turns() -> None:
    """Ranks equal in slots and load are taken from one rank later at each plan."""
    policy, view = build("br_0"), make_view(load=[5, 5, 5], slots=1)
    assert [0, 1, 2, 0] == [placements(policy, view, [9])[0][1] for _ in range(4)]


def test_equal_requests_go_oldest_first() -> None:
    """Of several requests with the largest F the oldest is taken."""
    view = make_view(load=[100, 0], slots=[0, 2])
    for spec in (MARGIN, "br_0", "br_0,s_greedy=0"):
        assert [(1, 1), (3, 1)] == placements(build(spec), view, [20, 50, 20, 50])


def test_requests_out_of_the_window_are_not_looked_at() -> None:
    """`window=2` sees the two oldest of four."""
    view = make_view(load=[100, 0], slots=[0, 4])
    for spec in (f"{MARGIN},window=2", "br_0,window=2"):
        assert {0, 1} == {request for request, _ in placements(build(spec), view, [1, 2, 9, 9])}


def test_a_request_that_fits_no_rank_holds_nobody_up() -> None:
    """BR-0 looks past a prompt that no rank has the KV tokens for."""
    view = make_view(load=[700, 600], kv=1000, slots=2)
    for spec in (MARGIN, "br_0", "br_0,s_greedy=0", "br_0,r_max=8"):
        plan = placements(build(spec), view, [500, 300, 250])
        assert {1, 2} == {request for request, _ in plan}


@pytest.mark.parametrize("spec", [MARGIN, "br_0", "br_0,s_greedy=0", "br_0,r_max=8"])
def test_one_rank_is_first_come_first_served(spec: str) -> None:
    """With G = 1, F is 0 whatever is added, so the oldest wins every tie."""
    view = make_view(load=[50], slots=3)
    assert [(0, 0), (1, 0), (2, 0)] == placements(build(spec), view, [30, 10, 20, 5])


@given(groups(least_ranks=1), st.sampled_from([MARGIN, "br_0", "br_0,r_max=8"]))
def test_immediate_binding_is_least_tokens(group: tuple[GroupView, list[int]], spec: str) -> None:
    """Nothing to choose among requests, so ties on F go to the lowest load."""
    view, prompts = group
    at_once = make_view(
        load=view.load_tokens,
        due=view.due_tokens.tolist(),
        slots=view.num_slots.tolist(),
        is_immediate=True,
    )
    expected = placements(build("least_tokens"), at_once, prompts)
    assert expected == placements(build(spec), at_once, prompts)


@given(groups(), st.sampled_from([MARGIN, "br_0", "br_0,s_greedy=0", "br_0,r_max=8"]))
def test_no_slot_stays_free_while_a_request_fits(
    group: tuple[GroupView, list[int]], spec: str
) -> None:
    """After a plan no rank has both a free slot and KV tokens for a request left behind.

    The stages look at `r_max` requests only, so theirs is a promise without a KV limit.
    """
    view, prompts = group
    if spec != MARGIN:
        view = replace(view, kv_capacity_tokens=np.full(view.num_ranks, 2**62))
    plan = build(spec).plan(view, make_pool(prompts))
    sends, free_kv = view.max_sends, view.free_kv_tokens
    np.subtract.at(sends, plan.ranks, 1)
    np.subtract.at(free_kv, plan.ranks, np.array(prompts, np.int64)[plan.requests])
    left = set(range(len(prompts))) - set(plan.requests.tolist())
    for rank, request in product(range(view.num_ranks), left):
        assert sends[rank] == 0 or prompts[request] > free_kv[rank]


@pytest.mark.parametrize(
    ("settings_text", "message"),
    [
        ("select_by=size", "select_by must be 'stages' or 'margin', got 'size'"),
        ("s_greedy=-1", "s_greedy must be at least 0, got -1"),
        ("r_max=0", "r_max must be in 1..32, got 0"),
        ("r_max=33", "r_max must be in 1..32, got 33"),
        ("window=0", "window must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings_text: str, message: str) -> None:
    """The message names the setting, the value and what is allowed."""
    with pytest.raises(ConfigError, match=f"policy br_0: {message}"):
        build(f"br_0,{settings_text}")
