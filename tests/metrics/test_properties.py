"""What must hold of the figures for any loads."""

from __future__ import annotations

from dataclasses import fields, replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from balanceroute.metrics import Metrics, summarize
from balanceroute.types import RequestRecords, StepRecords
from tests.metrics.records import make_requests, make_run

LOADS = hnp.arrays(
    np.int64,
    st.tuples(st.integers(1, 6), st.integers(1, 8)),
    elements=st.integers(0, 10_000_000),
)


def step_values(metrics: Metrics) -> dict[str, float]:
    """Return the figures that depend on steps alone."""
    names = ("efficiency", "idle_ratio", "balance_ratio", "mean_imbalance_tokens")
    more = ("mean_spread_tokens", "energy_j", "throughput_tok_per_s", "constant_ratio")
    return {name: getattr(metrics, name) for name in names + more}


@given(LOADS)
def test_ratios_stay_in_their_ranges(loads: NDArray[np.int64]) -> None:
    """Efficiency and balance ratio are in (0, 1], the idle ratio in [0, 1)."""
    metrics = summarize(make_run(loads))
    assert 0.0 < metrics.efficiency <= 1.0
    assert 0.0 < metrics.balance_ratio <= 1.0
    assert 0.0 <= metrics.idle_ratio < 1.0
    assert metrics.mean_imbalance_tokens >= metrics.mean_spread_tokens >= 0.0


@given(st.lists(st.integers(0, 10_000_000), min_size=1, max_size=6), st.integers(1, 300))
def test_equal_loads_are_perfect_balance(loads: list[int], num_ranks: int) -> None:
    """Ranks with equal loads have efficiency 1 and imbalance 0."""
    metrics = summarize(make_run([[load] * num_ranks for load in loads]))
    assert metrics.efficiency == pytest.approx(1.0, abs=1e-12)
    assert metrics.mean_imbalance_tokens == metrics.mean_spread_tokens == 0.0


@given(LOADS, st.integers(0, 2**32 - 1))
def test_relabelling_ranks_changes_nothing(loads: NDArray[np.int64], seed: int) -> None:
    """Figures do not depend on the order of the ranks."""
    order = np.random.default_rng(seed).permutation(loads.shape[1])
    assert step_values(summarize(make_run(loads[:, order]))) == pytest.approx(
        step_values(summarize(make_run(loads)))
    )


@given(LOADS, st.integers(0, 2**32 - 1))
def test_the_order_of_rows_changes_nothing(loads: NDArray[np.int64], seed: int) -> None:
    """Steps and requests may be recorded in any order."""
    rng = np.random.default_rng(seed)
    times_s = np.cumsum(rng.uniform(0.0, 0.01, size=(4, 20)), axis=0)
    requests = make_requests(times_s[0], times_s[1], times_s[2], times_s[3], rng.integers(1, 9, 20))
    run = make_run(loads, requests=requests)
    by_step, by_request = rng.permutation(len(loads)), rng.permutation(20)
    shuffled = replace(
        run,
        steps=StepRecords(
            **{f.name: getattr(run.steps, f.name)[by_step] for f in fields(run.steps)}
        ),
        requests=RequestRecords(
            **{f.name: getattr(requests, f.name)[by_request] for f in fields(requests)}
        ),
    )
    for name, value in msgspec.to_builtins(summarize(run)).items():
        assert msgspec.to_builtins(summarize(shuffled))[name] == pytest.approx(value), name


@given(LOADS)
def test_energy_lies_between_all_idle_and_all_busy(loads: NDArray[np.int64]) -> None:
    """Every rank draws between 100 and 400 W for as long as the steps last."""
    run = make_run(loads)
    rank_s = loads.shape[1] * float(run.steps.duration_s.sum())
    assert 100.0 * rank_s * (1 - 1e-12) <= summarize(run).energy_j <= 400.0 * rank_s * (1 + 1e-12)
