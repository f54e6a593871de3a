"""`survival`: tables by hand, against a slow reference, and its promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.predict import Requests, expected_steps
from balanceroute.predict.survival import By, Survival
from tests.predict.lives import (
    NO_FORGETTING,
    PRIOR,
    counts_of,
    learn_whole,
    make_requests,
    shrunk,
    survival_by_token,
)

Seen = tuple[Requests, NDArray[np.int64], NDArray[np.bool_]]


@st.composite
def seen_requests(draw: st.DrawFn) -> Seen:
    """Return requests of few tenants and prompts, watched in part, with and without limits."""
    num_requests = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ages = rng.integers(1, draw(st.sampled_from([3, 30, 500])), num_requests)
    requests = make_requests(
        ages,
        prompts=rng.choice([0, 3, 100, 5000], num_requests),
        clients=rng.choice([-1, 0, 7], num_requests),
        limits=rng.choice([0, 5, 200], num_requests),
    )
    return requests, rng.integers(0, ages + 1), rng.random(num_requests) < 0.6


def class_probs(seen: Seen, prompt: int, client: int, limit: int) -> NDArray[np.float64]:
    """Return a class's probabilities of an end from scratch, as docs/predict.md has them."""
    requests, since, has_ended = seen

    def counts(is_in: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return counts_of(requests.select(is_in), since[is_in], has_ended[is_in])

    of_tenant = requests.client_ids == client
    of_shape = (requests.prompt_tokens == prompt) & (requests.max_tokens == limit)
    everything = shrunk(*counts(np.ones(len(since), np.bool_)), PRIOR, 4)
    shape = shrunk(*counts(of_shape), everything, 4)
    if client < 0:
        return shape
    ends, tokens = counts(of_tenant)
    tenant = shrunk(ends, tokens, everything, 4)
    blend = 16 / (16 + ends.sum())
    parent = np.minimum(tenant * (shape / everything) ** blend, 1 - 2.0**-20)
    return shrunk(*counts(of_tenant & of_shape), parent, 4)


@settings(max_examples=60)
@given(
    seen_requests(),
    st.sampled_from([0, 3, 100, 5000]),
    st.sampled_from([-1, 0, 7, 8]),
    st.sampled_from([0, 5, 200]),
    st.integers(0, 300),
)
def test_classes_equal_the_slow_reference(
    seen: Seen, prompt: int, client: int, limit: int, age: int
) -> None:
    """Counting token by token and shrinking with NumPy gives the same, seen classes or not."""
    classifier = Survival(memory=NO_FORGETTING)
    classifier.learn(*seen)
    asked = make_requests([age], prompts=prompt, clients=client, limits=limit)
    expected = survival_by_token(class_probs(seen, prompt, client, limit), age, limit, 60)
    actual = classifier.survival(asked, np.arange(61))[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-14)


def test_four_short_outputs_by_hand() -> None:
    """Four outputs of one token, against a prior of 1 / 257 for the first.

    Expected ends 4/257, so the overall factor is 8 / (4/257 + 4) = 257/129 and the first
    probability 1/129; then 4/129 are expected of the octave: 8 / (4/129 + 4) = 129/65, 1/65; then
    of the bucket: 8 / (4/65 + 4) = 65/33, 1/33 · ... each scale halves what is left to explain.
    """
    classifier = Survival(by="global", memory=NO_FORGETTING)
    learn_whole(classifier, [1, 1, 1, 1])
    expected = 1 / 257
    for factor in (257 / 129, 129 / 65, 65 / 33):
        expected *= factor
    p_finish = classifier.p_finish(make_requests([0]), 1)
    assert 1 / 33 == pytest.approx(expected)
    assert expected == pytest.approx(p_finish[0], rel=1e-12)


def test_nothing_learnt_answers_by_the_prior() -> None:
    """P(D > a + h | D > a) = (a + 256) / (a + h + 256) at the starts of buckets."""
    survival = Survival().survival(make_requests([0, 256]), np.array([0, 256, 768]))
    expected = [[1, 256 / 512, 256 / 1024], [1, 512 / 768, 512 / 1280]]
    np.testing.assert_allclose(survival, expected, rtol=1e-12)


@settings(max_examples=60)
@given(seen_requests(), seen_requests(), st.sampled_from(["class", "global"]), st.integers(1, 400))
def test_answers_are_probabilities_that_fit_together(
    seen: Seen, asked: Seen, by: By, horizon: int
) -> None:
    """S starts at 1 and never rises; p = 1 - S(H); μ in [1, H]; ĉ = Σ S(h) over h < H."""
    classifier = Survival(by=by)
    classifier.learn(*seen)
    requests = asked[0]
    survival = classifier.survival(requests, np.arange(horizon + 1))
    p_finish = classifier.p_finish(requests, horizon)
    means = classifier.mean_remaining(requests, horizon)
    assert (survival[:, 0] == 1.0).all()
    assert ((survival >= 0) & (np.diff(survival, axis=1, prepend=1.0) <= 0)).all()
    np.testing.assert_allclose(1 - survival[:, -1], p_finish, rtol=0, atol=1e-15)
    assert ((means >= 1) & (means <= horizon)).all()
    steps = expected_steps(p_finish, means, horizon)
    np.testing.assert_allclose(survival[:, :-1].sum(axis=1), steps, rtol=1e-9)


@given(seen_requests(), st.data())
def test_pieces_add_up_to_the_whole(seen: Seen, data: st.DataObject) -> None:
    """Watching from s to t and from t to the end counts as watching from s to the end."""
    requests, since, has_ended = seen
    cut = np.array(
        [
            data.draw(st.integers(*span))
            for span in zip(since, requests.generated_tokens, strict=True)
        ]
    )
    cut = cut.astype(np.int64)
    whole, pieces = (Survival(memory=NO_FORGETTING) for _ in range(2))
    whole.learn(*seen)
    first = replace(requests, generated_tokens=cut)
    pieces.learn(first, since, np.zeros(len(since), np.bool_))
    pieces.learn(requests, cut, has_ended)
    horizons = np.array([1, 10, 100])
    expected, actual = (one.survival(requests, horizons) for one in (whole, pieces))
    np.testing.assert_array_equal(expected, actual)


def test_a_limit_ends_a_request() -> None:
    """At age 7 of 10 there are two tokens to survive; one that has outlived its limit ends next."""
    classifier = Survival()
    asked = make_requests([7, 12], limits=10)
    survival = classifier.survival(asked, np.array([0, 2, 3, 80]))
    assert [[0, 0], [0, 0]] == survival[:, 2:].tolist()
    assert [1, 0] == survival[1, :2].tolist()
    assert survival[0, 1] > 0.98  # the prior: 263 / 265
    assert [1, 1] == classifier.p_finish(asked, 3).tolist()
    assert 1 == classifier.mean_remaining(asked, 80)[1]


def test_what_a_limit_cut_off_is_no_end() -> None:
    """A hundred answers cut off at 50 tokens say that no answer ends within 49, and no more."""
    by_limit, none = (Survival(by="global", memory=NO_FORGETTING) for _ in range(2))
    learn_whole(by_limit, [50] * 100, limits=50)
    none.learn(make_requests([49] * 100), np.zeros(100, np.int64), np.zeros(100, np.bool_))
    unlimited, horizons = make_requests([0, 49]), np.arange(100)
    expected, actual = (one.survival(unlimited, horizons) for one in (none, by_limit))
    np.testing.assert_array_equal(expected, actual)
    assert actual[0, 49] > 0.96


def test_classes_are_kept_apart_and_new_ones_borrow() -> None:
    """Two tenants with short and long answers, and a prompt length that makes both short."""
    classifier = Survival()
    for _ in range(5):
        learn_whole(classifier, [12] * 40, clients=0, prompts=100)
        learn_whole(classifier, [900] * 40, clients=1, prompts=100)
        learn_whole(classifier, [12] * 40, clients=1, prompts=3000)
    asked = make_requests([0] * 5, clients=[0, 1, 1, 2, 2], prompts=[100, 100, 3000, 100, 3000])
    short, long, long_prompt, unknown, unknown_prompt = classifier.p_finish(asked, 40)
    assert short > 0.99
    assert long < 0.05
    assert long_prompt > 0.95
    assert 0.4 < unknown < 0.6  # half of the answers to such a prompt
    assert unknown_prompt > 0.95


def test_no_more_classes_than_allowed() -> None:
    """The classes that were seen last are kept, and what the others taught all stays."""
    classifier = Survival(max_classes=12)
    for client in range(40):
        learn_whole(classifier, [12] * 20, clients=client)
    assert classifier._tables.num_classes <= 12
    learn_whole(classifier, [500] * 40, clients=40)
    asked = make_requests([0, 0], clients=[40, 3])
    latest, forgotten = classifier.p_finish(asked, 100)
    assert latest < 0.1
    assert forgotten > 0.9


@pytest.mark.parametrize(
    ("columns", "since", "has_ended", "message"),
    [
        ({"ages": [3, -1]}, 0, False, "request 1: prompt_tokens, generated_tokens and max_tokens"),
        ({"ages": [3], "prompts": -5}, 0, False, "must be at least 0, got -5, 3 and 0"),
        ({"ages": [3], "limits": -2}, 0, False, "must be at least 0, got 100, 3 and -2"),
        ({"ages": [3]}, 4, False, "got 4 and 3"),
        ({"ages": [3]}, -1, False, "got -1 and 3"),
        ({"ages": [0]}, 0, True, "a request that has ended has at least one token"),
    ],
)
def test_impossible_observations_are_refused(
    columns: dict[str, list[int]], since: int, has_ended: bool, message: str
) -> None:
    """What was wrong, and the values got; nothing is learnt of the call."""
    classifier = Survival()
    requests = make_requests(**columns)
    shape = len(requests)
    with pytest.raises(ConfigError, match=message):
        classifier.learn(requests, np.full(shape, since), np.full(shape, has_ended))
    np.testing.assert_array_equal(
        Survival().p_finish(make_requests([5]), 9), classifier.p_finish(make_requests([5]), 9)
    )


def test_columns_of_unequal_length_are_refused() -> None:
    """The three lengths are named."""
    with pytest.raises(ConfigError, match="got 2 requests, 1 values of since_tokens and 2 of"):
        Survival().learn(make_requests([1, 2]), np.zeros(1, np.int64), np.zeros(2, np.bool_))


@pytest.mark.parametrize(
    ("horizon", "message"),
    [
        (0, "horizon must be at least 1 step, got 0"),
        (-3, "horizon must be at least 1 step, got -3"),
        (10**9 + 1, "horizon must be at most 1,000,000,000 steps, got 1,000,000,001"),
        (10**30, "horizon must be at most 1,000,000,000 steps, got 1,000,"),
    ],
)
def test_a_horizon_is_at_least_a_step(horizon: int, message: str) -> None:
    """Nothing ends within no time, there is no mean of it, and no output is longer than that."""
    for ask in (Survival().p_finish, Survival().mean_remaining):
        with pytest.raises(ConfigError, match=message):
            ask(make_requests([5]), horizon)


def test_nobody_asked_is_no_answer() -> None:
    """No requests, or no horizons, give empty arrays."""
    classifier = Survival()
    assert (0, 3) == classifier.survival(make_requests([]), np.array([1, 2, 3])).shape
    assert (2, 0) == classifier.survival(make_requests([1, 2]), np.array([], np.int64)).shape
    assert (0,) == classifier.mean_remaining(make_requests([]), 5).shape
