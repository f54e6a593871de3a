"""Samples as a router sees them, and the figures that come of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.predict import evaluate, fit, make_classifier, requests_of, split_by_time
from balanceroute.predict.evaluate import auc, calibration, snapshot
from balanceroute.types import Workload


def make_workload(outputs: list[int] | NDArray[np.int64]) -> Workload:
    lengths = np.asarray(outputs, np.int32)
    return Workload(name="test", prompt_tokens=lengths + 5, output_tokens=lengths)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_a_full_snapshot_has_every_age_of_every_request_once(outputs: list[int]) -> None:
    """With as many samples as tokens, each pair of request and age is there."""
    rows, ages = snapshot(make_workload(outputs), sum(outputs))
    expected = [(row, age) for row, output in enumerate(outputs) for age in range(output)]
    assert expected == list(zip(rows.tolist(), ages.tolist(), strict=True))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(samples: list[tuple[int, bool]]) -> None:
    """Over all pairs of one that ends and one that does not; ties count half."""
    scores, is_positive = (
        np.array([s for s, _ in samples], float),
        np.array([e for _, e in samples]),
    )
    pairs = [(p > n) + (p == n) / 2 for p in scores[is_positive] for n in scores[~is_positive]]
    if pairs:
        assert np.mean(pairs) == pytest.approx(auc(scores, is_positive))
    else:
        assert auc(scores, is_positive) is None


def test_figures_by_hand() -> None:
    """Outputs 1 and 3 at H = 2, asked of a classifier that has learnt nothing.

    Found running: (1, age 0), (3, age 0), (3, 1), (3, 2); all but the second end within 2. By the
    prior p = 2 / (a + 258), which falls with age: the positives are at ages 0, 1, 2, the negative
    at 0, so AUC = (1/2 + 0 + 0) / 3. ĉ = 1 + S(1) = 2 - 1 / (a + 257) against 1, 2, 2, 1.
    """
    result = evaluate(make_classifier("survival"), make_workload([1, 3]), 2, num_samples=4)
    assert (2, 4, 0.75) == (result.horizon, result.num_samples, result.end_ratio)
    assert 1 / 6 == pytest.approx(result.auc)
    brier = ((256 / 258) ** 2 + (2 / 258) ** 2 + (257 / 259) ** 2 + (258 / 260) ** 2) / 4
    assert brier == pytest.approx(result.brier)
    mae_steps = ((1 - 1 / 257) + 1 / 257 + 1 / 258 + (1 - 1 / 259)) / 4
    assert mae_steps == pytest.approx(result.mae_steps)
    (only,) = result.bins
    assert (4, 0.75) == (only.num_samples, only.end_ratio)


def test_bins_cover_all_samples() -> None:
    """Probability 1 belongs to the last bin; empty bins are left out."""
    bins = calibration(np.array([0.0, 0.1, 0.19, 1.0]), np.array([True, False, True, True]))
    assert [1, 2, 1] == [part.num_samples for part in bins]
    assert [1.0, 0.5, 1.0] == [part.end_ratio for part in bins]
    assert [0, 1, 9] == [part.number for part in bins]


def test_fit_learns_in_order_and_evaluation_can_go_on_teaching() -> None:
    """Answers grow tenfold halfway: who learns on is better at the second half."""
    outputs = np.random.default_rng(0).integers(1, 50, 4000)
    outputs[2000:] *= 10
    earlier, later = split_by_time(make_workload(outputs))
    spec = "survival:by=global:memory=300"
    frozen = evaluate(fit(earlier, spec), later, 80)
    taught = evaluate(fit(earlier, spec), later, 80, is_taught=True)
    assert taught.brier < 0.8 * frozen.brier
    assert taught.mae_steps < frozen.mae_steps


def test_evaluation_teaches_nothing_unless_told_to() -> None:
    """Evaluated twice, the same classifier has the same figures."""
    earlier, later = split_by_time(make_workload(np.random.default_rng(0).integers(1, 99, 500)))
    classifier = fit(earlier, "survival")
    assert evaluate(classifier, later, 20) == evaluate(classifier, later, 20)


def test_all_columns_of_a_workload_reach_the_classifier() -> None:
    """Rows become ids; what the workload does not have is unknown."""
    bare = make_workload([5, 6, 7])
    full = replace(
        bare,
        client_ids=np.array([3, 4, 5], np.int32),
        max_tokens=np.array([10, 0, 7], np.int32),
        prompt_hashes=np.array([2**62, 0, -9]),
    )
    rows, ages = np.array([2, 0]), np.array([1, 4])
    known, unknown = requests_of(full, rows, ages), requests_of(bare, rows, ages)
    assert [2, 0] == known.ids.tolist() == unknown.ids.tolist()
    assert [12, 10] == known.prompt_tokens.tolist()
    assert [1, 4] == known.generated_tokens.tolist()
    assert ([5, 3], [-1, -1]) == (known.client_ids.tolist(), unknown.client_ids.tolist())
    assert ([7, 10], [0, 0]) == (known.max_tokens.tolist(), unknown.max_tokens.tolist())
    assert [-9, 2**62] == known.prompt_hashes.tolist()
    assert [0, 0] == unknown.prompt_hashes.tolist()
    assert np.int64 == known.client_ids.dtype == known.max_tokens.dtype


def test_nobody_ends_or_everybody() -> None:
    """There is no AUC without both; the other figures stand."""
    result = evaluate(make_classifier("survival"), make_workload([500]), 1, num_samples=3)
    assert result.auc is None
    assert 0.0 == result.end_ratio


@pytest.mark.parametrize(
    ("fit_ratio", "num_requests", "message"),
    [
        (0.0, 10, "fit-ratio must be above 0 and below 1, got 0.0"),
        (1.0, 10, "fit-ratio must be above 0 and below 1, got 1.0"),
        (float("nan"), 10, "fit-ratio must be above 0 and below 1, got nan"),
        (0.01, 10, "test is too short to split: a fit-ratio of 0.01 leaves one part of its 10"),
        (0.5, 1, "test is too short to split: a fit-ratio of 0.5 leaves one part of its 1"),
    ],
)
def test_a_split_leaves_requests_on_both_sides(
    fit_ratio: float, num_requests: int, message: str
) -> None:
    """The ratio and the number of requests are named."""
    with pytest.raises(ConfigError, match=message):
        split_by_time(make_workload([1] * num_requests), fit_ratio)


def test_at_least_one_sample() -> None:
    """Nothing can be said of no samples."""
    with pytest.raises(ConfigError, match="num_samples must be at least 1, got 0"):
        evaluate(make_classifier("survival"), make_workload([1]), 5, num_samples=0)
