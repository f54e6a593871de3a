"""Consistent hashing: who serves a session, and how few move when groups come and go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from balanceroute.kernels.ring import POINTS, bound_of, make_ring, mixed, owner_on_ring

NUM_SESSIONS = 4000


def owners_of(num_groups: int, is_fit: list[bool] | None = None) -> NDArray[np.int64]:
    """Return the group of each of many sessions."""
    places, owners = make_ring(num_groups)
    fit = np.ones(num_groups, np.bool_) if is_fit is None else np.array(is_fit)
    keys = mixed(np.arange(NUM_SESSIONS))
    return np.array([owner_on_ring(places, owners, key, fit) for key in keys])


@pytest.mark.parametrize("num_groups", [1, 2, 5, 16])
def test_a_new_group_takes_its_share_and_nothing_else_moves(num_groups: int) -> None:
    """Of 1 / (n + 1), give or take four spreads of a tenth or so, which is that of 128 places."""
    before, after = owners_of(num_groups), owners_of(num_groups + 1)
    moved = before != after
    assert {num_groups} == set(after[moved].tolist())
    share = 1 / (num_groups + 1)
    assert abs(moved.mean() - share) < 4 * share / np.sqrt(POINTS) + 2 / np.sqrt(NUM_SESSIONS)


def test_sessions_of_a_group_that_is_away_are_shared_out_and_come_back() -> None:
    """The others keep theirs; those of the one that is away go to several groups."""
    all_well = owners_of(5)
    without = owners_of(5, [True, True, False, True, True])
    kept = all_well != 2
    assert (all_well[kept] == without[kept]).all()
    assert {0, 1, 3, 4} == set(without[~kept].tolist())


def test_nobody_is_fit() -> None:
    """Then there is no owner, and none without groups either."""
    assert {-1} == set(owners_of(3, [False] * 3).tolist())
    places, owners = make_ring(0)
    assert -1 == owner_on_ring(places, owners, np.uint64(7), np.zeros(0, np.bool_))


def test_a_key_beyond_the_last_place_goes_to_the_first() -> None:
    """The ring is closed."""
    places, owners = np.array([10, 20], np.uint64), np.array([1, 0])
    fit = np.ones(2, np.bool_)
    keys = [np.uint64(key) for key in (0, 10, 11, 20, 21)]
    assert [1, 1, 0, 0, 1] == [owner_on_ring(places, owners, key, fit) for key in keys]


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 60)), min_size=1, max_size=9),
    st.floats(0.01, 3.0),
)
def test_some_group_is_always_below_its_bound(groups: list[tuple[int, int]], excess: float) -> None:
    """Else a session could be turned away by all."""
    sum_slots = sum(slots for slots, _ in groups)
    in_flight = sum(num_reqs for _, num_reqs in groups)
    bounds = [bound_of(in_flight + 1, slots, sum_slots, excess) for slots, _ in groups]
    assert any(num_reqs < bound for (_, num_reqs), bound in zip(groups, bounds, strict=True))
