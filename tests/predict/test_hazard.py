"""Buckets of ages, and what is read off a table of hazards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.kernels.hazard import (
    MAX_AGE_TOKENS,
    NUM_BUCKETS,
    bucket_of,
    bucket_start,
    bucket_width,
    hazard_until,
    log_survival_at,
    mean_ends,
    mean_place,
)
from balanceroute.kernels.shrinkage import accumulate
from tests.predict.lives import STARTS, survival_by_token


@st.composite
def end_probs(draw: st.DrawFn) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return probabilities of an end over many orders of magnitude."""
    seed = draw(st.integers(0, 2**32 - 1))
    return 10 ** np.random.default_rng(seed).uniform(-7, -0.2, NUM_BUCKETS)


@given(st.integers(0, MAX_AGE_TOKENS - 1))
def test_an_age_lies_in_its_bucket(age: int) -> None:
    """Buckets are half open, and as wide as they say."""
    bucket = bucket_of(age)
    assert bucket_start(bucket) <= age < bucket_start(bucket + 1)
    assert bucket_width(bucket) == bucket_start(bucket + 1) - bucket_start(bucket)


def test_buckets_widen_by_an_eighth_at_most() -> None:
    """Single tokens up to 16, then a start is at most 9/8 of the one before; 1.09 on average."""
    ratios = STARTS[17:] / STARTS[16:-1]
    assert list(range(17)) == STARTS[:17].tolist()
    assert 9 / 8 == ratios.max()
    assert 2 ** (1 / 8) == pytest.approx(np.exp(np.log(ratios).mean()))
    assert [NUM_BUCKETS - 1] * 2 == [bucket_of(MAX_AGE_TOKENS), bucket_of(10**15)]


@given(end_probs(), st.integers(0, 3000), st.integers(0, 40))
def test_hazards_add_up_token_by_token(
    probs: np.ndarray[tuple[int], np.dtype[np.float64]], age: int, steps: int
) -> None:
    """Λ(a + h) - Λ(a) is the sum of -log(1 - q) over the tokens between, to rounding."""
    table = np.empty(NUM_BUCKETS + 1)
    accumulate(probs, table)
    expected = sum(-np.log1p(-probs[bucket_of(token)]) for token in range(age, age + steps))
    scale = 1e-12 * hazard_until(table, age + steps)
    assert expected == pytest.approx(
        hazard_until(table, age + steps) - hazard_until(table, age), rel=1e-9, abs=scale
    )


def test_the_last_hazard_holds_beyond_the_table() -> None:
    """65,536 tokens after the end, Λ has risen once more by what it rose in the last bucket."""
    table = np.arange(float(NUM_BUCKETS + 1)) * np.arange(NUM_BUCKETS + 1)
    last = table[-1] - table[-2]
    assert table[-1] == hazard_until(table, MAX_AGE_TOKENS)
    assert table[-1] + last == hazard_until(table, MAX_AGE_TOKENS + 65_536)


@given(
    end_probs(), st.integers(0, 2000), st.integers(1, 300), st.sampled_from([0, 1, 40, 100, 900])
)
def test_mean_ends_equal_the_sum_over_steps(
    probs: np.ndarray[tuple[int], np.dtype[np.float64]], age: int, horizon: int, limit: int
) -> None:
    """μ = Σ h·(S(h - 1) - S(h)) / (1 - S(H)).

    Each difference of S is exact to 1e-15 or so, so the sum is to 1e-15·H/p of μ.
    """
    table = np.empty((1, NUM_BUCKETS + 1))
    accumulate(probs, table[0])
    survival = survival_by_token(probs, age, limit, horizon)
    ends = survival[:-1] - survival[1:]
    means = np.empty(1)
    row, ages, limits = np.array([0]), np.array([age]), np.array([limit])
    mean_ends(table, row, ages, limits, horizon, means)
    expected = np.arange(1, horizon + 1) @ ends / ends.sum()
    assert expected == pytest.approx(means[0], rel=1e-13 * horizon / ends.sum() + 1e-9)
    log_survival = np.empty((1, horizon + 1))
    log_survival_at(table, row, ages, limits, np.arange(horizon + 1), log_survival)
    np.testing.assert_allclose(np.exp(log_survival[0]), survival, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_tokens", [1, 2, 7, 65_536])
@pytest.mark.parametrize("product", [1e-9, 0.0499, 0.0501, 1.0, 30.0])
def test_mean_place_on_both_sides_of_its_series(num_tokens: int, product: float) -> None:
    """The series and the closed form agree with the plain sum to 1e-10 of n."""
    hazard = product / num_tokens
    weights = np.exp(-hazard * np.arange(num_tokens))
    expected = np.arange(num_tokens) @ weights / weights.sum()
    assert expected == pytest.approx(mean_place(hazard, num_tokens), abs=1e-10 * num_tokens)


def test_a_table_that_never_ends_gives_the_horizon() -> None:
    """Where no end is possible, μ is H and p is 0, so ĉ is H."""
    means = np.empty(1)
    nothing = np.zeros(1, np.int64)
    mean_ends(np.zeros((1, NUM_BUCKETS + 1)), nothing, nothing, nothing, 80, means)
    assert [80.0] == means.tolist()
