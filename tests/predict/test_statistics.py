"""Classifiers against laws that they have to find, and a world that changes.

Tolerances are four standard errors. Seeds are fixed, so a test that passes once always passes.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from balanceroute.predict.survival import Survival
from tests.predict.lives import NO_FORGETTING, learn_whole, make_requests

NUM_STANDARD_ERRORS = 4


@pytest.mark.parametrize("age", [0, 5, 40, 150])
def test_a_geometric_length_has_no_memory(age: int) -> None:
    """With P(end) = 1/50 per token, 1 - 0.98^20 end within 20 steps at any age.

    The hazard that the answer rests on comes from the n ends at ages a to a + 20 or in the same
    buckets, so its relative error is at most 1/√n, and that of p is less.
    """
    outputs = np.random.default_rng(1).geometric(1 / 50, 20_000)
    classifier = Survival(by="global", memory=NO_FORGETTING)
    learn_whole(classifier, outputs)
    expected = 1 - 0.98**20
    num_ends = int(((outputs > age) & (outputs <= age + 20)).sum())
    actual = classifier.p_finish(make_requests([age]), 20)[0]
    assert expected == pytest.approx(actual, rel=NUM_STANDARD_ERRORS / np.sqrt(num_ends))


def test_a_mixture_is_told_apart_by_tenant_and_by_age() -> None:
    """Tenants with means 20 and 500: known tenants get their own law, others the mixture's.

    At age a an unknown request is of the short kind with odds (0.95 / 0.998)^a. Each of the laws
    rests on some 5,000 ends in all, and on no fewer than 100 within the 20 steps asked for.
    """
    rng = np.random.default_rng(2)
    classifier = Survival(memory=NO_FORGETTING)
    for tenant, mean in ((0, 20), (1, 500)):
        learn_whole(classifier, rng.geometric(1 / mean, 5000), clients=tenant)
    within = {mean: 1 - (1 - 1 / mean) ** 20 for mean in (20, 500)}
    tolerance = NUM_STANDARD_ERRORS / np.sqrt(100)
    short, long = classifier.p_finish(make_requests([10, 10], clients=[0, 1]), 20)
    assert within[20] == pytest.approx(short, rel=tolerance)
    assert within[500] == pytest.approx(long, rel=tolerance)
    ages = np.array([0, 40])
    odds = (0.95 / 0.998) ** ages
    expected = (odds * within[20] + within[500]) / (odds + 1)
    actual = classifier.p_finish(make_requests(ages, clients=-1), 20)
    np.testing.assert_allclose(actual, expected, rtol=tolerance)


def watched(
    rng: np.random.Generator, num_slots: int, window: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return ages, since and ends of what a stationary system shows in a window of steps.

    Outputs are uniform on 1..400. A slot starts with a request drawn in proportion to its length,
    at a uniform age, and is refilled at once.
    """
    ages, since, has_ended = [], [], []
    for _ in range(num_slots):
        first = round(400 * np.sqrt(rng.random()) + 0.5)
        age, output, left = int(rng.integers(first)), first, window
        while left > 0:
            seen = min(output - age, left)
            ages.append(age + seen)
            since.append(age)
            has_ended.append(age + seen == output)
            left -= seen
            age, output = 0, int(rng.integers(1, 401))
    return np.array(ages), np.array(since), np.array(has_ended)


def test_censored_snapshots_give_the_true_mean() -> None:
    """Watched for 60 steps only, lengths of mean 200.5 are found right, though few are seen whole.

    Twelve runs give the standard error. What the estimate assumes, a constant hazard within a
    bucket and four prior ends, is far below it at 400 slots. Requests seen from start to end are
    60 tokens long at most.
    """
    estimates = []
    for seed in range(12):
        ages, since, has_ended = watched(np.random.default_rng(seed), 400, 60)
        classifier = Survival(by="global", memory=NO_FORGETTING)
        classifier.learn(make_requests(ages), since, has_ended)
        assert (ages - since).max() <= 60
        survival = classifier.survival(make_requests([0]), np.arange(448))
        estimates.append(float(survival.sum()))
    error = np.std(estimates, ddof=1) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(200.5, abs=NUM_STANDARD_ERRORS * error)
    assert NUM_STANDARD_ERRORS * error < 20


def test_a_shift_is_followed_and_the_past_fades() -> None:
    """After five memories of long answers, e^-5 of the short ones is left.

    The short ones' ends then are e^-5 / (1 - e^-5) = 0.0068 of the 993 long ones'; p within 12
    steps is their share of both, give or take the four ends by which hazards are shrunk.
    """
    classifier, elephant = Survival(by="global", memory=1000), Survival(by="global")
    waiting = make_requests([0])
    for one in (classifier, elephant):
        for _ in range(200):
            learn_whole(one, [10] * 100)
        assert one.p_finish(waiting, 12)[0] > 0.99
        for _ in range(50):
            learn_whole(one, [100] * 100)
    ratio = np.exp(-5) / (1 - np.exp(-5))
    share = ratio / (1 + ratio)
    assert share == pytest.approx(classifier.p_finish(waiting, 12)[0], abs=4 / 1000)
    assert elephant.p_finish(waiting, 12)[0] > 0.7  # 20,000 short against 5,000 long


def test_fading_goes_on_for_ever() -> None:
    """Counts are scaled down before their weight overflows, which changes no answer."""
    classifier, fresh = (Survival(by="global", memory=2) for _ in range(2))
    for _ in range(40):
        learn_whole(classifier, [10] * 60)  # weight e^30 each time
    learn_whole(fresh, [10] * 60)
    asked, horizons = make_requests([0, 8]), np.array([1, 3, 12])
    actual, expected = (one.survival(asked, horizons) for one in (classifier, fresh))
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
