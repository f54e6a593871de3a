"""Steps that prefill and decode: what they cost. C = 1 s."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.metrics import summarize
from balanceroute.sim.config import StepTime
from balanceroute.types import RunRecords, Workload
from tests.sim.runs import EIGHTH_A_TOKEN, EIGHTH_S, SECOND_A_STEP, make_workload, run
from tests.sim.test_properties import (
    POLICIES,
    examples,
    groups,
    same_but_for_wall_times,
    workloads,
)

HALF = 1 / 2


# ----------------------------------------------------------------------- what a step costs, by hand


@pytest.mark.parametrize(
    ("shared", "work_s"),
    [
        # rank:            0                    1
        (0.0, (1.0, 2.0)),  # 8 / 8             16 / 8
        (0.25, (1.125, 1.875)),  # 3/4 + 3/8    3/2 + 3/8, since 1/4 * 1/8 * 12 = 3/8
        (0.5, (1.25, 1.75)),  # 1/2 + 3/4       1 + 3/4
        (1.0, (1.5, 1.5)),  # 12 / 8            12 / 8
    ],
)
def test_shared_prefill_is_work_of_every_rank(shared: float, work_s: tuple[float, float]) -> None:
    """Of prompts of 8 and 16 tokens at 1/8 s, what is shared takes both ranks equally long.

    The mean stays (8 + 16) / 2 / 8 s; the step takes as long as rank 1.
    """
    records = run(
        make_workload([8, 16], [2, 1], [0.0, 0.0]),
        "round_robin",
        num_ranks=2,
        prefill_budget_tokens=64,
        prefill_s_per_token=EIGHTH_S,
        prefill_shared=shared,
    )
    # step 0 prefills both prompts; step 1 decodes the first request's second token, at no cost
    assert [1.0 + work_s[1], 1.0] == records.steps.duration_s.tolist()
    assert [work_s[1], 0.0] == records.steps.max_work_s.tolist()
    assert [1.5, 0.0] == records.steps.mean_work_s.tolist()
    usage = (work_s[0] / work_s[1]) ** 0.7 + 1.0
    assert [usage, 0.0] == pytest.approx(records.steps.sum_usage_pow)
    idle_s = work_s[1] - 1.5
    assert 1.0 - idle_s / (2.0 + work_s[1]) == pytest.approx(summarize(records).efficiency)


@pytest.mark.parametrize("shared", [0.0, 0.25, 0.5, 1.0])
def test_equal_prefill_costs_the_same_whatever_is_shared(shared: float) -> None:
    """Where each rank prefills 8 tokens at 1/8 s, the step takes 1 s + 1 s, and nobody waits."""
    records = run(
        make_workload([8, 8], [1, 1], [0.0, 0.0]),
        "round_robin",
        num_ranks=2,
        prefill_budget_tokens=8,
        prefill_s_per_token=EIGHTH_S,
        prefill_shared=shared,
    )
    assert [2.0] == records.steps.duration_s.tolist()
    assert [1.0] == records.steps.mean_work_s.tolist()
    assert [2.0] == records.steps.sum_usage_pow.tolist()


def test_every_cost_on_ranks_of_two_speeds() -> None:
    """A rank's own work takes a slow rank longer, what is shared does not.

    C = 1 s, t_l = t_p = 1/8 s, κ₀ = 2 tokens, σ = 1/2, m = 1/4 s; rank 1 has half the speed.
    a: prompt 4, output 2, on rank 0;  b: prompt 8, output 1, on rank 1;  both at 0.
    """
    records = run(
        make_workload([4, 8], [2, 1], [0.0, 0.0]),
        "round_robin",
        num_ranks=2,
        rank_speeds=(1.0, 0.5),
        step_time=StepTime(name="", constant_s=1.0, s_per_token=EIGHTH_S, kappa0_tokens=2.0),
        prefill_budget_tokens=64,
        prefill_s_per_token=EIGHTH_S,
        prefill_shared=HALF,
        mixed_step_s=0.25,
    )
    # step 0            C     t_l * (κ₀ + L)   own prefill        m      / speed   - C
    #   rank 0          1  +  (2 + 4) / 8   +  1/2 * 4 / 8   +  1/4 =  2.25       1.25
    #   rank 1         (1  +  (2 + 8) / 8   +  1/2 * 8 / 8   +  1/4) / 0.5 = 6    5
    #   both                                  + 1/2 * 6 / 8 = 0.375: 1.625 and 5.375
    # step 1: rank 0 decodes with 5 tokens, (2 + 5) / 8 = 0.875, and no m;
    #         rank 1 has nothing to do, 1 / 0.5 - 1 = 1
    assert [6.375, 2.0] == records.steps.duration_s.tolist()
    assert [5.375, 1.0] == records.steps.max_work_s.tolist()
    assert [3.5, 0.9375] == records.steps.mean_work_s.tolist()
    usage = [1.0 + (1.625 / 5.375) ** 0.7, 1.0 + 0.875**0.7]
    assert usage == pytest.approx(records.steps.sum_usage_pow)
    assert [6.375, 6.375] == records.requests.first_token_s.tolist()
    assert [8.375, 6.375] == records.requests.finished_s.tolist()


def test_a_mixed_step_costs_its_part_once() -> None:
    """A rank's chunk adds m whether it holds one token or eight, of one prompt or of two.

    Budget 8, 2 slots, m = 1/2 s, t_p = 0. a: prompt 15, output 1; b: prompt 1, output 2; at 0.
    """
    records = run(
        make_workload([15, 1], [1, 2], [0.0, 0.0]),
        "round_robin",
        num_slots=2,
        binding="immediate",
        prefill_budget_tokens=8,
        mixed_step_s=HALF,
    )
    # step 0: 8 of a's tokens; step 1: a's other 7 and b's 1; step 2: b decodes
    assert [1.5, 1.5, 1.0] == records.steps.duration_s.tolist()
    assert [3.0, 3.0] == records.requests.first_token_s.tolist()
    assert [3.0, 4.0] == records.requests.finished_s.tolist()


def test_independent_ranks_have_mixed_steps_of_their_own() -> None:
    """Without a barrier m lengthens the steps of the rank that prefills, and no other's."""
    records = run(
        make_workload([8, 8], [3, 1], [0.0, 1.5]),
        "round_robin",
        num_ranks=2,
        has_barrier=False,
        prefill_budget_tokens=8,
        prefill_s_per_token=EIGHTH_S,
        mixed_step_s=HALF,
    )
    # rank 0: 0 to 2.5 (C + 8 / 8 + m), to 3.5, to 4.5;  rank 1: 1.5 to 4
    assert [2.5, 4.0] == records.requests.first_token_s.tolist()
    assert [4.5, 4.0] == records.requests.finished_s.tolist()


# --------------------------------------------------------------------------------------- properties


PREFILLING = st.fixed_dictionaries(
    {
        "prefill_s_per_token": st.sampled_from([0.0, EIGHTH_S]),
        "prefill_shared": st.sampled_from([0.0, 0.25, 1.0]),
        "mixed_step_s": st.sampled_from([0.0, 0.5]),
        "prefix_cache": st.booleans(),
    }
)


def prefilled_tokens(workload: Workload, *, prefix_cache: bool) -> int:
    """Return what ranks must compute if they never preempt."""
    assert workload.cached_tokens is not None
    hits = workload.cached_tokens.sum() if prefix_cache else 0
    return int(workload.prompt_tokens.sum() - hits)


@examples(100)
@given(workloads(), groups(), PREFILLING, st.integers(4, 40), st.sampled_from(POLICIES))
def test_prompt_tokens_are_computed_once(
    workload: Workload, group: dict[str, Any], costs: dict[str, Any], budget: int, policy: str
) -> None:
    """All ranks' work adds up to t_p for each token that is not cached, whatever is shared.

    Without KV limits nothing is computed twice, and with t_l = 0 nothing else is work.
    """
    free = {"step_time": SECOND_A_STEP, "kv_tokens": None, "prefill_budget_tokens": budget}
    settings = group | costs | free | {"mixed_step_s": 0.0}
    records = run(workload, policy, **settings)
    num_tokens = prefilled_tokens(workload, prefix_cache=costs["prefix_cache"])
    work_s = group["num_ranks"] * records.steps.mean_work_s.sum()
    assert costs["prefill_s_per_token"] * num_tokens == pytest.approx(work_s)
    assert workload.output_tokens.sum() == records.steps.num_tokens.sum()


@examples(100)
@given(workloads(), groups(), PREFILLING, st.integers(4, 40), st.sampled_from(POLICIES))
def test_the_slowest_rank_sets_the_end(
    workload: Workload, group: dict[str, Any], costs: dict[str, Any], budget: int, policy: str
) -> None:
    """A step takes C and the largest work, and the mean work lies between that and a G-th of it."""
    records = run(workload, policy, **(group | costs | {"prefill_budget_tokens": budget}))
    steps = records.steps
    assert (1.0 + steps.max_work_s == steps.duration_s).all()
    assert (steps.mean_work_s <= steps.max_work_s * (1 + 1e-12)).all()
    assert (steps.max_work_s <= group["num_ranks"] * steps.mean_work_s * (1 + 1e-12)).all()
    assert (steps.sum_usage_pow <= group["num_ranks"] * (1 + 1e-12)).all()
    assert 0.0 < summarize(records).efficiency <= 1.0
    assert workload.output_tokens.sum() == steps.num_tokens.sum()


@examples(60)
@given(workloads(), groups(), st.integers(4, 40), st.sampled_from([0.25, 1.0]))
def test_a_single_rank_shares_with_nobody(
    workload: Workload, group: dict[str, Any], budget: int, shared: float
) -> None:
    """With one rank it makes no difference what part of its prefill is shared."""
    settings = group | {
        "num_ranks": 1,
        "prefill_budget_tokens": budget,
        "prefill_s_per_token": EIGHTH_S,
        "mixed_step_s": 0.5,
    }
    own = run(workload, "fcfs", **settings)
    all_shared = run(workload, "fcfs", prefill_shared=shared, **settings)
    assert same_but_for_wall_times(own, all_shared)


@examples(80)
@given(workloads(), groups(), st.sampled_from(POLICIES), st.sampled_from([0.0, 0.25, 1.0]))
def test_free_prefill_is_decode_only_with_every_option(
    workload: Workload, group: dict[str, Any], policy: str, shared: float
) -> None:
    """With a budget that never binds and t_p = m = 0, neither σ nor the cache shows in any step."""
    settings = group | {"step_time": EIGHTH_A_TOKEN}
    unlimited = {"prefill_budget_tokens": 1_000_000, "prefill_shared": shared, "prefix_cache": True}
    decode_only = {"prefill_budget_tokens": None, "prefix_cache": False}
    both: list[RunRecords] = [
        run(workload, policy, **(settings | extra)) for extra in (unlimited, decode_only)
    ]
    assert same_but_for_wall_times(*both)
