from __future__ import annotations

import json
import re

import numpy as np
import pytest

from balanceroute.afd.answer import Plan
from balanceroute.afd.plan import Planner
from balanceroute.report.afd.drawings import draw_throughput, regimes_of
from balanceroute.report.afd.page import build_page
from balanceroute.report.afd.verdict import judge
from tests.afd.workloads import bundle, drawn, requests


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Return a plan with simulated points, prices and a target."""
    planner = Planner(
        bundle=bundle(64), max_workers=40, num_check_cycles=300,
        attention_price=2.0, ffn_price=3.0, tpot_target_s=0.05,
    )  # fmt: skip
    return planner.plan(drawn())


def test_regimes_cover_every_r_that_is_drawn(plan: Plan) -> None:
    """Without gaps and overlaps, attention first and FFN last."""
    regimes = regimes_of(plan)
    places = [r for _, low, high in regimes for r in range(low, high + 1)]
    assert places == list(range(1, len(places) + 1))
    assert [name for name, _, _ in regimes] == ["attention", "ffn"]
    assert len(places) > plan.r_star


def test_the_chosen_r_and_the_simulated_points_are_drawn(plan: Plan) -> None:
    """At their places on the curve; the paper's rules promise more than the plan's."""
    traces = {str(trace["name"]): trace for trace in draw_throughput(plan).traces}
    assert traces[f"r* = {plan.r_star}"]["x"] == [plan.r_star]
    assert traces["simulated"]["x"] == [each.r for each in plan.simulated]
    ours, papers = (traces[name]["y"] for name in ("this plan", "paper, mean field"))
    assert isinstance(ours, list)
    assert isinstance(papers, list)
    assert (np.array(papers) >= 0.999 * np.array(ours)).all()


def test_the_verdict_answers_first(plan: Plan) -> None:
    """Then what binds, what it is worth, and what limits it."""
    first, second, third, *others = judge(plan)
    assert f"should serve r = {plan.r_star} attention workers" in first
    assert "takes longest" in second
    assert "a million tokens for" in third
    assert any("A TPOT of 50 ms allows up to" in sentence for sentence in others)


def test_too_few_microbatches_are_named() -> None:
    """With one in flight no stage is busy all the time."""
    alone = Planner(bundle=bundle(num_microbatches=1), max_workers=8).plan(drawn())
    assert any("more microbatches would keep it busier" in each for each in judge(alone))


def test_the_page_is_whole_and_the_same_each_time(plan: Plan) -> None:
    """It loads nothing from elsewhere, and what it draws is JSON."""
    page = build_page(plan, command="balanceroute afd plan <trace>")
    assert page == build_page(plan, command="balanceroute afd plan <trace>")
    assert "balanceroute afd plan &lt;trace&gt;" in page
    found = re.search(r'id="plots">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    assert set(json.loads(found[1])) == {"throughput", "stages"}


def test_a_plan_without_spread_or_memory_has_a_page_too() -> None:
    """Equal requests of one token: no interval, no simulated points, no limits."""
    plain = Planner(bundle=bundle(), max_workers=8).plan(requests([500] * 9, [1] * 9))
    assert "it does not move" in judge(plain)[0]
    assert "Simulated bundles" not in build_page(plain)
