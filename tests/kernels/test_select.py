"""Choosing ranks one request at a time, and the checks of a plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from balanceroute.kernels import waiting
from balanceroute.kernels.heap import RankHeap, heapify, pop, sift_down
from balanceroute.kernels.select import assign_by_draw, assign_by_score, assign_in_turn

PLENTY = 10**9


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def by_score(
    score: list[float],
    prompts: NDArray[np.int64],
    *,
    floor: float = -np.inf,
    sends: int = 9,
    kv: int = PLENTY,
    first_rank: int = 0,
) -> list[int]:
    """Call `assign_by_score` with each request adding one."""
    num_ranks = len(score)
    chosen = assign_by_score(
        np.array(score),
        np.full(num_ranks, floor),
        np.zeros(num_ranks),
        np.ones(len(prompts)),
        np.full(num_ranks, sends),
        np.full(num_ranks, kv),
        prompts,
        first_rank,
    )
    ranks: list[int] = chosen.tolist()
    return ranks


def test_the_lowest_score_is_taken() -> None:
    """Scores 5, 3, 4 become 5, 4, 4; 5, 5, 4; 5, 5, 5: ties go to the lower rank."""
    assert [1, 1, 2, 0] == by_score([5.0, 3.0, 4.0], ints(1, 1, 1, 1))


def test_ties_go_to_the_first_rank_of_the_scan() -> None:
    """The scan starts at `first_rank` and wraps around."""
    assert [2, 0, 1] == by_score([0.0, 0.0, 0.0], ints(1, 1, 1), first_rank=2)


def test_a_floor_hides_what_lies_below_it() -> None:
    """Scores 0 and 3 under a floor of 4 tie until one exceeds it."""
    assert [0, 0, 0, 0, 0, 1] == by_score([0.0, 3.0], ints(1, 1, 1, 1, 1, 1), floor=4.0)


def test_full_ranks_are_passed_over_and_then_nobody_is_placed() -> None:
    """One send each, then a rest that waits."""
    assert [1, 0] == by_score([5.0, 3.0], ints(1, 1, 1), sends=1)


def test_a_prompt_that_fits_nowhere_ends_the_plan() -> None:
    """First come, first served: the short one behind it waits too."""
    assert [1] == by_score([5.0, 3.0], ints(60, 101, 5), kv=100)


@pytest.mark.parametrize(
    ("sends", "kv", "prompts", "first_rank", "expected"),
    [
        (ints(9, 9, 9), ints(9, 9, 9), ints(1, 1, 1, 1), 1, [1, 2, 0, 1]),  # in turn
        (ints(1, 0, 9), ints(9, 9, 9), ints(1, 1, 1), 0, [0, 2, 2]),  # skips full ranks
        (ints(9, 9, 9), ints(4, 9, 4), ints(5, 4, 4), 0, [1, 2, 0]),  # skips ranks short of KV
        (ints(9, 9), ints(4, 4), ints(3, 5, 1), 0, [0]),  # ends where a prompt fits nowhere
        (ints(0, 0), ints(9, 9), ints(1), 0, []),  # a full group
    ],
)
def test_turns(
    sends: NDArray[np.int64],
    kv: NDArray[np.int64],
    prompts: NDArray[np.int64],
    first_rank: int,
    expected: list[int],
) -> None:
    """`assign_in_turn` gives the ranks in the table."""
    assert expected == assign_in_turn(sends.copy(), kv.copy(), prompts, first_rank).tolist()


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        # Ranks 0, 2, 3 can take a request and hold 9, 5, 1; a draw d takes urn place floor(d·n).
        ([0.0], 0),
        ([0.34], 2),
        ([0.99], 3),
        ([0.0, 0.0], 3),  # rank 0 leaves the urn and the last, rank 3, takes its place
        ([0.0, 0.99], 2),  # the urn is then 3, 2
        ([0.99, 0.0], 3),  # rank 3 leaves; rank 0 has more requests
        ([0.99, 0.99, 0.99, 0.99], 3),  # more draws than ranks: all of them
        ([1.0], 3),  # not to be drawn, and still in range
    ],
)
def test_draws(draws: list[float], expected: int) -> None:
    """The least busy of the ranks drawn, which are all different."""
    sends, kv = ints(1, 0, 1, 1), np.full(4, PLENTY)
    chosen = assign_by_draw(ints(9, 0, 5, 1), sends, kv, ints(1), np.array([draws]))
    assert [expected] == chosen.tolist()


FAULTS = [
    # requests, ranks: fault, row (3 requests wait; ranks may take 2, 0)
    (ints(2, 0), ints(0, 0), waiting.OK, 0),
    (ints(), ints(), waiting.OK, 0),
    (ints(0, 1), ints(0), waiting.UNEQUAL, 0),
    (ints(0, 3), ints(0, 0), waiting.BAD_REQUEST, 1),
    (ints(-1), ints(0), waiting.BAD_REQUEST, 0),
    (ints(1, 1), ints(0, 0), waiting.TWICE, 1),
    (ints(0), ints(2), waiting.BAD_RANK, 0),
    (ints(0), ints(-1), waiting.BAD_RANK, 0),
    (ints(0), ints(1), waiting.RANK_FULL, 0),
    (ints(0, 1, 2), ints(0, 0, 0), waiting.RANK_FULL, 2),
]


@pytest.mark.parametrize(("requests", "ranks", "fault", "row"), FAULTS)
def test_faults_of_a_plan(
    requests: NDArray[np.int64], ranks: NDArray[np.int64], fault: int, row: int
) -> None:
    """The first fault and its row."""
    assert (fault, row) == waiting.check_plan(requests, ranks, 3, ints(2, 0))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20),
    st.lists(st.integers(0, 4), max_size=10),
)
def test_a_heap_gives_ranks_in_order(keys: list[tuple[int, int]], rises: list[int]) -> None:
    """By first key, second key, rank; also after the top's first key has risen a few times."""
    first, second = (np.array(column) for column in zip(*keys, strict=True))
    num_ranks = len(keys)
    heap = RankHeap(np.arange(num_ranks), ints(num_ranks), first, second, np.arange(num_ranks))
    heapify(heap)
    for rise in rises:
        first[heap.ranks[0]] += rise
        sift_down(heap, 0)
    order = []
    while heap.size[0] > 0:
        order.append(int(heap.ranks[0]))
        pop(heap)
    assert sorted(range(num_ranks), key=lambda g: (first[g], second[g], g)) == order
