"""The baselines that look at the ranks only, against choices worked by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.cluster.view import GroupView
from tests.policies.views import build, make_view, placements, ranks_in_order

LOADS = [400, 100, 300, 200]
COUNTS = [2, 5, 1, 4]  # requests; where tokens say rank 1 or 3, they say rank 2


def some_view(**changes: object) -> GroupView:
    """Return four ranks whose order by tokens and by requests differs."""
    return make_view(**{"load": LOADS, "running": COUNTS, **changes})  # type: ignore[arg-type]


CASES = {
    # spec, view, prompts: ranks of the oldest requests
    "round_robin goes on where it ended": ("round_robin", some_view(), [9] * 6, [0, 1, 2, 3, 0, 1]),
    "round_robin skips full ranks": (
        "round_robin",
        some_view(slots=[3, 5, 9, 5]),  # free: 1, 0, 8, 1
        [9] * 5,
        [0, 2, 3, 2, 2],
    ),
    "least_requests counts running and queued": (
        "least_requests",
        some_view(waiting=[0, 0, 4, 0]),  # 2, 5, 5, 4 requests
        [9] * 4,
        [0, 0, 0, 3],  # 2, 3, 4 and then 5, 5, 5, 4; ties go to the lowest rank
    ),
    "least_tokens counts resident and due": (
        "least_tokens",
        some_view(due=[0, 150, 0, 0]),  # 400, 250, 300, 200
        [60, 20, 30, 99],
        [3, 1, 3, 1],  # then rank 3 holds 260, rank 1 holds 270, rank 3 holds 290
    ),
    "fcfs fills the lowest rank first": (
        "fcfs",
        some_view(slots=5),  # free: 3, 0, 4, 1
        [9] * 6,
        [0, 0, 0, 2, 2, 2],
    ),
    "fcfs at once counts a rank's queue": (
        "fcfs",
        some_view(slots=3, waiting=[0, 0, 1, 0], is_immediate=True),  # 2, 5, 2, 4 of 3
        [9] * 5,
        [
            0,
            2,
            0,
            2,
            0,
        ],  # a slot each on 0 and 2; then 3, 5, 3, 4 queue up: 0, 2, and 0 of 4, 5, 4, 4
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_choices_worked_by_hand(case: str) -> None:
    """The plan equals the ranks in the table."""
    spec, view, prompts, expected = CASES[case]
    assert expected == ranks_in_order(build(spec), view, prompts)


def test_round_robin_keeps_its_place_between_plans() -> None:
    """One request a plan is dealt as one plan of many would be; an empty plan moves nothing."""
    policy = build("round_robin")
    dealt = [ranks_in_order(policy, some_view(), [9] * n) for n in (1, 0, 2, 1, 1)]
    assert [[0], [], [1, 2], [3], [0]] == dealt


@pytest.mark.parametrize("spec", ["round_robin", "least_tokens", "random", "fcfs"])
def test_nobody_overtakes_a_request_that_fits_no_rank(spec: str) -> None:
    """Baselines are first come, first served: behind a prompt that must wait, all wait."""
    view = some_view(kv=1000)  # free: 600, 900, 700, 800
    assert [(0, 1)] == placements(build(spec), view, [850, 901, 1])[:1]
    assert 1 == len(placements(build(spec), view, [850, 901, 1]))


def test_random_draws_every_rank_equally_often() -> None:
    """10,000 draws from 4 ranks are within 5 standard deviations, 5·sqrt(n·p·q) = 217, of 2,500."""
    policy = build("random")
    view = some_view(slots=99_999)
    counts = np.bincount(ranks_in_order(policy, view, [1] * 10_000), minlength=4)
    assert np.abs(counts - 2500).max() < 217


def test_power_of_two_draws_two_different_ranks() -> None:
    """The busiest rank is never taken, since the other draw is always another, less busy rank."""
    policy, view = build("power_of_two"), some_view()
    taken = Counter(ranks_in_order(policy, view, [1])[0] for _ in range(6000))
    # Of 6 pairs, ranks with 1, 2, 4, 5 requests win 3, 2, 1, 0; 5 sigma of 3000 in 6000 is 194.
    for rank, expected in {2: 3000, 0: 2000, 3: 1000, 1: 0}.items():
        assert taken[rank] == pytest.approx(expected, abs=194 if expected else 0)


def test_power_of_two_takes_the_only_rank_left() -> None:
    """With one rank that can take a request there is nothing to choose."""
    view = some_view(slots=[2, 5, 2, 4])
    assert [2] == ranks_in_order(build("power_of_two"), view, [1, 1])


@given(st.integers(1, 9), st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_least_requests_stays_within_one_request(
    num_ranks: int, num_requests: int, seed: int
) -> None:
    """From equal ranks, counts differ by at most one: each goes where the fewest are."""
    view = make_view(load=np.zeros(num_ranks, np.int64), slots=99)
    prompts = np.random.default_rng(seed).integers(1, 5000, num_requests)
    counts = np.bincount(
        ranks_in_order(build("least_requests"), view, prompts), minlength=num_ranks
    )
    assert counts.max() - counts.min() <= 1


@given(st.integers(1, 9), st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_least_tokens_stays_within_one_prompt(num_ranks: int, num_requests: int, seed: int) -> None:
    """From equal ranks, loads differ by at most the longest prompt (list scheduling)."""
    view = make_view(load=np.zeros(num_ranks, np.int64), slots=99)
    prompts = np.random.default_rng(seed).integers(1, 5000, num_requests)
    ranks = ranks_in_order(build("least_tokens"), view, prompts)
    loads = np.bincount(ranks, weights=prompts, minlength=num_ranks)
    assert loads.max() - loads.min() <= prompts.max(initial=0)
