"""br_wave: when it holds, when it lets go, and what that is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.traits import request_traits
from balanceroute.cluster.view import GroupView
from balanceroute.errors import ConfigError
from balanceroute.kernels.release import Stall, Wave, released
from balanceroute.metrics import summarize
from balanceroute.policies import check_policy, make_policy
from balanceroute.policies.wave import BrWave
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.types import RunRecords, Workload
from tests.policies.views import make_pool, make_view

COSTS = StepCosts(constant_s=0.01, s_per_token=1e-7, prefill_s_per_token=2e-5, budget_tokens=2048)


def chat(num_requests: int = 4000, *, seed: int = 0, rate_per_s: float | None = None) -> Workload:
    """Return requests of some 1,000 prompt and 200 output tokens."""
    rng = np.random.default_rng(seed)
    prompts = 1 + rng.lognormal(6.6, 0.8, num_requests).astype(np.int32)
    outputs = rng.geometric(1 / 200, num_requests).astype(np.int32)
    arrival_s = None
    if rate_per_s is not None:
        arrival_s = np.cumsum(rng.exponential(1 / rate_per_s, num_requests))
    return Workload(name="chat", prompt_tokens=prompts, output_tokens=outputs, arrival_s=arrival_s)


def run(policy: str, workload: Workload, **changes: Any) -> RunRecords:
    """Run a policy on 8 ranks of 24 slots that prefill too."""
    options: dict[str, Any] = {
        "step_time": StepTime.parse("paper", num_slots=24),
        "num_ranks": 8,
        "num_slots": 24,
        "prefill_budget_tokens": 2048,
        "prefill_s_per_token": 2e-5,
        "pool_size": 64,
    }
    if workload.arrival_s is not None:
        options |= {"arrivals": "trace", "pool_size": None}
    config = SimConfig(**options | changes)
    made = make_policy(policy, rng=np.random.default_rng(0), output_tokens=workload.output_tokens)
    return simulate(workload, config, made, label=policy, seed=0)


def prefilling_view(num_ranks: int = 4, **changes: Any) -> GroupView:
    """Return a group of ranks that prefill, 10 requests and 10,000 tokens on each."""
    options: dict[str, Any] = {"slots": 16, "running": 10}
    view = make_view(load=[10_000] * num_ranks, **options | changes)
    return replace(view, costs=COSTS, clocks=np.zeros(num_ranks, np.int64))


@pytest.mark.parametrize(
    "spec",
    [
        "br_wave",
        "br_wave,strength=0.1,hold_s=0,kv_reserve=0",
        "br_wave,ttft_target_s=0.5",
        "br_wave,tpot_target_s=0.02",
        "br_wave,latency_steps=2,costs=learned",
        "br_wave,costs=0.01:1e-7:0:2e-5:512",
        "br_auto,waves=false",
    ],
)
def test_keeps_the_contract(spec: str) -> None:
    check_policy(spec)


def test_one_prompt_is_held_and_one_for_each_rank_is_not() -> None:
    view = prefilling_view()
    policy = BrWave()
    assert len(policy.plan(view, make_pool([1000]))) == 0
    assert policy.times_releases
    plan = BrWave().plan(view, make_pool([1000] * 4))
    assert sorted(plan.ranks.tolist()) == [0, 1, 2, 3]


def test_goes_at_once_where_nothing_runs() -> None:
    view = prefilling_view(running=0)
    assert len(BrWave().plan(view, make_pool([1000]))) == 1


def test_rides_along_below_the_busiest_rank() -> None:
    """Rank 0 prefills 4,000 tokens, so 3,000 on another rank cost nobody anything."""
    view = prefilling_view(due=[4000, 0, 0, 0])
    plan = BrWave().plan(view, make_pool([3000]))
    assert plan.requests.tolist() == [0]
    assert plan.ranks[0] != 0


def test_goes_where_its_prefix_is_unless_that_makes_others_wait() -> None:
    pool = make_pool([1000], request_traits(1, preferred_ranks=[2], saved_tokens=[900]))
    below = prefilling_view(due=[4000, 0, 2500, 0])
    assert BrWave().plan(below, pool).ranks.tolist() == [2]
    assert BrWave(affinity=False).plan(below, pool).ranks.tolist() == [1]
    above = prefilling_view(due=[4000, 0, 3900, 0])
    assert BrWave().plan(above, pool).ranks.tolist() == [1]


def test_holds_no_longer_than_it_says() -> None:
    policy, pool = BrWave(strength=1e6, hold_s=0.2, hold_prefills=0), make_pool([1000])
    sent_at_s = next(
        now_s
        for now_s in np.arange(0.0, 1.0, 0.01)
        if len(policy.plan(prefilling_view(now_s=float(now_s)), pool)) == 1
    )
    assert sent_at_s == pytest.approx(0.21)


def test_urgent_requests_are_held_for_less_time() -> None:
    def held_s(priority: int) -> float:
        policy = BrWave(strength=0.1, hold_s=9.0)
        pool = make_pool([1000], request_traits(1, priorities=[priority]))
        return next(
            float(now_s)
            for now_s in np.arange(0.0, 2.0, 0.001)
            if len(policy.plan(prefilling_view(now_s=float(now_s)), pool)) == 1
        )

    assert held_s(-2) == pytest.approx(held_s(0) / 4, abs=0.002)
    assert held_s(1) == pytest.approx(held_s(0) * 2, abs=0.002)


def test_counts_what_a_cache_saves() -> None:
    """All but one token of each prompt is cached, so there is nothing to wait for."""
    pool = make_pool([1000], request_traits(1, cached_tokens=[999]))
    assert len(BrWave(strength=1e-4).plan(prefilling_view(), pool)) == 0
    policy = BrWave(strength=1e-4)
    policy.plan(prefilling_view(), pool)
    assert len(policy.plan(prefilling_view(now_s=0.001), pool)) == 1


def figure(value: float | None) -> float:
    """Return a figure that the window holds."""
    assert value is not None
    return value


def tpot_s(records: RunRecords) -> float:
    return figure(summarize(records).tpot_s.mean)


def ttft_p99_s(records: RunRecords) -> float:
    return figure(summarize(records).ttft_s.p99)


@pytest.mark.parametrize(("num_ranks", "least_gain"), [(1, 0.99), (2, 1.05), (8, 1.5)])
def test_more_tokens_per_second_where_slots_are_short(num_ranks: int, least_gain: float) -> None:
    tokens_per_s = {
        policy: figure(summarize(run(policy, chat(3000), num_ranks=num_ranks)).throughput_tok_per_s)
        for policy in ("vllm", "br_wave", "br_auto")
    }
    assert tokens_per_s["br_wave"] > least_gain * tokens_per_s["vllm"]
    assert tokens_per_s["br_auto"] > least_gain * tokens_per_s["vllm"]


def test_faster_tokens_below_saturation() -> None:
    workload = chat(rate_per_s=35.0)
    vllm, br_wave = run("vllm", workload), run("br_wave", workload)
    assert tpot_s(br_wave) < 0.7 * tpot_s(vllm)
    assert ttft_p99_s(br_wave) < ttft_p99_s(vllm) + 0.5


def test_a_target_for_the_first_token_is_kept() -> None:
    workload = chat(rate_per_s=35.0)
    near_s = ttft_p99_s(run("br_wave,ttft_target_s=0.25", workload))
    far_s = ttft_p99_s(run("br_wave,ttft_target_s=0.6", workload))
    assert near_s < 0.3
    assert near_s < far_s < 0.65


def test_a_target_for_later_tokens_is_approached() -> None:
    workload = chat(8000, rate_per_s=35.0)
    fast_s = tpot_s(run("br_wave,tpot_target_s=0.016", workload))
    slow_s = tpot_s(run("br_wave,tpot_target_s=0.024", workload))
    assert fast_s < slow_s
    assert slow_s == pytest.approx(0.024, rel=0.2)


@pytest.mark.parametrize("spec", ["br_wave", "br_auto,waves=false"])
def test_nobody_starves_for_want_of_kv_tokens(spec: str) -> None:
    """One request in a hundred needs most of a rank, and small ones come all the time."""
    rng = np.random.default_rng(3)
    prompts = np.where(rng.random(3000) < 0.01, 9000, rng.integers(200, 600, 3000))
    workload = Workload(
        name="giants",
        prompt_tokens=prompts.astype(np.int32),
        output_tokens=rng.geometric(1 / 50, 3000).astype(np.int32),
    )
    records = run(spec, workload, kv_tokens=10_000, num_slots=24)
    requests = records.requests
    giants = (prompts == 9000) & np.isfinite(requests.arrival_s)
    waits_s = requests.admitted_s - requests.arrival_s
    assert np.isfinite(waits_s[giants][:-3]).all()  # but for those that came at the end
    assert np.nanmax(waits_s[giants]) < 20 * np.nanmean(waits_s)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_never_releases_more_stall_than_was_held(data: st.DataObject) -> None:
    """What goes though not late either costs no more than was held, or costs nothing."""
    num_ranks = data.draw(st.integers(1, 5))
    seconds = st.floats(0, 1, width=32)
    n = data.draw(st.integers(1, 6))
    ranks = np.array(data.draw(st.lists(st.integers(0, num_ranks - 1), min_size=n, max_size=n)))
    prefill_s, decode_s, held_s = (
        np.array(data.draw(st.lists(seconds, min_size=n, max_size=n))) for _ in range(3)
    )
    work_s = np.array(data.draw(st.lists(seconds, min_size=num_ranks, max_size=num_ranks)))
    nobody = np.zeros(n, np.bool_)
    wave = Wave(ranks, prefill_s, decode_s, held_s, nobody, False)
    stall = Stall(work_s, work_s * 0.5, 0.04, 0.0, data.draw(st.integers(1, 99)), 1.0)
    goes = released(wave, stall)
    after_s = work_s + np.bincount(ranks[goes], (prefill_s + decode_s)[goes], num_ranks)
    rise_s = after_s.max() - work_s.max()
    waste_s = rise_s - (prefill_s + decode_s)[goes].sum() / num_ranks
    is_paid = held_s[goes].sum() >= stall.num_running * waste_s - 1e-9
    assert is_paid or rise_s <= 1e-9


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("strength=0", "strength must be above 0 and finite, got 0.0"),
        ("hold_s=-1", "hold_s must be at least 0 and finite, got -1.0"),
        ("patience=1", "patience must be above 1 mean wait, got 1.0"),
        ("kv_reserve=1", "kv_reserve must be at least 0 and below 1, got 1.0"),
        ("ttft_target_s=1,tpot_target_s=1", "give one of them"),
        ("latency_steps=-1", "latency_steps must be at least 0 and finite, got -1"),
    ],
)
def test_bad_settings(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(f"br_wave,{setting}", rng=np.random.default_rng(0))
