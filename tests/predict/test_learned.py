"""`learned`: what the trees find, when they are fitted, and life without scikit-learn."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from balanceroute.errors import MissingExtraError
from balanceroute.predict import boosting, load, save
from balanceroute.predict.cells import Pace
from balanceroute.predict.learned import Learned
from balanceroute.predict.survival import Survival
from tests.predict.lives import learn_whole, make_requests

needs_extra = pytest.mark.skipif(not boosting.is_installed(), reason="the extra learned is missing")
HORIZONS = np.array([1, 20, 300])


def teach(classifier: Learned | Survival, num_requests: int, seed: int = 0) -> None:
    """Teach answers a tenth as long as their prompts; tenant 1 has ever the same, 400."""
    rng = np.random.default_rng(seed)
    for _ in range(num_requests // 100):
        prompts, clients = rng.integers(100, 8000, 100), rng.integers(0, 2, 100)
        means = np.where(clients == 1, 400, prompts / 10)
        outputs = np.maximum(rng.normal(means, means / 10), 1).astype(np.int64)
        learn_whole(classifier, outputs, prompts=prompts, clients=clients)


@pytest.fixture(scope="module")
def fitted() -> Learned:
    classifier = Learned(refit_requests=2000)
    teach(classifier, 4000)
    return classifier


def test_before_the_first_fit_survival_answers() -> None:
    """The same answers, byte for byte; nothing is imported for them."""
    learned, survival = Learned(), Survival()
    for classifier in (learned, survival):
        teach(classifier, 900)
    asked = make_requests([0, 30, 900], prompts=[200, 1000, 5000], clients=[0, 1, -1])
    np.testing.assert_array_equal(
        survival.survival(asked, HORIZONS), learned.survival(asked, HORIZONS)
    )
    np.testing.assert_array_equal(
        survival.mean_remaining(asked, 80), learned.mean_remaining(asked, 80)
    )


@needs_extra
def test_the_trees_find_what_lengths_depend_on(fitted: Learned) -> None:
    """Answers of mean m ± 10 % mostly lie within 0.7 m and 1.3 m, three deviations away."""
    prompts = np.array([1000, 4000, 1000, 4000])
    asked = make_requests([0] * 4, prompts=prompts, clients=[0, 0, 1, 1])
    for horizon, expected in ((70, 0), (130, 1)):
        assert expected == pytest.approx(fitted.p_finish(asked, horizon)[0], abs=0.1)
    assert (fitted.p_finish(asked, 280)[1:] < 0.1).all()
    assert (fitted.p_finish(asked, 520)[1:] > 0.9).all()


@needs_extra
def test_cells_that_were_not_seen_go_by_survival(fitted: Learned) -> None:
    """A tenant and a prompt length from outside, among others that are known."""
    survival = Survival()
    teach(survival, 4000)
    asked = make_requests([5, 5, 5], prompts=[1000, 1000, 60_000], clients=[0, 9, 0])
    expected, actual = (one.survival(asked, HORIZONS) for one in (survival, fitted))
    np.testing.assert_array_equal(expected[1:], actual[1:])
    assert (expected[0] != actual[0]).any()
    expected, actual = (one.mean_remaining(asked, 80) for one in (survival, fitted))
    np.testing.assert_array_equal(expected[1:], actual[1:])


@needs_extra
def test_fits_come_when_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first after 1,000 ended requests, then every 2,000."""
    classifier = Learned(refit_requests=2000)
    fits = []
    refit = classifier.refit

    def counted() -> None:
        fits.append(number)
        refit()

    monkeypatch.setattr(classifier, "refit", counted)
    for number in range(100, 6000, 100):
        teach(classifier, 100, seed=number)
    assert [1000, 3000, 5000] == fits


@needs_extra
def test_answers_are_probabilities(fitted: Learned) -> None:
    """In [0, 1] and never rising, also beyond all lengths and limits that were seen."""
    rng = np.random.default_rng(3)
    asked = make_requests(
        rng.integers(0, 5000, 200),
        prompts=rng.integers(0, 9000, 200),
        clients=rng.integers(-1, 3, 200),
        limits=rng.choice([0, 50, 1000], 200),
    )
    survival = fitted.survival(asked, np.arange(0, 3000, 50))
    assert (survival[:, 0] == 1.0).all()
    assert ((survival >= 0) & (np.diff(survival, axis=1, prepend=1.0) <= 0)).all()


@needs_extra
def test_a_loaded_model_is_the_one_that_was_saved(tmp_path: Path) -> None:
    """The trees are kept as the tables that they give, at every pace; learning goes on alike."""
    saved = Learned(refit_requests=2000)
    teach(saved, 1500)
    save(saved, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert isinstance(loaded, Learned)
    asked = make_requests(
        np.arange(0, 900, 9), prompts=np.arange(100, 9000, 89), clients=np.arange(100) % 3
    )
    for _ in range(3):
        expected, actual = (one.survival(asked, HORIZONS) for one in (saved, loaded))
        np.testing.assert_array_equal(expected, actual)
        for one in (saved, loaded):
            learn_whole(one, [5] * 900, prompts=500, clients=0)  # a faster pace, then a fit


def test_without_scikit_learn_a_first_fit_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The extra is named."""
    monkeypatch.setattr(boosting, "is_installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'balanceroute\[learned\]'"):
        teach(Learned(), 1000)


@needs_extra
def test_without_scikit_learn_a_loaded_model_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers, learns no more, and one warning says why."""
    classifier = Learned(refit_requests=500)
    teach(classifier, 500)
    save(classifier, tmp_path / "model")
    monkeypatch.setattr(boosting, "is_installed", lambda: False)
    loaded = load(tmp_path / "model")
    asked = make_requests([0, 0], prompts=[1000, 4000], clients=[0, 1])
    before = loaded.survival(asked, HORIZONS)
    with caplog.at_level(logging.WARNING):
        for seed in range(1, 4):
            teach(loaded, 500, seed=seed)  # type: ignore[arg-type]
    np.testing.assert_array_equal(before, loaded.survival(asked, HORIZONS))
    assert ["the learned classifier stays as it was loaded"] == [
        message.partition(",")[0] for message in caplog.messages
    ]


def test_the_pace_is_that_of_the_last_hundred_ends() -> None:
    """10 tokens an end is usual; 100 ends at 7 tokens are fast, 100 at 14 slow.

    The last hundred weigh 1 - 1/e = 0.63 of what is recent, and 20 usual ends are added: tokens
    an end come to 10 - 0.63 · 100 / 120 · 3 = 8.4, and 12.1, beyond the band of 10 %.
    """
    levels = []
    for tokens in (1000, 700, 1400):
        pace = Pace(10**6)
        for _ in range(50):
            pace.see(100, 1000)
        pace.see(100, tokens)
        levels.append(pace.level)
    assert [1, 2, 0] == levels
    assert 1 == Pace(10).level
