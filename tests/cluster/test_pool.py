"""The pool against a list."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.cluster.pool import Pool
from balanceroute.cluster.traits import NO_TRAITS, request_traits
from balanceroute.cluster.view import PoolView
from balanceroute.kernels.ledger import Int64Array


def ids_in(pool: Pool) -> list[int]:
    """Return the ids in the pool's order."""
    ids: list[int] = pool.view().ids.tolist()
    return ids


def add(pool: Pool, ids: range, now_s: float = 0.0, *, is_told: bool = False) -> None:
    """Append requests whose prompts are twice their ids, and clients and limits 3 and 5 times."""
    column = np.array(ids, np.int64)
    traits = request_traits(len(ids), client_ids=3 * column, max_tokens=5 * column)
    pool.append(column, 2 * column, now_s, traits if is_told else NO_TRAITS)


def positions(*values: int) -> Int64Array:
    return np.array(values, np.int64)


@given(st.data(), st.integers(1, 8))
def test_a_pool_behaves_like_a_list(data: st.DataObject, capacity: int) -> None:
    """Appending and taking in any order keep order, ids and columns together."""
    pool, model, num_ids, told = Pool(capacity=capacity), list[int](), 0, set[int]()
    for now_s in range(data.draw(st.integers(1, 12))):
        num_new = data.draw(st.integers(0, 9))
        is_told = data.draw(st.booleans())
        add(pool, range(num_ids, num_ids + num_new), now_s=float(now_s), is_told=is_told)
        told |= {*range(num_ids, num_ids + num_new)} if is_told else set()
        model += [*range(num_ids, num_ids + num_new)]
        num_ids += num_new
        chosen = data.draw(st.permutations(range(len(model))))
        chosen = chosen[: data.draw(st.integers(0, len(model)))]
        assert [model[i] for i in chosen] == pool.take(positions(*chosen)).tolist()
        model = [request for i, request in enumerate(model) if i not in chosen]
        assert len(model) == len(pool)
        assert model == ids_in(pool)
        assert [2 * request for request in model] == pool.view().prompt_tokens.tolist()
        arrival_s = pool.view().arrival_s
        assert (np.diff(arrival_s) >= 0).all()
        expected = [3 * request if request in told else -1 for request in model]
        assert expected == pool.view().client_ids.tolist()
        expected = [5 * request if request in told else 0 for request in model]
        assert expected == pool.view().max_tokens.tolist()


def test_arrival_times_stay_with_their_requests() -> None:
    """One time for all, or one each."""
    pool = Pool()
    add(pool, range(2), now_s=1.5)
    pool.append(positions(2, 3), positions(9, 9), np.array([2.0, 2.5]))
    pool.take(positions(1, 2))
    assert [1.5, 2.5] == pool.view().arrival_s.tolist()


def test_a_view_can_be_limited_to_the_oldest() -> None:
    """As many as asked for, or as there are."""
    pool = Pool()
    add(pool, range(5))
    pool.take(positions(0))
    assert [1, 2] == pool.view(limit=2).ids.tolist()
    assert [1, 2, 3, 4] == pool.view(limit=99).ids.tolist()
    assert 0 == len(pool.view(limit=0))


def test_a_view_can_leave_some_out() -> None:
    """All columns lose the same requests."""
    traits = request_traits(4, client_ids=[5, 6, 7, 8])
    view = PoolView.of_prompts([10, 20, 30, 40], traits)
    others = view.without(positions(0, 2))
    assert [1, 3] == others.ids.tolist()
    assert [20, 40] == others.prompt_tokens.tolist()
    assert [6, 8] == others.client_ids.tolist()
    assert len(others.arrival_s) == 2
    assert view.without(positions()) is view


def test_room_that_was_freed_is_used_again() -> None:
    """A pool that is emptied as fast as it fills stays as large as it was."""
    pool = Pool(capacity=8)
    for start in range(0, 400, 4):
        add(pool, range(start, start + 4))
        pool.take(positions(3, 0, 1, 2))
    assert 0 == len(pool)
    assert len(pool._ids) <= 16


def test_taking_none_changes_nothing() -> None:
    """An empty plan is a plan."""
    pool = Pool()
    add(pool, range(3))
    assert [] == pool.take(positions()).tolist()
    assert [0, 1, 2] == ids_in(pool)


def columns(view: PoolView) -> list[list[int]]:
    """Return all that may be known of requests."""
    known = (view.client_ids, view.max_tokens, view.prompt_hashes)
    return [column.tolist() for column in (*known, view.preferred_ranks, view.saved_tokens)]


def test_traits_are_shown_by_column() -> None:
    """Each under its name; what is left out, or not told at all, is unknown."""
    traits = request_traits(
        2, client_ids=[1, 2], prompt_hashes=[5, 6], preferred_ranks=[7, -1], saved_tokens=[9, 0]
    )
    pool = Pool()
    pool.append(positions(0, 1), positions(30, 40), 0.0, traits)
    expected = [[1, 2], [0, 0], [5, 6], [7, -1], [9, 0]]
    assert expected == columns(pool.view())
    assert expected == columns(PoolView.of_prompts([30, 40], traits))
    unknown = [[-1, -1], [0, 0], [0, 0], [-1, -1], [0, 0]]
    assert unknown == columns(PoolView.of_prompts([30, 40]))
    fresh = Pool()
    add(fresh, range(2))
    assert unknown == columns(fresh.view())


def test_traits_survive_growth() -> None:
    """Requests told of and not told of, before and after the pool needs more room."""
    pool = Pool(capacity=2)
    add(pool, range(1, 3))
    add(pool, range(3, 5), is_told=True)
    pool.take(positions(0))
    add(pool, range(5, 40))
    add(pool, range(40, 42), is_told=True)
    clients = pool.view().client_ids
    assert [-1, 9, 12, *[-1] * 35, 120, 123] == clients.tolist()
