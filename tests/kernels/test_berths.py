"""Ranks that are kept light for long requests: which, for whom, and until when."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from balanceroute.kernels.berths import book, due, give_up
from balanceroute.kernels.level import plan_level
from balanceroute.kernels.placing import FREE, HELD, NONE, Ranks, Waiting
from balanceroute.kernels.yardstick import Yardstick, measure, moments

PLENTY = 10**9
PATIENCE = 4.0
NOBODY, SHORT = -1, 100


def make_ranks(loads: Sequence[float], sends: Sequence[int], kv: int = PLENTY) -> Ranks:
    """Return ranks of speed 1 that look at the present only."""
    work = np.array(loads, np.float64)
    num_ranks = len(loads)
    return Ranks(
        work[:, None].copy(), work, np.ones(num_ranks), np.array(sends), np.full(num_ranks, kv)
    )


def make_waiting(prompts: Sequence[int], waits: Sequence[float]) -> Waiting:
    """Return forty waiting requests, those given and then short ones that have not waited."""
    short = np.resize([SHORT // 2, SHORT * 3 // 2], 40 - len(prompts))
    tokens = np.array([*prompts, *short])
    nobody = np.full(len(tokens), NOBODY)
    all_waits = np.zeros(len(tokens))
    all_waits[: len(waits)] = waits
    return Waiting(
        tokens, tokens[:, None] * 1.0, all_waits, nobody, nobody * 0, np.full(len(tokens), FREE)
    )


def booked(ranks: Ranks, waiting: Waiting, num_spare: int = 30) -> tuple[list[int], Yardstick]:
    """Return what each rank is kept for."""
    mean, spread = moments(waiting.gains)
    yard = measure(ranks, np.ones(1), mean, spread, 0.5, PATIENCE, False)
    berths: list[int] = book(ranks, waiting, yard, num_spare).tolist()
    return berths, yard


def test_the_longest_gets_the_lightest_rank() -> None:
    """Of 5,000 and 9,000 the heavier goes to 9,000 of work, the lighter to 9,500."""
    ranks = make_ranks([10_000, 9500, 9000, 10_000], [0, 0, 0, 0])
    waiting = make_waiting([5000, 9000], [3.9, 3.9])
    berths, _ = booked(ranks, waiting)
    assert [NONE, 0, 1, NONE] == berths
    assert [HELD, HELD, FREE] == waiting.is_taken[:3].tolist()


def test_a_kept_rank_counts_as_if_it_had_the_request() -> None:
    """The request stands in for a mean one; the present work stays as it is."""
    ranks = make_ranks([9000, 10_000], [1, 0])
    waiting = make_waiting([5000], [3.9])
    _, yard = booked(ranks, waiting)
    assert [9000.0 + 5000.0, 10_000.0] == ranks.projected[:, 0].tolist()
    assert [9000.0, 10_000.0] == ranks.work.tolist()
    give_up(ranks, waiting, yard.mean_gain, np.array([0, NONE]), 0)
    assert 9000.0 + yard.mean_gain[0] == ranks.projected[0, 0]


def test_nothing_is_kept_while_there_is_time_or_room() -> None:
    """Neither for what has just come, nor for what fits below the level."""
    ranks = [10_000, 10_000, 10_000, 9000]
    fresh, fitting = make_waiting([1500], [0.0]), make_waiting([600], [3.9])
    assert [NONE] * 4 == booked(make_ranks(ranks, [0] * 4), fresh)[0]
    assert [NONE] * 4 == booked(make_ranks(ranks, [0] * 4), fitting)[0]


def test_the_plan_can_do_without_the_requests_that_are_held() -> None:
    """At most as many as the pool has beyond the free slots."""
    ranks = make_ranks([10_000] * 4, [0] * 4)
    waiting = make_waiting([9000, 9000, 9000], [3.9] * 3)
    assert 2 == sum(request != NONE for request in booked(ranks, waiting, 2)[0])


def test_one_rank_is_left_for_everybody() -> None:
    """Three long requests and three ranks: the third waits for its turn."""
    ranks = make_ranks([10_000] * 3, [0] * 3)
    waiting = make_waiting([9000] * 3, [3.9] * 3)
    assert [0, 1, NONE] == booked(ranks, waiting)[0]


def test_neither_ranks_that_are_away_nor_requests_that_prefer_a_rank() -> None:
    """An empty rank without slots is away; affinity has a place of its own for a request."""
    ranks = make_ranks([0, 10_000, 9900], [0, 0, 0])
    waiting = make_waiting([9000, 8000], [3.9, 3.9])
    waiting.preferred[0] = 1
    assert [NONE, NONE, 1] == booked(ranks, waiting)[0]


def test_it_goes_once_there_is_room_or_no_time_left() -> None:
    """Forty requests for two ranks: 20 slots in a mean wait, so last call at 4 - 4 / 20."""
    cases = [
        (10_000.0, 3.7, NONE),  # level with the others, and there is time
        (2000.0, 3.7, 0),  # room for it
        (10_000.0, 3.85, 0),  # no time
    ]
    for load, wait, expected in cases:
        ranks = make_ranks([load, 12_000], [1, 0])
        waiting = make_waiting([4000], [wait])
        _, yard = booked(ranks, waiting, 0)
        ranks.projected[0, 0] += 4000 - yard.mean_gain[0]
        assert expected == due(ranks, waiting, yard, np.array([0, NONE]), 0)


def test_it_needs_the_kv_tokens_too() -> None:
    """Room below the level is of no use to a request that the memory does not hold."""
    ranks = make_ranks([2000, 12_000], [1, 0], kv=3999)
    waiting = make_waiting([4000], [3.9])
    _, yard = booked(ranks, waiting, 0)
    assert NONE == due(ranks, waiting, yard, np.array([0, NONE]), 0)


@pytest.mark.parametrize(("has_berths", "expected"), [(True, SHORT // 2), (False, SHORT * 3 // 2)])
def test_the_kept_rank_gets_the_shortest(has_berths: bool, expected: int) -> None:
    """The ranks are alike, but that the first makes room for the request of 9,000, if told to."""
    waiting, ranks = make_waiting([9000], [3.5]), make_ranks([10_000] * 4, [1, 1, 1, 1])
    requests, places = plan_level(ranks, waiting, 0.0, 4.0, 2, has_berths)
    placed = dict(zip(places.tolist(), waiting.prompt_tokens[requests].tolist(), strict=True))
    assert expected == placed[0]
    assert 9000 not in placed.values()


def test_beyond_all_patience_any_rank_will_do() -> None:
    """The lightest rank has no slot; the request takes the one there is."""
    waiting = make_waiting([9000], [4.1])
    requests, places = plan_level(make_ranks([9000, 10_000], [0, 1]), waiting, 0.5, 4.0, 2, True)
    assert ([0], [1]) == (requests.tolist(), places.tolist())


@given(
    st.lists(st.tuples(st.integers(1, 50_000), st.floats(0.0, 4.5)), min_size=2, max_size=40),
    st.lists(st.tuples(st.integers(1, 60_000), st.integers(0, 3)), min_size=2, max_size=8),
)
def test_every_slot_gets_a_request_of_its_own(
    requests: list[tuple[int, float]], ranks: list[tuple[int, int]]
) -> None:
    """However many long ones are held: no slot stays free, and no request goes twice."""
    requests.sort(key=lambda request: -request[1])
    prompts: NDArray[np.int64] = np.array([prompt for prompt, _ in requests])
    nobody = np.full(len(prompts), NOBODY)
    waits = np.array([wait for _, wait in requests])
    gains = prompts.astype(np.float64)[:, None]
    waiting = Waiting(prompts, gains, waits, nobody, nobody * 0, nobody * 0)
    loads, sends = [float(load) for load, _ in ranks], [slots for _, slots in ranks]
    made = make_ranks(loads, sends)
    placed, places = plan_level(made, waiting, 0.5, PATIENCE, 2, True)
    assert min(len(prompts), sum(sends)) == len(placed) == len(set(placed.tolist()))
    assert (np.bincount(places, minlength=len(sends)) <= sends).all()
    added = np.bincount(places, weights=prompts[placed], minlength=len(sends))
    assert (PLENTY - added == made.free_kv).all()
