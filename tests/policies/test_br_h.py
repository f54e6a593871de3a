"""BR-H: BR-0 without a horizon, what it sees ahead, and how it tunes itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.kernels.ledger import ENDED, FREE, REQUEST_EVENT
from balanceroute.policies import Plan, check_policy, make_policy
from balanceroute.policies.base import Binding
from balanceroute.policies.classic import LeastTokens
from balanceroute.policies.look_ahead import RefillPace, tuned
from balanceroute.policies.outlook import (
    HardOutlook,
    SoftOutlook,
    discounts_of,
    horizon_points,
    quadrature,
)
from balanceroute.predict.oracle import Oracle
from balanceroute.predict.survival import Survival
from tests.policies.test_br_0 import groups
from tests.policies.views import build, make_pool, make_view, placements
from tests.sim.runs import make_workload, run

PROJECTIONS = ("soft", "hard")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(groups(least_ranks=1), min_size=1, max_size=4),
    st.integers(1, 8),
    st.integers(0, 12),
    st.integers(1, 14),
    st.sampled_from(PROJECTIONS),
)
def test_without_a_horizon_it_is_br_0(
    plans: Sequence[tuple[GroupView, list[int]]],
    r_max: int,
    s_greedy: int,
    window: int,
    projection: str,
) -> None:
    """H = 0, α = 1, β = G: the same requests go to the same ranks in the same order, plan by plan.

    The views show no requests in flight, so nothing is predicted either.
    """
    text = f"r_max={r_max},s_greedy={s_greedy},window={window}"
    br_0, br_h = build(f"br_0,{text}"), build(f"br_h,horizon=0,projection={projection},{text}")
    for view, prompts in plans:
        assert placements(br_0, view, prompts) == placements(br_h, view, prompts)


@settings(deadline=None)
@given(groups(least_ranks=1))
def test_without_a_horizon_immediate_binding_is_least_tokens(
    group: tuple[GroupView, list[int]],
) -> None:
    """F ties on the ranks that a request fits, and the tie goes to the lowest load."""
    view, prompts = replace(group[0], is_immediate=True), group[1]
    expected = placements(build("least_tokens"), view, prompts)
    assert expected == placements(build("br_h,horizon=0"), view, prompts)


SPECS = (
    "br_h,projection=hard",
    "br_h,gamma=auto",
    "br_h,gamma=auto,projection=hard,horizon=20",
    "br_h,gamma=1,horizon=3,r_max=8",
    "br_h,gamma=1,horizon=256,projection=hard,r_max=12,s_greedy=0",
    "br_h,horizon=0",
    "br_h,beta=0",
    "br_h,classifier=exact_match",
)


@pytest.mark.parametrize("spec", SPECS)
def test_the_contract_is_kept_with_other_settings(spec: str) -> None:
    """The defaults are checked with all other policies."""
    check_policy(spec)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_one_rank_is_first_come_first_served(projection: str) -> None:
    """There is nothing to balance."""
    view = make_view(load=[50], slots=3)
    policy = build(f"br_h,horizon=0,projection={projection}")
    assert [(0, 0), (1, 0), (2, 0)] == placements(policy, view, [30, 10, 20, 5])


def test_a_horizon_needs_requests_to_be_followed() -> None:
    """A view without entries is refused and not taken for an empty group."""
    for projection in PROJECTIONS:
        policy = build(f"br_h,projection={projection}")
        with pytest.raises(ConfigError, match="this view shows no requests"):
            policy.plan(make_view(load=[5, 5]), make_pool([1]))


class Probe:
    """Places as `least_tokens` does, and compares the hard projection with what will be."""

    binding: ClassVar[Binding] = "pooled"
    follows_requests: ClassVar[bool] = True

    def __init__(self, output_tokens: Sequence[int], horizon: int) -> None:
        self._output_tokens = np.array(output_tokens)
        self._horizon = horizon
        self._outlook = HardOutlook(Oracle(output_tokens=self._output_tokens))
        self._outlook.look_ahead(horizon, 0.5)
        self.num_compared = 0

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Whoever is far from its end counts to the horizon, also a quarter of it later."""
        self._outlook.update(view)
        num_exact = self._horizon - self._horizon // 4
        expected = self._truth(view)[:, :num_exact].tolist()
        assert expected == self._outlook.loads(view)[:, :num_exact].tolist()
        self.num_compared += 1
        return LeastTokens().plan(view, pool)

    def _truth(self, view: GroupView) -> np.ndarray[Any, Any]:
        assert view.entries is not None
        handles = np.flatnonzero(view.entries["state"] != FREE)
        entries, ages = view.entries[handles], view.ages_tokens(handles)
        loads = np.zeros((view.num_ranks, self._horizon))
        for entry, age in zip(entries, ages.tolist(), strict=True):
            left = self._output_tokens[entry["request"]] - age
            for h in range(min(left, self._horizon)):
                loads[entry["rank"], h] += entry["prompt_tokens"] + age + h
        return loads


@pytest.mark.parametrize("horizon", [1, 5, 16, 40])
def test_the_hard_projection_comes_true_if_ends_are_known(horizon: int) -> None:
    """Step by step through a run, what an oracle says is what the ranks will hold."""
    rng = np.random.default_rng(3)
    prompts, outputs = rng.integers(1, 500, 80), rng.integers(1, 60, 80)
    probe = Probe(outputs.tolist(), horizon)
    run(
        make_workload(prompts, outputs),
        probe,
        num_ranks=3,
        num_slots=4,
        arrivals="saturated",
        pool_size=10,
        start="empty",
        warmup_steps=0,
    )
    assert probe.num_compared > 40


def test_gains_of_the_soft_projection() -> None:
    """A prompt of 100 that ends after 3 tokens holds 100, 101, 102 and then nothing."""
    outlook = SoftOutlook(Oracle(output_tokens=np.array([3])))
    outlook.look_ahead(4, 0.5)
    gains = outlook.gains(make_pool([100]))
    assert gains is not None
    assert [[100.0, 101.0, 102.0, 0.0, 0.0]] == gains.tolist()
    assert [1.0, 0.5, 0.25, 0.125, 0.0625] == outlook.discounts().tolist()


@pytest.mark.parametrize("horizon", [*range(20), 72, 80, 255, 256])
@pytest.mark.parametrize("gamma", [0.3, 0.86, 1.0])
def test_the_quadrature_is_exact_for_lines_and_for_short_horizons(
    horizon: int, gamma: float
) -> None:
    """At most nine points stand for the published sum over 0..H."""
    points, steps = horizon_points(horizon), np.arange(horizon + 1)
    weights, discounts = quadrature(points, horizon, gamma), discounts_of(horizon, gamma)
    assert len(points) <= 9
    assert points[-1] >= horizon
    assert weights @ (7.0 - 3.0 * points) == pytest.approx(discounts @ (7.0 - 3.0 * steps))
    if horizon <= 8:
        assert (discounts.tolist(), steps.tolist()) == (weights.tolist(), points.tolist())


def test_tuning_by_the_rate_of_refills() -> None:
    """γ = exp(-ρ) and H = ceil(2.5 / ρ), up to 256 steps."""
    assert [(1, 0.05), (2, 0.14), (13, 0.82), (256, 1.0)] == [
        (horizon, round(gamma, 2)) for horizon, gamma in map(tuned, (3.0, 2.0, 0.2, 0.004))
    ]


def paced_view(clock: int, num_ends: int) -> GroupView:
    events = np.zeros(num_ends, REQUEST_EVENT)
    events["kind"] = ENDED
    view = make_view(load=[1, 1])
    return view.with_requests(np.zeros(0), np.array([clock, clock]), events)


def test_refills_are_counted_per_step_of_a_rank() -> None:
    """Nothing is settled before 32 ends, nor anew before the rate has moved by a quarter."""
    pace = RefillPace()
    pace.see(paced_view(100, 9))  # when the count begins is not known
    pace.see(paced_view(120, 31))
    assert not pace.has_moved()
    pace.see(paced_view(140, 9))
    assert pace.has_moved()
    assert 0.5 == pace.settle()  # 40 ends in 80 steps
    pace.see(paced_view(150, 19))  # 0.59
    assert not pace.has_moved()
    pace.see(paced_view(160, 20))  # 79 ends in 120 steps: 0.66
    assert pace.has_moved()


def test_a_self_tuned_horizon_is_short_where_refills_are_frequent() -> None:
    """Outputs of 5 tokens on 4 slots refill a rank 0.8 times a step: H = 4."""
    policy = build("br_h,gamma=auto")
    run(
        make_workload([50] * 400, [5] * 400),
        policy,
        num_ranks=3,
        num_slots=4,
        arrivals="saturated",
        pool_size=10,
    )
    discounts = policy._outlook.discounts()  # type: ignore[attr-defined]
    assert 5 == len(discounts)
    assert 0.449 == pytest.approx(discounts[1], abs=0.05)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_rank_that_will_soon_be_empty_is_preferred(projection: str) -> None:
    """Rank 0 holds 91 tokens, but for two steps more; rank 1 holds 41 for a long time.

    BR-0 sends 45 tokens to rank 1, since 86 is below 91. With the ends known and H = 20, these 45
    lie beyond the envelope on rank 0 for two steps, and on rank 1 from then on.
    """
    outputs = [3, 60, 60]
    workload = make_workload([90, 40, 45], outputs, [0.0, 0.0, 1.5])
    spec = f"br_h,projection={projection},classifier=oracle,gamma=1,horizon=20"
    br_h = make_policy(spec, rng=np.random.default_rng(0), output_tokens=np.array(outputs))
    ranks = [
        run(workload, policy, num_ranks=2, num_slots=3, binding="immediate").requests.rank.tolist()
        for policy in ("br_0", br_h)
    ]
    assert [[0, 1, 1], [0, 1, 0]] == ranks


@pytest.mark.parametrize(
    ("settings_text", "message"),
    [
        ("projection=firm", "projection must be 'soft' or 'hard', got 'firm'"),
        ("alpha=0", "alpha must be above 0 and finite, got 0.0"),
        ("alpha=inf", "alpha must be above 0 and finite, got inf"),
        ("beta=-1", "beta must be at least 0 and finite, got -1.0"),
        ("beta=nan", "beta must be at least 0 and finite, got nan"),
        ("horizon=-1", "horizon must be in 0..256 steps, got -1"),
        ("horizon=257", "horizon must be in 0..256 steps, got 257"),
        ("gamma=0", "gamma must be above 0 and at most 1, or 'auto', got 0.0"),
        ("gamma=1.1", "gamma must be above 0 and at most 1, or 'auto', got 1.1"),
        ("gamma=car", "setting gamma must be of type float or 'auto', got 'car'"),
        ("classifier=survivor", "unknown classifier 'survivor'; did you mean 'survival'?"),
        ("s_greedy=-1", "s_greedy must be at least 0, got -1"),
        ("r_max=0", "r_max must be in 1..12, got 0"),
        ("r_max=13", "r_max must be in 1..12, got 13"),
        ("window=0", "window must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings_text: str, message: str) -> None:
    """The message names the setting, the value and what is allowed."""
    with pytest.raises(ConfigError, match=f"policy br_h: .*{re.escape(message)}"):
        build(f"br_h,{settings_text}")


def test_survival_is_believed_and_others_are_checked() -> None:
    """The built-in classifier gives sound answers by construction."""
    for spec, kind in (("survival", "Survival"), ("exact_match", "Checked")):
        policy = build(f"br_h,projection=hard,classifier={spec}")
        classifier = policy._outlook._classifier  # type: ignore[attr-defined]
        assert kind == type(classifier).__name__
    assert isinstance(build("br_h")._outlook._projection._classifier, Survival)  # type: ignore[attr-defined]
