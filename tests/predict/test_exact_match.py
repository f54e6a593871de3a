"""`exact_match`: prompts with a law of their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.errors import ConfigError
from balanceroute.predict.exact_match import ExactMatch
from balanceroute.predict.survival import Survival
from tests.predict.lives import (
    NO_FORGETTING,
    PRIOR,
    counts_of,
    learn_whole,
    make_requests,
    shrunk,
    survival_by_token,
)


def test_an_unknown_prompt_goes_by_its_class() -> None:
    """Without a hash, or with one never seen, the answers are those of `survival`."""
    rng = np.random.default_rng(0)
    outputs, prompts = rng.integers(1, 500, 300), rng.integers(1, 5000, 300)
    exact, survival = ExactMatch(), Survival()
    for classifier in (exact, survival):
        learn_whole(classifier, outputs, prompts=prompts, hashes=rng.integers(1, 9, 300))
    asked = make_requests([0, 5, 90], prompts=[10, 100, 1000], hashes=[0, 77, 78])
    horizons = np.array([1, 20, 300])
    np.testing.assert_array_equal(
        survival.survival(asked, horizons), exact.survival(asked, horizons)
    )


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.lists(st.integers(1, 60)))
def test_a_prompt_leans_on_its_class_by_two_ends(own: list[int], others: list[int]) -> None:
    """Two levels of the slow reference: everything, the shape, then the prompt with k = 2."""
    classifier = ExactMatch(memory=NO_FORGETTING)
    learn_whole(classifier, own, hashes=5)
    learn_whole(classifier, others, hashes=6)

    def counts(outputs: list[int]) -> tuple[np.ndarray, np.ndarray]:
        count = len(outputs)
        since = np.zeros(count, np.int64)
        return counts_of(make_requests(outputs), since, np.ones(count, np.bool_))

    everything = shrunk(*counts(own + others), PRIOR, 4)
    probs = shrunk(*counts(own), shrunk(*counts(own + others), everything, 4), 2)
    actual = classifier.survival(make_requests([0], hashes=5), np.arange(81))[0]
    np.testing.assert_allclose(actual, survival_by_token(probs, 0, 0, 80), rtol=1e-9)


def test_siblings_that_still_run_are_heard() -> None:
    """Seven of eight answers past 400 tokens: the eighth is not expected to end soon."""
    classifier = ExactMatch()
    learn_whole(classifier, [100] * 50, hashes=np.arange(2, 52))
    asked = make_requests([50], hashes=1)
    before = classifier.p_finish(asked, 100)[0]
    running = make_requests([400] * 7, hashes=1)
    classifier.learn(running, np.zeros(7, np.int64), np.zeros(7, np.bool_))
    assert before > 0.9
    assert classifier.p_finish(asked, 100)[0] < 0.5


def test_the_prompts_seen_last_are_kept() -> None:
    """With room for some eighty prompts, 500 pass; an early one that was seen again is known."""
    classifier = ExactMatch(max_prompts=80, max_classes=4)
    learn_whole(classifier, [900] * 20, hashes=1)
    for prompt in range(2, 500):
        learn_whole(classifier, [12] * 2, hashes=prompt)
        if prompt % 20 == 0:
            classifier.p_finish(make_requests([3], hashes=1), 1)  # asking is seeing
    assert classifier._tables.num_classes <= 84
    known, forgotten = classifier.p_finish(make_requests([0, 0], hashes=[1, 2]), 20)
    assert known < 0.2
    assert forgotten > 0.9


def test_one_hash_in_two_classes_counts_for_each_class() -> None:
    """The prompt's row leans on the class that it was first seen in; both classes learn."""
    classifier = ExactMatch(memory=NO_FORGETTING, max_classes=1, max_prompts=9)
    for client in (0, 1, 0, 1, 2, 3):
        learn_whole(classifier, [12] * 30, hashes=9, clients=client)
    assert classifier.p_finish(make_requests([0], hashes=9, clients=1), 14)[0] > 0.9


@pytest.mark.parametrize("name", ["max_prompts", "max_classes", "memory"])
def test_limits_are_at_least_one(name: str) -> None:
    """The setting is named with the value got."""
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        ExactMatch(**{name: 0})
