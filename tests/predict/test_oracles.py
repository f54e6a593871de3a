"""`oracle` and `noisy_oracle`: exactly as good as they say."""

from __future__ import annotations

import numpy as np
import pytest

from balanceroute.errors import ConfigError
from balanceroute.predict import Classifier, evaluate, expected_steps, make_classifier
from balanceroute.predict.evaluate import auc, snapshot
from balanceroute.predict.survival import Survival
from balanceroute.types import Workload
from tests.predict.lives import learn_whole, make_requests

LENGTHS = np.random.default_rng(0).geometric(1 / 200, 4000).astype(np.int32)
WORKLOAD = Workload(name="geometric", prompt_tokens=LENGTHS, output_tokens=LENGTHS)


def build(spec: str, seed: int = 5) -> Classifier:
    return make_classifier(spec, rng=np.random.default_rng(seed), output_tokens=LENGTHS)


def test_the_oracle_knows() -> None:
    """Every figure is perfect."""
    result = evaluate(build("oracle"), WORKLOAD, 80)
    assert (1.0, 0.0, 0.0) == (result.auc, result.brier, result.mae_steps)


@pytest.mark.parametrize("spec", ["oracle", "noisy_oracle:error=0.3", "noisy_oracle:auc=0.8"])
def test_requests_without_an_id_go_by_survival(spec: str) -> None:
    """So do those that have outlived the length that was given for them."""
    oracle, survival = build(spec), Survival()
    for classifier in (oracle, survival):
        learn_whole(classifier, [30] * 200)
    asked = make_requests([3, 40_000], ids=[-1, 7])
    horizons = np.array([1, 20, 60])
    np.testing.assert_array_equal(
        survival.survival(asked, horizons), oracle.survival(asked, horizons)
    )
    np.testing.assert_allclose(
        survival.mean_remaining(asked, 60), oracle.mean_remaining(asked, 60), rtol=1e-9
    )


def test_relative_error_is_log_normal() -> None:
    """log(D̂ / D) has mean 0 and the deviation asked for, to four standard errors."""
    oracle = build("noisy_oracle:error=0.3")
    asked = make_requests([0] * len(LENGTHS), ids=np.arange(len(LENGTHS)))
    is_long = LENGTHS > 50  # rounding to whole tokens is below 1 % of these
    log_ratio = np.log(oracle.mean_remaining(asked, 10**7) / LENGTHS)[is_long]
    error = 0.3 / np.sqrt(is_long.sum())
    assert 0.0 == pytest.approx(log_ratio.mean(), abs=4 * error)
    assert 0.3 == pytest.approx(log_ratio.std(), abs=4 * error / np.sqrt(2))


def test_an_error_of_nothing_is_the_oracle() -> None:
    """The same answers, whatever the seed."""
    asked = make_requests(LENGTHS // 2, ids=np.arange(len(LENGTHS)))
    expected = build("oracle").mean_remaining(asked, 100)
    np.testing.assert_array_equal(
        expected, build("noisy_oracle:error=0").mean_remaining(asked, 100)
    )


@pytest.mark.parametrize("target", [0.5, 0.65, 0.8, 0.95])
@pytest.mark.parametrize("horizon", [10, 80, 400])
def test_the_auc_is_the_one_asked_for(target: float, horizon: int) -> None:
    """At every horizon, and in a population of one age; p is calibrated.

    An AUC of m positives and n negatives has a standard error of at most √(A(1 - A) / min(m, n)).
    One sample a request keeps them independent. The mean of p(1 - p) bounds the variance of the
    share that ends, given p.
    """
    rows = np.arange(len(LENGTHS))
    ages = np.random.default_rng(1).integers(0, LENGTHS)
    oracle = build(f"noisy_oracle:auc={target}")
    has_ended = LENGTHS - ages <= horizon
    p_finish = oracle.p_finish(make_requests(ages, ids=rows), horizon)
    fewest = min(has_ended.sum(), (~has_ended).sum())
    error = np.sqrt(target * (1 - target) / fewest)
    assert target == pytest.approx(auc(p_finish, has_ended), abs=4 * error)


def test_blurred_answers_are_calibrated_over_running_requests() -> None:
    """Among samples as a router finds them, as many end as p says, in each tenth of p.

    Samples of one request share their noise, so a bin's share varies as if by its requests: its
    standard error is at most 1/(2√n) with n the requests in it, of which a request of length D
    gives about D / 200 · 5 samples.
    """
    oracle = build("noisy_oracle:auc=0.8")
    for part in evaluate(oracle, WORKLOAD, 80).bins:
        num_requests = part.num_samples / 10
        assert part.mean_prob == pytest.approx(part.end_ratio, abs=2 / np.sqrt(num_requests))


@pytest.mark.parametrize("horizon", [1, 100, 3000])  # the last is longer than all outputs
def test_blurred_answers_fit_together(horizon: int) -> None:
    """S never rises, and ĉ is the sum of S over the horizon; also where `Survival` answers."""
    oracle = build("noisy_oracle:auc=0.9")
    rows, ages = snapshot(WORKLOAD, 200)
    asked = make_requests([*ages, 40_000, 5], ids=[*rows, 7, -1])
    survival = oracle.survival(asked, np.arange(horizon + 1))
    assert (survival[:, 0] == 1.0).all()
    assert (np.diff(survival, axis=1) <= 0).all()
    p_finish, means = oracle.p_finish(asked, horizon), oracle.mean_remaining(asked, horizon)
    steps = expected_steps(p_finish, means, horizon)
    np.testing.assert_allclose(survival[:, :-1].sum(axis=1), steps, rtol=1e-9)


def test_the_noise_of_a_request_stays() -> None:
    """The same seed gives the same answers, in whatever company a request is asked for."""
    first, second = build("noisy_oracle:auc=0.7"), build("noisy_oracle:auc=0.7")
    together = first.p_finish(make_requests([0, 0, 0], ids=[3, 4, 5]), 50)
    alone = second.p_finish(make_requests([0], ids=[4]), 50)
    assert together[1] == alone[0]
    assert together[1] != build("noisy_oracle:auc=0.7", seed=6).p_finish(
        make_requests([0], ids=[4]), 50
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("noisy_oracle", "give either error or auc, got error=None and auc=None"),
        ("noisy_oracle:error=0.1:auc=0.8", "give either error or auc"),
        ("noisy_oracle:error=-1", "error must be at least 0, got -1.0"),
        ("noisy_oracle:auc=1", "auc must be at least 0.5 and less than 1, got 1.0"),
        ("noisy_oracle:auc=0.4", "auc must be at least 0.5"),
    ],
)
def test_impossible_noise_is_refused(spec: str, message: str) -> None:
    """The setting and the values that are allowed are named."""
    with pytest.raises(ConfigError, match=message):
        build(spec)


def test_ids_outside_the_workload_are_refused() -> None:
    """An oracle that was given another workload's lengths says so."""
    with pytest.raises(ConfigError, match=r"ids must be in -1\.\.3999"):
        build("oracle").p_finish(make_requests([0], ids=[4000]), 5)
