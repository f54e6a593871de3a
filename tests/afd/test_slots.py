from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.afd.slots import geometric_theta, slot_load, slot_moments, slot_probs
from balanceroute.errors import TraceError
from tests.afd.workloads import drawn, requests

LENGTHS = st.lists(st.tuples(st.integers(1, 500), st.integers(1, 60)), min_size=2, max_size=30)


@given(LENGTHS)
def test_moments_are_those_of_every_step_of_every_request(pairs: list[tuple[int, int]]) -> None:
    """A slot's load in the long run is that of a step drawn uniformly from all steps."""
    every = np.array([p + age for p, d in pairs for age in range(d)], np.float64)
    prompts, outputs = (np.array(column, np.int32) for column in zip(*pairs, strict=True))
    theta, variance = slot_moments(prompts, outputs)
    assert theta == pytest.approx(every.mean(), rel=1e-12)
    assert variance == pytest.approx(every.var(), rel=1e-9, abs=1e-9)


@given(LENGTHS)
def test_the_distribution_has_these_moments(pairs: list[tuple[int, int]]) -> None:
    """Its mean is θ and its variance ν², whatever the dependence of prompts and outputs."""
    prompts, outputs = (np.array(column, np.int32) for column in zip(*pairs, strict=True))
    least, probs = slot_probs(prompts, outputs)
    theta, variance = slot_moments(prompts, outputs)
    loads = least + np.arange(len(probs))
    assert float(probs.sum()) == pytest.approx(1.0)
    assert float(probs @ loads) == pytest.approx(theta, rel=1e-12)
    assert float(probs @ (loads - theta) ** 2) == pytest.approx(variance, rel=1e-9, abs=1e-9)


def test_long_outputs_count_for_as_long_as_they_run() -> None:
    """One request of 1 token and one of 99: the slot holds the second 99 times in 100."""
    theta, _ = slot_moments(np.array([1000, 0], np.int32), np.array([1, 99], np.int32))
    assert theta == pytest.approx((1000 + 99 * 49) / 100)


def test_geometric_outputs_give_the_load_of_version_1() -> None:
    """θ = μ_P + E[D] − 1 to 1e-9, with the moments of the distribution itself."""
    p = 1 / 50
    steps = np.arange(1, 4000)
    weight = p * (1 - p) ** (steps - 1)
    weight /= weight.sum()
    mean = float(weight @ steps)
    theta = (mean * 300 + float(weight @ (steps * (steps - 1) / 2))) / mean
    assert theta == pytest.approx(geometric_theta(300.0, mean), rel=1e-9)


def test_equal_requests_of_one_token_have_no_spread() -> None:
    """ν is 0 exactly, however large the prompts."""
    slot = slot_load(requests([123_457] * 3, [1] * 3))
    assert (slot.theta_tokens.value, slot.nu_tokens.value) == (123_457.0, 0.0)


@pytest.mark.slow
def test_intervals_cover_what_they_are_of() -> None:
    """In 400 traces of 2,000 requests θ and ν are covered 95 times in 100, give or take 3.5.

    Binomial: 3 standard deviations of 400 trials at 0.95 are 3.3 points; ν² is a ratio with a
    heavier tail, whose interval may be short by a point or two.
    """
    truth = slot_load(drawn(seed=9999, num_requests=2_000_000))
    covered = np.zeros(2)
    for seed in range(400):
        slot = slot_load(drawn(seed=seed, num_requests=2000))
        for place, name in enumerate(("theta_tokens", "nu_tokens")):
            estimate, true = getattr(slot, name), getattr(truth, name).value
            covered[place] += estimate.low <= true <= estimate.high
    assert (covered / 400 > 0.915).all()
    assert (covered / 400 < 0.985).all()


def test_a_trace_that_drifts_is_less_sure() -> None:
    """Sorted by length its blocks differ, and the interval says so."""
    workload = drawn()
    order = np.argsort(workload.prompt_tokens, kind="stable")
    mixed, sorted_ = slot_load(workload), slot_load(workload.select(order))
    assert mixed.theta_tokens.value == pytest.approx(sorted_.theta_tokens.value)
    widths = [each.theta_tokens.high - each.theta_tokens.low for each in (mixed, sorted_)]
    assert widths[1] > 3 * widths[0]


def test_one_request_tells_no_spread() -> None:
    """It is refused, and the message says how many it takes."""
    with pytest.raises(TraceError, match=r"has 1 request, .*at least 2"):
        slot_load(requests([10], [5]))
