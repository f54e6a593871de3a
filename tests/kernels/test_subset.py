"""The best set of requests for one rank: enumeration, reachable sums, and a plain reference."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from balanceroute.kernels.br0 import best_subset
from balanceroute.kernels.fscore import f_score
from balanceroute.kernels.subset import best_subset_by_enumeration, best_subset_by_sums

NO_LIMIT = 10**9

HAND = [
    # sizes, margin, most requests, most tokens: requests (G = 8)
    ([700, 400, 500, 90], 1000, 4, NO_LIMIT, [1, 2, 3]),  # 990 of a margin of 1000
    ([700, 400, 500, 90], 1000, 2, NO_LIMIT, [1, 2]),  # 900; 700 + 400 is 100 beyond: 300
    ([700, 400, 500, 90], 1000, 4, 800, [0, 3]),  # 790 is the most under 800
    ([700, 400, 500, 90], 600, 1, NO_LIMIT, [2]),  # 500; 700 is 100 beyond: -100
    ([1001], 1000, 1, NO_LIMIT, [0]),  # 1001 - 8·1
    ([700, 400], 0, 2, NO_LIMIT, [1]),  # no margin: the one that does least harm
    ([300, 300], 300, 2, NO_LIMIT, [0]),  # equal sets: the oldest
    ([700, 400], 1000, 0, NO_LIMIT, []),  # no slot
    ([700, 400], 1000, 2, 399, []),  # no KV tokens
    ([], 1000, 2, NO_LIMIT, []),  # nothing waits
]


def indices(mask: int, num_requests: int) -> list[int]:
    """Return the requests of a bit mask."""
    return [i for i in range(num_requests) if mask >> i & 1]


def sized(sizes: list[int]) -> NDArray[np.int64]:
    return np.array(sizes, np.int64)


@pytest.mark.parametrize(("sizes", "margin", "most", "limit", "expected"), HAND)
def test_sets_worked_by_hand(
    sizes: list[int], margin: int, most: int, limit: int, expected: list[int]
) -> None:
    """Both methods, and the choice between them, return the set in the table."""
    mask = best_subset_by_enumeration(sized(sizes), margin, most, limit, 8)
    assert expected == indices(mask, len(sizes))
    assert expected == best_subset_by_sums(sized(sizes), margin, most, limit, 8).tolist()
    assert expected == best_subset(sized(sizes), margin, most, limit, 8, True).tolist()


@settings(max_examples=300)
@given(
    sizes=st.one_of(
        st.lists(st.integers(1, 12), max_size=10),  # many equal sums
        st.lists(st.integers(1, 5000), max_size=10),  # hardly any
    ),
    margin_share=st.floats(0, 1.2),
    most=st.integers(0, 10),
    limit_share=st.floats(0, 1.2),
    num_ranks=st.integers(1, 64),
)
def test_both_methods_reach_the_largest_f(
    sizes: list[int], margin_share: float, most: int, limit_share: float, num_ranks: int
) -> None:
    """They may pick different sets of equal F, but allowed ones, and none when none is allowed."""
    margin, limit = int(margin_share * sum(sizes)), int(limit_share * sum(sizes))
    every_set = chain.from_iterable(
        combinations(range(len(sizes)), count) for count in range(1, most + 1)
    )
    totals = [sum(sizes[i] for i in chosen) for chosen in every_set]
    scores = [f_score(total, margin, num_ranks) for total in totals if total <= limit]
    mask = best_subset_by_enumeration(sized(sizes), margin, most, limit, num_ranks)
    by_sums = best_subset_by_sums(sized(sizes), margin, most, limit, num_ranks).tolist()
    for chosen in (indices(mask, len(sizes)), by_sums):
        assert bool(scores) == bool(chosen)
        assert sorted(set(chosen)) == chosen
        total = sum(sizes[i] for i in chosen)
        assert len(chosen) <= most
        assert total <= limit
        assert max(scores, default=0) == f_score(total, margin, num_ranks)


def test_a_wide_window_stays_cheap_where_sums_coincide() -> None:
    """32 requests have 4·10⁹ sets, but sizes 1 to 32 have only 528 sums; 500 can be met exactly."""
    sizes = np.arange(1, 33)
    chosen = best_subset_by_sums(sizes, 500, 32, NO_LIMIT, 8)
    assert 500 == sizes[chosen].sum()


def test_the_smallest_number_of_requests_reaches_a_sum() -> None:
    """With two slots 100 is reached by 60 + 40, not by 10 + 20 + 30 + 40 before it."""
    sizes = sized([10, 20, 30, 40, 60])
    assert [3, 4] == best_subset_by_sums(sizes, 100, 2, NO_LIMIT, 8).tolist()
