from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.afd.cycle import Bundle, mean_field_s
from balanceroute.afd.optimum import (
    Weights,
    best_integer,
    best_real,
    closed_rule,
    mean_field_best,
    mean_field_candidates,
    throughput,
)
from balanceroute.afd.profile import AttentionCost, FfnCost, NetworkCost
from balanceroute.afd.slots import geometric_theta
from tests.afd.workloads import bundle, profile

TIMES = st.floats(1e-7, 1e-2)
WEIGHTS = st.floats(0.1, 20.0)


@st.composite
def bundles(draw: st.DrawFn, *, carries: str | None = None) -> Bundle:
    """Draw bundles whose stages may bind at any r."""
    kind = carries or draw(st.sampled_from(["bundle", "worker"]))
    costs = profile(
        attention=AttentionCost(s_per_token=draw(st.floats(1e-9, 1e-5)), constant_s=draw(TIMES)),
        ffn=FfnCost(s_per_request=draw(TIMES), constant_s=draw(TIMES)),
        network=NetworkCost(
            s_per_request=draw(TIMES),
            constant_s=draw(TIMES),
            carries=kind,  # type: ignore[arg-type]
        ),
    )
    return bundle(draw(st.integers(1, 300)), profile=costs, num_ffn_workers=draw(st.integers(1, 3)))


@given(bundles(carries="worker"), WEIGHTS, WEIGHTS, st.floats(1.0, 1e5))
def test_geometric_lengths_give_the_rule_of_version_1(
    some: Bundle, attention: float, ffn: float, mean_tokens: float
) -> None:
    """With its network and its θ the largest of r_A, r_C and r_peak is the optimum, to 1e-9."""
    weights = Weights(attention=attention, ffn=ffn)
    theta = geometric_theta(mean_tokens, 100.0)
    rule = closed_rule(some, weights, theta)
    best = mean_field_best(some, weights, theta, 1e-6, 1e12)
    at_rule, at_best = (
        throughput(some, weights, r, mean_field_s(some, theta, r)) for r in (rule.best, best)
    )
    assert best == pytest.approx(rule.best, rel=1e-9) or at_rule == pytest.approx(at_best, rel=1e-9)
    assert at_rule == pytest.approx(at_best, rel=1e-9)


@given(bundles(), WEIGHTS, WEIGHTS, st.floats(1.0, 1e5))
def test_no_r_beats_the_candidates(
    some: Bundle, attention: float, ffn: float, theta: float
) -> None:
    """Crossings, stationary points and ends hold the optimum of every mean-field bundle."""
    weights = Weights(attention=attention, ffn=ffn)
    best = mean_field_best(some, weights, theta, 1, 200)
    top = throughput(some, weights, best, mean_field_s(some, theta, best))
    for r in np.geomspace(1, 200, 400):
        assert throughput(some, weights, r, mean_field_s(some, theta, r)) <= top * (1 + 1e-9)


@given(bundles(), WEIGHTS, WEIGHTS, st.floats(1.0, 1e5))
def test_mean_field_throughput_has_one_peak(
    some: Bundle, attention: float, ffn: float, theta: float
) -> None:
    """Its inverse (w_A + f·w_F/r)·τ is the largest of convex functions: golden section finds it."""
    weights = Weights(attention=attention, ffn=ffn)

    def cycle(r: float) -> float:
        return mean_field_s(some, theta, r)

    found = best_real(some, weights, cycle, 1, 200)
    best = mean_field_best(some, weights, theta, 1, 200)
    assert throughput(some, weights, found, cycle(found)) == pytest.approx(
        throughput(some, weights, best, cycle(best)), rel=1e-3
    )


def test_ffn_that_does_not_grow_wants_all_the_workers_there_are() -> None:
    """Nothing in FFN stops r from growing."""
    flat = bundle(profile=profile(ffn=FfnCost(s_per_request=0.0, constant_s=5e-3)))
    assert closed_rule(flat, Weights(), 10.0).best == math.inf
    costs = profile(ffn=FfnCost(s_per_request=0.0, constant_s=5e-3), network=NetworkCost())
    assert mean_field_best(bundle(profile=costs), Weights(), 10.0, 1, 64) == 64


def test_the_integer_is_the_best_of_the_choices_and_the_first_of_equals() -> None:
    """A cycle proportional to (r + 1)/r makes all r equal."""
    plain = bundle()
    equal = best_integer(plain, Weights(), lambda r: r / (r + 1), [3, 2, 5])
    assert equal == 2
    assert best_integer(plain, Weights(), lambda _: 1.0, [1, 4, 2]) == 4


def test_candidates_outside_the_range_are_left_out() -> None:
    """The ends are always there."""
    found = mean_field_candidates(bundle(), Weights(), 100.0, 5, 6)
    assert {"low": 5, "high": 6}.items() <= found.items()
    assert all(5 <= r <= 6 for r in found.values())
