"""Steps that prefill and decode: what they cost, and what a prefix cache saves. C = 1 s."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.metrics import summarize
from balanceroute.policies.base import Binding, Plan
from balanceroute.sim.config import StepTime
from balanceroute.types import RunRecords, Workload
from tests.sim.runs import (
    EIGHTH_A_TOKEN,
    EIGHTH_S,
    SECOND_A_STEP,
    columns,
    make_config,
    make_workload,
    named,
    run,
)
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


# ------------------------------------------------------------------------ the prefix cache, by hand


def cached(workload: Workload, cached_tokens: list[int]) -> Workload:
    return replace(workload, cached_tokens=np.array(cached_tokens, np.int32))


def test_cached_tokens_take_neither_budget_nor_time() -> None:
    """What is cached is resident from admission on; the chunks hold the rest of the prompts.

    Budget 8, t_p = 1/8 s, 3 slots. a: prompt 20, of which 16 cached, output 3; b: 6, 4, 2;
    c: 12, 2, 1; all at 0.
    """
    workload = cached(make_workload([20, 6, 12], [3, 2, 1], [0.0] * 3), [16, 4, 2])
    settings: dict[str, Any] = {
        "num_slots": 3,
        "binding": "immediate",
        "prefill_budget_tokens": 8,
        "prefill_s_per_token": EIGHTH_S,
    }
    records = run(workload, "round_robin", prefix_cache=True, **settings)
    # step  starts  decode  cached         prefill            load            lasts
    #  0    0.0     -       a 16, b 4, c 2  a 4, b 2, c 2      20 + 6 + 4      1 + 8/8
    #  1    2.0     a, b    -               c 6                21 + 7 + 10     1 + 6/8
    #  2    3.75    a       -               c 2                22 + 12         1 + 2/8
    # a and b get a token in step 0, c in step 2; b ends with step 1.
    assert columns(records.steps) == {
        "start_s": [0.0, 2.0, 3.75],
        "duration_s": [2.0, 1.75, 1.25],
        "max_load_tokens": [30, 38, 34],
        "min_load_tokens": [30, 38, 34],
        "sum_load_tokens": [30, 38, 34],
        "refill_max_load_tokens": [32, 32, 0],
        "refill_sum_load_tokens": [32, 32, 0],
        "max_work_s": [1.0, 0.75, 0.25],
        "mean_work_s": [1.0, 0.75, 0.25],
        "sum_usage_pow": [1.0, 1.0, 1.0],
        "num_tokens": [2, 2, 2],
        "num_running": [3, 3, 2],
        "num_waiting": [0, 0, 0],
    }
    assert [0.0, 0.0, 0.0] == records.requests.admitted_s.tolist()
    assert [2.0, 2.0, 5.0] == records.requests.first_token_s.tolist()
    assert [5.0, 3.75, 5.0] == records.requests.finished_s.tolist()
    # Without the cache the column tells nothing: 38 tokens are computed.
    without = run(workload, "round_robin", **settings)
    plain = run(replace(workload, cached_tokens=None), "round_robin", **settings)
    assert same_but_for_wall_times(plain, without)
    assert 38 * EIGHTH_S == without.steps.max_work_s.sum()


def test_cached_tokens_count_in_the_kv_tokens() -> None:
    """A request is admitted only if its cached tokens and its first chunk fit, also anew.

    15 KV tokens, budget 4, 2 slots, t_p = 1/8 s. a: prompt 4, output 9; b: prompt 10, of which 6
    cached, output 1; both at 0.
    """
    workload = cached(make_workload([4, 10], [9, 1], [0.0, 0.0]), [0, 6])
    records = run(
        workload,
        "round_robin",
        num_slots=2,
        kv_tokens=15,
        binding="immediate",
        prefill_budget_tokens=4,
        prefill_s_per_token=EIGHTH_S,
        prefix_cache=True,
    )
    # step   a    b        load  prefill  why
    #  0     4    -          4   4        a's prompt takes the whole budget
    #  1     5    6 + 3     14   3        6 from the cache, 3 = 4 - 1 computed
    #  2     6    out        6   0        15 + 1 > 15: b was admitted last
    #  3     7    -          7   0        7 + 6 + 3 > 15, and so on until a ends
    #  9     -    6 + 4     10   4        the cache has the 6 again; b's only token
    loads = [4, 14, 6, 7, 8, 9, 10, 11, 12, 10]
    assert loads == records.steps.max_load_tokens.tolist()
    assert [5, 15, 7, 8, 9, 10, 11, 12, 0, 0] == records.steps.refill_max_load_tokens.tolist()
    assert [1.5, 1.375, *[1.0] * 7, 1.5] == records.steps.duration_s.tolist()
    assert [0, 1] == records.requests.num_preemptions.tolist()
    assert [0.0, 1.5] == records.requests.admitted_s.tolist()
    assert [1.5, 11.375] == records.requests.first_token_s.tolist()
    assert [9.875, 11.375] == records.requests.finished_s.tolist()


def test_a_preempted_request_finds_its_prefix_again() -> None:
    """It computes anew what it had generated and the part of its prompt that is not cached.

    13 KV tokens, budget 6, 2 slots, t_p = 1/8 s. a: prompt 4, output 7; b: prompt 6, of which 4
    cached, output 3; both at 0.
    """
    workload = cached(make_workload([4, 6], [7, 3], [0.0, 0.0]), [0, 4])
    records = run(
        workload,
        "round_robin",
        num_slots=2,
        kv_tokens=13,
        binding="immediate",
        prefill_budget_tokens=6,
        prefill_s_per_token=EIGHTH_S,
        prefix_cache=True,
    )
    # step   a    b        load  prefill  why
    #  0     4    4 + 2     10   4 + 2    b's first token
    #  1     5    7         12   0        b's second
    #  2     6    out        6   0        14 > 13; b has 6 + 2 tokens to come back with
    #  3     7    -          7   0        7 + 4 + 4 > 13, and so on until a ends
    #  7     -    4 + 4      8   4        2 of its prompt and the 2 that it had; its third token
    assert [10, 12, 6, 7, 8, 9, 10, 8] == records.steps.max_load_tokens.tolist()
    assert [2, 2, 1, 1, 1, 1, 1, 1] == records.steps.num_tokens.tolist()
    assert [1.75, *[1.0] * 6, 1.5] == records.steps.duration_s.tolist()
    assert [0, 1] == records.requests.num_preemptions.tolist()
    assert [1.75, 1.75] == records.requests.first_token_s.tolist()
    assert [7.75, 9.25] == records.requests.finished_s.tolist()


def test_a_stationary_start_holds_whole_prompts() -> None:
    """Copies that fill the slots have their prompts resident, cached or not, and hit again too."""
    workload = cached(make_workload([8] * 60, [6] * 60), [5] * 60)
    settings: dict[str, Any] = {
        "arrivals": "saturated",
        "num_slots": 4,
        "kv_tokens": 50,  # 4 * (8 + 5) = 52: some are preempted
        "warmup_steps": 0,
        "prefill_budget_tokens": 8,
        "prefill_s_per_token": EIGHTH_S,
    }
    records = run(workload, "fcfs", prefix_cache=True, **settings)
    plain = run(workload, "fcfs", **settings)
    assert records.steps.max_load_tokens[0] == plain.steps.max_load_tokens[0]
    assert np.isfinite(records.requests.finished_s).all()
    assert records.steps.max_work_s.sum() < plain.steps.max_work_s.sum()


# --------------------------------------------------------------------------- what policies are told


class Noting:
    """Least tokens, with a note of what it was told of costs and caches."""

    binding: ClassVar[Binding] = "pooled"

    def __init__(self) -> None:
        self._policy = named("least_tokens")
        self.costs: list[StepCosts | None] = []
        self.kappa0_tokens: list[float] = []
        self.cached_tokens: list[list[int]] = []

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Note what is shown and let the other policy choose."""
        self.costs.append(view.costs)
        self.kappa0_tokens.append(view.kappa0_tokens)
        self.cached_tokens.append(pool.cached_tokens.tolist())
        return self._policy.plan(view, pool)


@pytest.mark.parametrize("staleness_s", [0.0, 2.5])
def test_policies_see_costs_and_what_is_cached(staleness_s: float) -> None:
    """The costs are those of the configuration; hits are shown where they are honoured."""
    workload = cached(make_workload([9, 7, 5], [1, 1, 1], [0.0] * 3), [8, 0, 2])
    settings: dict[str, Any] = {
        "step_time": StepTime(name="", constant_s=1.0, s_per_token=EIGHTH_S, kappa0_tokens=2.0),
        "prefill_budget_tokens": 16,
        "prefill_s_per_token": 0.5,
        "prefill_shared": 0.25,
        "mixed_step_s": 0.75,
        "staleness_s": staleness_s,
    }
    noting = Noting()
    run(workload, noting, prefix_cache=True, **settings)
    expected = StepCosts(
        constant_s=1.0,
        s_per_token=EIGHTH_S,
        kappa0_tokens=2.0,
        prefill_s_per_token=0.5,
        prefill_shared=0.25,
        mixed_step_s=0.75,
        budget_tokens=16,
    )
    assert expected == make_config(**settings).costs
    assert [expected] * 3 == noting.costs
    assert [2.0] * 3 == noting.kappa0_tokens
    assert [[8, 0, 2], [0, 2], [2]] == noting.cached_tokens
    uncached = Noting()
    run(workload, uncached, **settings)
    assert [[0, 0, 0], [0, 0], [0]] == uncached.cached_tokens


def test_decode_only_ranks_have_no_budget() -> None:
    """Policies tell from the costs whether ranks prefill."""
    noting = Noting()
    run(make_workload([9], [1], [0.0]), noting)
    assert [StepCosts(constant_s=1.0, s_per_token=0.0)] == noting.costs


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
