"""Prefill gates: what must hold of every one, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.errors import ConfigError
from balanceroute.sim.gates import SglangDelayer, TrtllmBalance, VllmInterval, make_gate
from balanceroute.types import Workload
from tests.sim.runs import make_config, make_workload, run
from tests.sim.test_properties import (
    examples,
    groups,
    same_but_for_wall_times,
    workloads,
)

HOLDING = (
    "sglang",
    "sglang,max_delay_passes=3",
    "sglang,max_delay_passes=1000000000",
    "sglang,queue_min_ratio=0.5,max_delay_ms=2500",
    "trtllm",
    "trtllm,timeout_iters=3,batching_wait_iters=1",
    "trtllm,timeout_iters=1000000000,batching_wait_iters=1000000000",
    "trtllm,timeout_iters=8,min_generation_requests=2,low_occupancy_timeout_iters=2",
    "vllm,prefill_schedule_interval=3",
    "vllm,prefill_schedule_interval=1000000000",
)
OPEN = (
    "sglang,max_delay_passes=1",
    "trtllm,enable_balance=false",
    "trtllm,timeout_iters=0,batching_wait_iters=0",
    "trtllm,timeout_iters=1,batching_wait_iters=0",
    "vllm",
    "vllm,prefill_schedule_interval=1",
)


SOME_POLICIES = ("vllm", "least_tokens", "br_0")


@st.composite
def gated_groups(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a small group whose ranks prefill."""
    group = draw(groups())
    num_slots = group["num_slots"]
    return group | {"prefill_budget_tokens": draw(st.integers(num_slots, num_slots + 30))}


@pytest.mark.parametrize("gate", HOLDING)
@examples(40)
@given(workloads(), gated_groups(), st.sampled_from(SOME_POLICIES))
def test_no_request_is_lost(
    gate: str, workload: Workload, group: dict[str, Any], policy: str
) -> None:
    """Whatever is held is served in the end, in order, within the limits, with all its tokens."""
    records = run(workload, policy, prefill_gate=gate, **group)
    requests, steps = records.requests, records.steps
    assert np.isfinite(requests.finished_s).all()
    assert (requests.arrival_s <= requests.admitted_s).all()
    assert (requests.admitted_s < requests.first_token_s).all()
    assert (requests.first_token_s <= requests.finished_s).all()
    assert workload.output_tokens.sum() == steps.num_tokens.sum()
    assert steps.num_running.max() <= group["num_ranks"] * group["num_slots"]
    if group["kv_tokens"] is not None:
        assert steps.max_load_tokens.max() <= group["kv_tokens"]


@pytest.mark.parametrize("gate", HOLDING)
@examples(20)
@given(workloads(), gated_groups())
def test_a_group_in_which_nobody_runs_is_not_held(
    gate: str, workload: Workload, group: dict[str, Any]
) -> None:
    """Every step computes something: a request runs in it."""
    records = run(workload, "least_requests", prefill_gate=gate, **group)
    assert (records.steps.num_running > 0).all()


@pytest.mark.parametrize("gate", OPEN)
@examples(30)
@given(workloads(), gated_groups(), st.sampled_from(SOME_POLICIES))
def test_settings_that_hold_nothing_change_nothing(
    gate: str, workload: Workload, group: dict[str, Any], policy: str
) -> None:
    """A gate that is always open leaves the same records as none, byte for byte."""
    gated = run(workload, policy, prefill_gate=gate, **group)
    assert same_but_for_wall_times(run(workload, policy, **group), gated)


@pytest.mark.parametrize("gate", HOLDING)
@pytest.mark.parametrize("binding", ["pooled", "immediate"])
def test_a_saturated_group_is_served_to_its_end(gate: str, binding: str) -> None:
    """Gated ranks serve a pool that does not run dry, too, and twice the same."""
    rng = np.random.default_rng(15)
    workload = make_workload(rng.integers(1, 60, 400), rng.geometric(0.2, 400))
    both = [
        run(
            workload,
            "least_tokens",
            prefill_gate=gate,
            arrivals="saturated",
            binding=binding,
            num_ranks=3,
            num_slots=4,
            kv_tokens=250,
            prefill_budget_tokens=64,
            prefill_s_per_token=0.01,
        )
        for _ in range(2)
    ]
    assert np.isfinite(both[0].requests.finished_s).all()
    assert same_but_for_wall_times(*both)


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "sglag",
            "unknown prefill gate 'sglag'; did you mean 'sglang'? Known: sglang, trtllm, vllm",
        ),
        ("", "unknown prefill gate ''. Known: sglang, trtllm, vllm"),
        (
            "sglang,max_passes=3",
            "unknown setting 'max_passes' for prefill gate sglang; did you mean",
        ),
        ("sglang,max_delay_passes=x", "setting max_delay_passes must be of type int, got 'x'"),
        ("sglang,max_delay_passes=0", "max_delay_passes must be from 1 to 1000000000, got 0"),
        (f"sglang,max_delay_passes={10**30}", "max_delay_passes must be from 1 to 1000000000, got"),
        (
            "sglang,token_usage_low_watermark=1.5",
            "token_usage_low_watermark must be above 0 and at most 1, got 1.5",
        ),
        (
            "sglang,token_usage_low_watermark=nan",
            "token_usage_low_watermark must be above 0 and at most 1, got nan",
        ),
        ("sglang,queue_min_ratio=0", "queue_min_ratio must be above 0, got 0"),
        ("sglang,queue_min_ratio=inf", "queue_min_ratio must be above 0, got inf"),
        ("sglang,max_delay_ms=5", "prefill gate sglang: max_delay_ms needs queue_min_ratio"),
        ("trtllm,timeout_iters=-1", "timeout_iters must be from 0 to 1000000000, got -1"),
        ("trtllm,batching_wait_iters=-1", "batching_wait_iters must be from 0 to 1000000000"),
        ("trtllm,enable_balance=2", "setting enable_balance must be of type bool, got '2'"),
        (
            "trtllm,timeout_iters=5,low_occupancy_timeout_iters=6",
            "low_occupancy_timeout_iters must be at most timeout_iters (5), got 6",
        ),
        ("vllm,prefill_schedule_interval=0", "prefill_schedule_interval must be from 1 to"),
        ("vllm,every=2", "unknown setting 'every' for prefill gate vllm. Known: prefill_schedule_"),
        ("vllm,prefill_schedule_interval=2,prefill_schedule_interval=3", "is given twice"),
    ],
)
def test_bad_gates(spec: str, message: str) -> None:
    """What is wrong with a gate is said on one line, which names what would do."""
    with pytest.raises(ConfigError) as caught:
        make_config(prefill_budget_tokens=8, prefill_gate=spec)
    assert message in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--prefill-gate needs --prefill-budget (tokens per step, for example 2048)"),
        (
            {"prefill_budget_tokens": 8, "has_barrier": False},
            "--prefill-gate is for ranks that wait for each other",
        ),
        (
            {
                "prefill_budget_tokens": 8,
                "prefill_gate": "sglang,token_usage_low_watermark=0.5",
            },
            "--prefill-gate sglang,token_usage_low_watermark=0.5 needs --kv-tokens",
        ),
    ],
)
def test_gates_without_what_they_need(settings: dict[str, Any], message: str) -> None:
    """A gate needs ranks that prefill and wait for each other, and a watermark a limit."""
    with pytest.raises(ConfigError) as caught:
        make_config(**({"prefill_gate": "sglang"} | settings))
    assert str(caught.value).startswith(message)


def test_defaults_are_those_of_the_engines() -> None:
    """Named alone, a gate is as its engine has it, but switched on."""
    assert SglangDelayer(max_delay_passes=30) == make_gate("sglang")
    assert TrtllmBalance(timeout_iters=50, batching_wait_iters=10) == make_gate("trtllm")
    assert VllmInterval(prefill_schedule_interval=1) == make_gate("vllm")
