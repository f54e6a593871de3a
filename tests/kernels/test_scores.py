"""F-score, loads and margins, and the choice of one request, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.kernels.fscore import f_score
from balanceroute.kernels.load import imbalance_tokens, margins_tokens, rank_work_s
from balanceroute.kernels.window import (
    AGE_BITS,
    best_single,
    find_down,
    find_up,
    open_window,
    remove,
)

LOADS = st.lists(st.integers(0, 10_000_000), min_size=1, max_size=12)


def test_loads_of_the_worked_example() -> None:
    """Loads 100, 90, 70, 60: M = 100, I = 4·100 - 320, margins M - L."""
    loads = np.array([100, 90, 70, 60])
    assert 80 == imbalance_tokens(loads)
    assert [0, 10, 30, 40] == margins_tokens(loads).tolist()


F_SCORES = [
    # added, margin, ranks, F
    (500, 1000, 8, 500),  # slope +1 within the margin
    (1000, 1000, 8, 1000),  # the margin itself is the best
    (1001, 1000, 8, 993),  # slope -(G - 1) = -7 beyond
    (1500, 1000, 8, -2500),  # 1500 - 8·500
    (0, 0, 8, 0),  # nothing changes nothing
    (700, 0, 1, 0),  # one rank is always level
]


@pytest.mark.parametrize(("added", "margin", "num_ranks", "expected"), F_SCORES)
def test_f_score_worked_by_hand(added: int, margin: int, num_ranks: int, expected: int) -> None:
    """F = Δ - G·(Δ - m)⁺."""
    assert expected == f_score(added, margin, num_ranks)


@given(LOADS, st.data())
def test_f_score_is_the_fall_of_the_imbalance(loads: list[int], data: st.DataObject) -> None:
    """F equals -ΔI, whatever is added to whichever rank."""
    rank = data.draw(st.integers(0, len(loads) - 1))
    added = data.draw(st.integers(0, 10_000_000))
    before = np.array(loads)
    after = before.copy()
    after[rank] += added
    fall = imbalance_tokens(before) - imbalance_tokens(after)
    assert fall == f_score(added, margins_tokens(before)[rank], len(loads))


WORK = [
    # load, running, prefilled; kappa0, t_p, σ, m, speed; C = 10 ms, t_l = 1e-6 s
    ((1000, 5, 0), (0.0, 0.0, 0.0, 0.0, 1.0), 0.001),  # load alone
    ((1000, 5, 0), (100.0, 0.0, 0.0, 0.0, 1.0), 0.0015),  # five requests count 100 tokens each
    ((1000, 5, 200), (0.0, 1e-5, 0.0, 0.0, 1.0), 0.003),  # 200 prompt tokens at 10 µs
    ((1000, 5, 200), (0.0, 1e-5, 0.75, 0.0, 1.0), 0.0015),  # a quarter of it is the rank's own
    ((1000, 5, 1), (0.0, 0.0, 0.0, 0.002, 1.0), 0.003),  # 2 ms for any prompt token at all
    ((1000, 5, 0), (0.0, 1e-5, 0.5, 0.002, 1.0), 0.001),  # nothing of it for none
    ((1000, 5, 0), (0.0, 0.0, 0.0, 0.0, 0.5), 0.012),  # half as fast: 22 ms in all
    ((1000, 5, 200), (0.0, 1e-5, 0.5, 0.002, 0.5), 0.018),  # (10 + 1 + 1 + 2) / 0.5 - 10 ms
    ((0, 0, 0), (0.0, 0.0, 0.0, 0.0, 2.0), -0.005),  # a fast idle rank is done before C is over
]


@pytest.mark.parametrize(("tokens", "costs", "expected"), WORK)
def test_work_of_a_rank(
    tokens: tuple[int, int, int], costs: tuple[float, float, float, float, float], expected: float
) -> None:
    """(C + t_l·(κ₀·n + L) + (1 - σ)·t_p·p + m·[p > 0]) / speed - C."""
    assert expected == pytest.approx(rank_work_s(*tokens, 0.01, 1e-6, *costs))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=15),
    st.integers(0, 45),
    st.integers(0, 45),
    st.integers(2, 9),
    st.data(),
)
def test_best_single_equals_trying_every_request(
    prompts: list[int], margin: int, limit: int, num_ranks: int, data: st.DataObject
) -> None:
    """The largest F within the limit, ties to the oldest, also after some were removed."""
    keys = sorted(size << AGE_BITS | position for position, size in enumerate(prompts))
    window = open_window(np.array(keys))
    left = set(range(len(prompts)))
    while left:
        allowed = [i for i in left if prompts[i] <= limit]
        index = best_single(window, margin, limit, num_ranks)
        if not allowed:
            assert index == -1
            return
        expected = max(allowed, key=lambda i: (f_score(prompts[i], margin, num_ranks), -i))
        assert expected == window.positions[index]
        gone = data.draw(st.sampled_from(sorted(left)))
        remove(window, int(np.flatnonzero(window.positions == gone)[0]))
        left.remove(gone)


@given(st.integers(1, 20), st.data())
def test_links_skip_what_was_removed(size: int, data: st.DataObject) -> None:
    """`find_up` and `find_down` find the nearest survivor, or the end on their side."""
    window = open_window(np.arange(size) << AGE_BITS)
    left = set(range(size))
    for gone in data.draw(st.permutations(range(size))):
        remove(window, gone)
        left.remove(gone)
        for index in range(size):
            assert min((i for i in left if i >= index), default=size) == find_up(window, index)
            assert max((i for i in left if i <= index), default=-1) == find_down(window, index)
