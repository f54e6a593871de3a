"""`Checked`: impossible answers never reach a plan."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from balanceroute.kernels.hazard import mark_implausible
from balanceroute.predict import Checked, Requests
from balanceroute.predict.survival import Survival
from tests.predict.lives import learn_whole, make_requests

NAN = float("nan")


class Says:
    """A classifier that answers what it was given."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def survival(self, requests: Requests, horizons: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.answer  # type: ignore[return-value]

    def p_finish(self, requests: Requests, horizon: int) -> NDArray[np.float64]:
        return self.answer  # type: ignore[return-value]

    def mean_remaining(self, requests: Requests, horizon: int) -> NDArray[np.float64]:
        return self.answer  # type: ignore[return-value]

    def learn(
        self, requests: Requests, since_tokens: NDArray[np.int64], has_ended: NDArray[np.bool_]
    ) -> None:
        """Learn nothing."""


def fallback() -> Survival:
    classifier = Survival()
    learn_whole(classifier, [12] * 50)
    return classifier


@pytest.mark.parametrize(
    ("answer", "is_replaced"),
    [
        (np.array([0.0, 1.0, 0.5]), [False, False, False]),
        ([0, 1, 0], [False, False, False]),  # numbers of another type are taken
        (np.array([NAN, 1.0, 0.5]), [True, False, False]),
        (np.array([-1e-9, 1.0 + 1e-9, np.inf]), [True, True, True]),
        (np.array([0.5, 0.5]), [True, True, True]),  # two answers for three requests
        (np.full((3, 1), 0.5), [True, True, True]),
        (None, [True, True, True]),
    ],
)
def test_impossible_probabilities_are_replaced(answer: object, is_replaced: list[bool]) -> None:
    """Row by row, unless the shape is wrong."""
    checked = Checked(Says(answer), fallback())
    asked = make_requests([0, 5, 11])
    actual = checked.p_finish(asked, 8)
    expected = fallback().p_finish(asked, 8)
    for row, is_other in enumerate(is_replaced):
        if is_other:
            assert expected[row] == actual[row]
        else:
            assert np.asarray(answer)[row] == actual[row]
    assert sum(is_replaced) == checked.num_replaced


def test_a_survival_that_rises_is_replaced() -> None:
    """Horizons may come in any order; rows that fall with the horizon stay."""
    answer = np.array([[0.2, 0.9, 0.5], [0.9, 0.2, 0.5], [0.1, 0.9, NAN]])
    checked = Checked(Says(answer), fallback())
    asked, horizons = make_requests([0, 5, 11]), np.array([30, 1, 4])
    actual = checked.survival(asked, horizons)
    assert [0.2, 0.9, 0.5] == actual[0].tolist()
    np.testing.assert_array_equal(fallback().survival(asked, horizons)[1:], actual[1:])
    assert 2 == checked.num_replaced


@given(
    st.lists(st.sampled_from([0.0, 0.3, 0.6, 1.0, NAN, -0.1, 1.1]), min_size=12, max_size=12),
    st.lists(st.integers(0, 5), min_size=4, max_size=4),
)
def test_marks_are_those_of_the_definition(values: list[float], horizons: list[int]) -> None:
    """A NaN, a value out of [0, 1], or one above that of a shorter horizon."""
    answers, order, marks = np.array(values).reshape(3, 4), np.array(horizons), np.empty(3, bool)
    is_shorter = order[:, None] < order
    expected = [
        not (((row >= 0) & (row <= 1)).all() and (row[:, None] >= row)[is_shorter].all())
        for row in answers
    ]
    assert sum(expected) == mark_implausible(answers, order, 0.0, 1.0, marks)
    assert expected == marks.tolist()


@pytest.mark.parametrize("mean", [0.99, 8.01, NAN])
def test_a_mean_outside_the_horizon_is_replaced(mean: float) -> None:
    """μ lies in [1, H]."""
    checked = Checked(Says(np.array([mean, 1.0, 8.0])), fallback())
    asked = make_requests([0, 5, 11])
    actual = checked.mean_remaining(asked, 8)
    assert [fallback().mean_remaining(asked, 8)[0], 1.0, 8.0] == actual.tolist()


def test_one_warning_is_logged_and_the_count_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """The first case says what was wrong, of which classifier and for how many requests."""
    checked = Checked(Says(np.array([NAN, 0.5, NAN])))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            checked.p_finish(make_requests([0, 5, 11]), 8)
    assert 6 == checked.num_replaced
    assert 1 == len(caplog.records)
    assert "p_finish of the classifier Says gave 2 of 3 requests" in caplog.messages[0]


def test_nothing_is_logged_where_nothing_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    """A sound classifier's answers pass unchanged, and both it and the fallback learn."""
    inner, spare = Survival(), Survival()
    checked = Checked(inner, spare)
    learn_whole(checked, [12] * 50)
    asked, horizons = make_requests([0, 5, 11]), np.array([1, 2, 8])
    expected = fallback().survival(asked, horizons)
    for classifier in (checked, inner, spare):
        np.testing.assert_array_equal(expected, classifier.survival(asked, horizons))
    assert [] == caplog.records
    assert 0 == checked.num_replaced
