"""BR-H's F-score and loops against slow references, in numbers that are exact in binary."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from balanceroute.kernels.brh import Ranks, assign_ahead, plan_singles_ahead, plan_subsets_ahead
from balanceroute.kernels.discounted import (
    EVERYTHING,
    Ahead,
    bend,
    best_on,
    f_score_ahead,
    new_curve,
    peak_of,
    score_on,
)
from balanceroute.kernels.plain import sort_ascending
from balanceroute.kernels.subset_ahead import best_set_on
from balanceroute.kernels.window import open_window, remove
from balanceroute.policies.balance_route import sorted_keys

NO_LIMIT = 1 << 62


@dataclass
class Case:
    """A group, its loads ahead, and waiting requests with what each would add."""

    loads: NDArray[np.float64]
    discounts: NDArray[np.float64]
    alpha: float
    beta: float
    sends: list[int]
    kv: list[int]
    prompts: NDArray[np.int64]
    gains: NDArray[np.float64]

    def ranks(self) -> Ranks:
        load = self.loads[:, 0].astype(np.int64)
        return Ranks(load, np.array(self.sends), np.array(self.kv))

    def ahead(self) -> Ahead:
        return Ahead(
            self.loads.copy(), self.loads.max(axis=0), self.discounts, self.alpha, self.beta
        )

    def score(self, rank: int, added: NDArray[np.float64]) -> float:
        """Eq. (2), written out anew."""
        margins = self.loads.max(axis=0) - self.loads[rank]
        return float(
            self.alpha * (self.discounts * added).sum()
            - self.beta * (self.discounts * np.maximum(added - margins, 0)).sum()
        )


@st.composite
def cases(draw: st.DrawFn, *, is_flat: bool) -> Case:
    """Return a case; a flat one adds the prompt at every horizon."""
    num_ranks, num_horizons = draw(st.integers(2, 4)), draw(st.integers(1, 6))
    most = draw(st.sampled_from([6, 40, 50_000]))
    loads = draw(
        st.lists(
            st.lists(st.integers(0, 3 * most), min_size=num_horizons, max_size=num_horizons),
            min_size=num_ranks,
            max_size=num_ranks,
        )
    )
    prompts = np.array(draw(st.lists(st.integers(1, 2 * most), max_size=9)), np.int64)
    gains = np.repeat(prompts[:, None], num_horizons, axis=1).astype(np.float64)
    if not is_flat:
        shares = draw(
            st.lists(
                st.lists(st.integers(0, 4), min_size=num_horizons, max_size=num_horizons),
                min_size=len(prompts),
                max_size=len(prompts),
            )
        )
        gains *= np.reshape(np.array(shares, np.float64), gains.shape) / 4
    return Case(
        loads=np.array(loads, np.float64),
        discounts=np.power(draw(st.sampled_from([0.5, 1.0])), np.arange(num_horizons)),
        alpha=draw(st.sampled_from([0.5, 1.0, 4.0])),
        beta=draw(st.sampled_from([0.0, 1.0, float(num_ranks), 16.0])),
        sends=draw(st.lists(st.integers(0, 3), min_size=num_ranks, max_size=num_ranks)),
        kv=draw(st.sampled_from([[NO_LIMIT] * num_ranks, [3 * most] * num_ranks])),
        prompts=prompts,
        gains=gains,
    )


def stages_reference(
    case: Case, s_greedy: int, r_max: int, first_rank: int
) -> list[tuple[int, int]]:
    """Both stages, trying every request and every set. Changes the case."""
    load = case.loads[:, 0].astype(int).tolist()
    waiting = list(range(len(case.prompts)))
    placed: list[tuple[int, int]] = []
    closed: set[int] = set()
    is_greedy = True
    while waiting:
        if is_greedy and sum(case.sends) <= s_greedy:
            is_greedy = False
            closed.clear()
        able = [g for g, sends in enumerate(case.sends) if sends > 0 and g not in closed]
        if not able and not is_greedy:
            break
        if not able:
            is_greedy = False
            closed.clear()
            continue
        turn = len(case.sends)
        rank = min(able, key=lambda g: (-case.sends[g], load[g], (g - first_rank) % turn))
        chosen = best_set(case, rank, waiting, r_max, is_greedy)
        if not chosen:
            closed.add(rank)
        envelope = case.loads.max(axis=0)
        for i in chosen:
            waiting.remove(i)
            placed.append((i, rank))
            load[rank] += int(case.prompts[i])
            case.kv[rank] -= int(case.prompts[i])
            case.sends[rank] -= 1
            case.loads[rank] += case.gains[i]
        assert (case.loads.max(axis=0) >= envelope).all()
    return placed


def best_set(
    case: Case, rank: int, waiting: list[int], r_max: int, is_greedy: bool
) -> tuple[int, ...]:
    """Return the set with the largest F; ties as a mask over the requests seen has them."""
    seen = waiting if is_greedy else waiting[:r_max]
    most = min(case.sends[rank], 1 if is_greedy else r_max)
    every_set = chain.from_iterable(combinations(seen, count) for count in range(1, most + 1))
    allowed = [s for s in every_set if case.prompts[list(s)].sum() <= case.kv[rank]]
    return max(
        allowed,
        key=lambda s: (
            case.score(rank, case.gains[list(s)].sum(axis=0)),
            -sum(1 << seen.index(i) for i in s),
        ),
        default=(),
    )


def stages(
    case: Case, s_greedy: int, r_max: int, first_rank: int, *, is_flat: bool
) -> list[tuple[int, int]]:
    """Both stages, as the policy runs them."""
    ranks, ahead = case.ranks(), case.ahead()
    gains = None if is_flat else case.gains
    is_taken = np.zeros(len(case.prompts), np.int64)
    keys = sorted_keys(case.prompts if is_flat else case.prompts[:0])
    singles = plan_singles_ahead(
        ranks, ahead, case.prompts, keys, gains, is_taken, s_greedy, first_rank
    )
    is_wide = True if r_max > 4 else None
    subsets = plan_subsets_ahead(
        ranks, ahead, case.prompts, gains, is_taken, r_max, first_rank, is_wide
    )
    return [
        pair
        for requests, where in (singles, subsets)
        for pair in zip(requests.tolist(), where.tolist(), strict=True)
    ]


@settings(max_examples=300, deadline=None)
@given(cases(is_flat=True), st.integers(0, 9), st.integers(1, 4), st.integers(0, 3))
def test_stages_on_a_curve_equal_trying_everything(
    case: Case, s_greedy: int, r_max: int, first_rank: int
) -> None:
    """Peak, sorted search and prefix sums choose what Eq. (2) says, ties included."""
    got = stages(case, s_greedy, r_max, first_rank, is_flat=True)
    assert stages_reference(case, s_greedy, r_max, first_rank) == got


@settings(max_examples=300, deadline=None)
@given(cases(is_flat=False), st.integers(0, 9), st.integers(1, 5), st.integers(0, 3))
def test_stages_with_gains_equal_trying_everything(
    case: Case, s_greedy: int, r_max: int, first_rank: int
) -> None:
    """The same where a request adds something else at each horizon."""
    got = stages(case, s_greedy, r_max, first_rank, is_flat=False)
    assert stages_reference(case, s_greedy, r_max, first_rank) == got


@settings(max_examples=200, deadline=None)
@given(cases(is_flat=True), st.integers(0, 9), st.integers(1, 4))
def test_flat_gains_are_as_good_as_none(case: Case, s_greedy: int, r_max: int) -> None:
    """Both ways to find the best request or set lead to the same plan."""
    on_a_curve = stages(case, s_greedy, r_max, 0, is_flat=True)
    assert on_a_curve == stages(case, s_greedy, r_max, 0, is_flat=False)


@settings(max_examples=200, deadline=None)
@given(cases(is_flat=True), st.integers(0, 9))
def test_reachable_sums_find_the_largest_f(case: Case, most: int) -> None:
    """A wide window may yield another of several sets of the largest F, but an allowed one."""
    case.sends = [most] * len(case.sends)
    curve = new_curve(len(case.discounts))
    for rank, limit in enumerate(case.kv):
        bend(curve, case.ahead(), rank)
        chosen = best_set_on(curve, case.prompts, most, limit, True).tolist()
        best = best_set(case, rank, list(range(len(case.prompts))), 9, False)
        assert bool(best) == bool(chosen)
        assert sorted(set(chosen)) == chosen
        assert len(chosen) <= most
        assert case.prompts[chosen].sum() <= limit
        scores = [case.score(rank, case.gains[list(s)].sum(axis=0)) for s in (best, chosen)]
        assert scores[0] == scores[1]


@settings(max_examples=200, deadline=None)
@given(cases(is_flat=True), st.integers(0, 200_000))
def test_a_curve_is_eq_2(case: Case, added: int) -> None:
    """A bent line, the sum over horizons, and the formula written out are one number."""
    for rank in range(len(case.loads)):
        curve = new_curve(len(case.discounts))
        bend(curve, case.ahead(), rank)
        expected = case.score(rank, np.full(len(case.discounts), float(added)))
        margins = case.loads.max(axis=0) - case.loads[rank]
        gains = np.full(len(margins), float(added))
        assert expected == score_on(curve, added)
        assert expected == f_score_ahead(gains, margins, case.discounts, case.alpha, case.beta)


@settings(max_examples=200, deadline=None)
@given(cases(is_flat=False))
def test_immediate_binding_equals_trying_every_rank(case: Case) -> None:
    """The largest F; ties: the lowest load, then the lowest rank."""
    case.kv = [NO_LIMIT] * len(case.kv)
    able = [g for g, sends in enumerate(case.sends) if sends > 0]
    sends = np.where(np.array(case.sends) > 0, 1 << 31, 0)
    ranks = Ranks(case.loads[:, 0].astype(np.int64), sends, np.array(case.kv))
    got = assign_ahead(ranks, case.ahead(), case.prompts, case.gains).tolist()
    load = case.loads[:, 0].astype(int).tolist()
    expected: list[int] = []
    for size, gain in zip(case.prompts.tolist() if able else [], case.gains, strict=False):
        rank = min(able, key=lambda g: (-case.score(g, gain), load[g], g))
        load[rank] += size
        case.loads[rank] += gain
        expected.append(rank)
    assert expected == got


def level_peak() -> Ahead:
    """Rank 1 has margins 10, 20, 40 and 80: with β = 2, F is level from 20 to 40 tokens."""
    loads = np.array([[80.0, 80.0, 80.0, 80.0], [70.0, 40.0, 60.0, 0.0]])
    return Ahead(loads, loads.max(axis=0), np.ones(4), 1.0, 2.0)


def test_the_oldest_request_on_a_level_peak_is_taken() -> None:
    """4 - 2·2 = 0 is the slope between the second and the third margin."""
    curve = new_curve(4)
    bend(curve, level_peak(), 1)
    assert (20, 40) == peak_of(curve)
    sizes = np.array([15, 41, 33, 20, 40, 33])
    window = open_window(sorted_keys(sizes))
    for expected in (2, 3, 4, 5, 1, 0):  # F: 4 times 60, then 41 - 2·1 / 15 as below
        best = best_on(curve, window, NO_LIMIT)
        assert expected == window.positions[best]
        remove(window, best)
    # 41 is one beyond three margins: 60 - 2 = 58. 15 is short of three: 4·15 - 2·5 = 50.
    assert [50.0, 60.0, 60.0, 58.0] == [score_on(curve, size) for size in (15, 20, 40, 41)]


def test_a_limit_hides_large_requests() -> None:
    """Of 15, 33 and 41 tokens a rank with room for 32 can take only the first."""
    curve = new_curve(4)
    bend(curve, level_peak(), 1)
    window = open_window(sorted_keys(np.array([41, 33, 15])))
    assert 2 == window.positions[best_on(curve, window, 32)]
    assert -1 == best_on(curve, window, 14)


def test_without_a_cost_the_largest_request_wins() -> None:
    """F never falls where β Σ γ^h is not above α Σ γ^h."""
    for beta in (0.0, 0.5, 1.0):
        curve, ahead = new_curve(4), level_peak()._replace(beta=beta)
        bend(curve, ahead, 1)
        assert EVERYTHING == peak_of(curve)[1]


@pytest.mark.parametrize("size", [0, 1, 2, 9, 81, 257, 600])
def test_sorting(size: int) -> None:
    """As NumPy sorts."""
    values = np.random.default_rng(size).integers(-40, 40, size)
    expected = np.sort(values).tolist()
    sort_ascending(values)
    assert expected == values.tolist()
