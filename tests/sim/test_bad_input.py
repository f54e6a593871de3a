"""What the simulator refuses, and what it says."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError, PlanError
from balanceroute.policies.base import Binding, Plan
from balanceroute.sim.config import StepTime
from tests.sim.runs import Holding, make_config, make_workload, run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_ranks": 0}, "--ranks must be at least 1, got 0"),
        ({"num_slots": 0}, "--slots must be at least 1, got 0"),
        ({"num_slots": -3}, "--slots must be at least 1, got -3"),
        ({"kv_tokens": 0}, "--kv-tokens must be at least 1, got 0"),
        ({"kv_tokens": 10**30}, "--kv-tokens must be at most 1000000000000"),  # beyond int64
        ({"pool_size": 0}, "--pool must be at least 1, got 0"),
        ({"num_ranks": 10**6, "num_slots": 10**6}, "--ranks times --slots must be at most"),
        ({"warmup_steps": -1}, "--warmup-steps must be at least 0, got -1"),
        ({"staleness_s": -1.0}, "--staleness must be a number of at least 0, got -1"),
        ({"staleness_s": math.nan}, "--staleness must be a number of at least 0, got nan"),
        ({"staleness_s": math.inf}, "--staleness must be a number of at least 0, got inf"),
        ({"delivery_s": -0.5}, "--delivery-time must be a number of at least 0, got -0.5"),
        ({"delivery_s": math.nan}, "--delivery-time must be a number of at least 0, got nan"),
        ({"delivery_s": math.inf}, "--delivery-time must be a number of at least 0, got inf"),
        ({"delivery_jitter_s": -1.0}, "--delivery-jitter must be a number of at least 0, got -1"),
        ({"delivery_jitter_s": math.inf}, "--delivery-jitter must be a number of at least 0"),
        ({"arrivals": "bursts"}, "--arrivals must be one of saturated, trace, poisson"),
        ({"binding": "late"}, "--binding must be one of pooled, immediate, got 'late'"),
        ({"start": "warm"}, "--start must be one of stationary, empty, got 'warm'"),
        ({"rank_speeds": (1.0, 1.0)}, "--rank-speeds names 2 ranks, but there are 1"),
        (
            {"rank_speeds": (0.0,)},
            "--rank-speeds are relative to the fastest rank, above 0 and at most 1; got 0",
        ),
        (
            {"rank_speeds": (1.5,)},
            "--rank-speeds are relative to the fastest rank, above 0 and at most 1; got 1.5",
        ),
        (
            {"rank_speeds": (math.nan,)},
            "--rank-speeds are relative to the fastest rank, above 0 and at most 1; got nan",
        ),
        ({"prefill_budget_tokens": 0}, "--prefill-budget must be at least 1, got 0"),
        ({"num_slots": 9, "prefill_budget_tokens": 8}, "--prefill-budget must be at least --slots"),
        ({"prefill_s_per_token": 1e-5}, "--prefill-time needs --prefill-budget"),
        (
            {"prefill_s_per_token": -1.0, "prefill_budget_tokens": 8},
            "--prefill-time must be a number of at least 0",
        ),
        ({"prefill_shared": -0.5}, "--prefill-shared must be a number from 0 to 1, got -0.5"),
        ({"prefill_shared": 1.01}, "--prefill-shared must be a number from 0 to 1, got 1.01"),
        ({"prefill_shared": math.nan}, "--prefill-shared must be a number from 0 to 1, got nan"),
        ({"prefill_shared": 0.5}, "--prefill-shared needs --prefill-budget"),
        (
            {"prefill_shared": 0.5, "prefill_budget_tokens": 8, "has_barrier": False},
            "--prefill-shared is work that ranks do together, so it must be 0 with --no-barrier; "
            "got 0.5",
        ),
        ({"mixed_step_s": -1.0}, "--mixed-step-time must be a number of at least 0, got -1"),
        ({"mixed_step_s": math.inf}, "--mixed-step-time must be a number of at least 0, got inf"),
        ({"mixed_step_s": 1e-3}, "--mixed-step-time needs --prefill-budget"),
        ({"prefix_cache": True}, "--prefix-cache needs --prefill-budget"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    """A setting out of range is named as on the command line, with what is allowed."""
    with pytest.raises(ConfigError) as caught:
        make_config(**settings)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("papr", "did you mean 'paper'?"),
        ("", "is neither a preset"),
        ("0.01", "is neither a preset"),
        ("0.01,1e-7,5,6", "is neither a preset"),
        ("0.01;1e-7", "is neither a preset"),
        ("-1,1e-7", "constant_s must be a number of at least 0, got -1"),
        ("0.01,nan", "s_per_token must be a number of at least 0, got nan"),
        ("0.01,1e-7,inf", "kappa0_tokens must be a number of at least 0, got inf"),
        ("0,0", "the constant and the time per token cannot both be 0"),
    ],
)
def test_step_times(text: str, message: str) -> None:
    """A step time that is no preset and no pair or triple of numbers is refused."""
    with pytest.raises(ConfigError, match="step time") as caught:
        StepTime.parse(text, num_slots=72)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("paper", (9.775e-3, 1.005e-7, 0.0)),
        ("bf-io", ((0.6e-3 * 72 + 35e-3) / 16, 1.005e-7, 0.0)),
        ("h200-deepseek-v3", (61 * 0.1503e-3, 61 * 3.6e-10, 1900.0)),  # 6.84e-7 / 3.6e-10
        ("0.02,1e-6", (0.02, 1e-6, 0.0)),
        ("0.02,0,7", (0.02, 0.0, 7.0)),
    ],
)
def test_known_step_times(text: str, expected: tuple[float, float, float]) -> None:
    """Presets and numbers give C, t_l and κ₀."""
    step_time = StepTime.parse(text, num_slots=72)
    actual = (step_time.constant_s, step_time.s_per_token, step_time.kappa0_tokens)
    assert expected == pytest.approx(actual)


@pytest.mark.parametrize(
    ("prompts", "outputs", "arrivals_s", "message"),
    [
        ([], [], [], "holds no request"),
        ([5, 5], [1], [0.0, 1.0], "2 prompt lengths, 1 output lengths"),
        ([5, 0], [1, 1], [0.0, 1.0], "request 2 has 0 prompt tokens"),
        ([5, 5], [-1, 1], [0.0, 1.0], "request 1 has -1 output tokens"),
        ([5, 5], [1, 1], None, "has no arrival times; use --arrivals saturated"),
        ([5, 5], [1, 1], [0.0], "1 arrival times for 2 requests"),
        ([5, 5], [1, 1], [0.0, math.nan], "request 2 arrives at nan s"),
        ([5, 5], [1, 1], [0.0, math.inf], "request 2 arrives at inf s"),
        ([5, 5], [1, 1], [-1.0, 0.0], "request 1 arrives at -1.0 s"),
        ([5, 5, 5], [1, 1, 1], [0.0, 2.0, 1.0], "request 3 arrives at 1.0 s"),
        (
            [5, 60],
            [1, 5],
            [0.0, 1.0],
            "request 2 needs 65 KV tokens (prompt 60, output 5), but a rank has 64; "
            "raise --kv-tokens to at least 65",
        ),
    ],
)
def test_workloads(
    prompts: list[int], outputs: list[int], arrivals_s: list[float] | None, message: str
) -> None:
    """Requests that cannot be served are refused before the run, with the first of them."""
    with pytest.raises(ConfigError) as caught:
        run(make_workload(prompts, outputs, arrivals_s), "fcfs", kv_tokens=64)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"client_ids": [1]}, "1 client_ids for 2 requests"),
        ({"prompt_hashes": [1, 2, 3]}, "3 prompt_hashes for 2 requests"),
        (
            {"max_tokens": [0, 3]},
            "request 2 has max_tokens 3 and 4 output tokens; write 0 for a limit that is not known",
        ),
        ({"max_tokens": [-1, 9]}, "request 1 has max_tokens -1 and 4 output tokens"),
        ({"cached_tokens": [0]}, "1 cached_tokens for 2 requests"),
        ({"cached_tokens": [0, -1]}, "request 2 has cached_tokens -1 and 5 prompt tokens"),
        (
            {"cached_tokens": [5, 4]},
            "request 1 has cached_tokens 5 and 5 prompt tokens; at least 0 are cached, and at "
            "least one is computed",
        ),
    ],
)
def test_what_is_known_of_requests(known: dict[str, list[int]], message: str) -> None:
    """Columns fit the requests, and a limit its output."""
    columns: dict[str, Any] = {name: np.array(values) for name, values in known.items()}
    workload = replace(make_workload([5, 5], [4, 4], [0.0, 1.0]), **columns)
    with pytest.raises(ConfigError) as caught:
        run(workload, "fcfs")
    assert message in str(caught.value)


def test_a_cache_without_a_column() -> None:
    """A prefix cache needs to know what it holds."""
    workload = make_workload([5, 5], [4, 4], [0.0, 1.0])
    with pytest.raises(ConfigError, match="take a trace with a column cached_tokens, or leave out"):
        run(workload, "fcfs", prefill_budget_tokens=8, prefix_cache=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "raise --requests to at least 24 or lower --warmup-steps"),  # 6 G B
        ({"warmup_steps": 3}, "raise --requests to at least 24"),  # the pool was dry at once
        ({"warmup_steps": 99}, "--warmup-steps 99 leaves nothing to measure"),
        ({"arrivals": "trace", "warmup_steps": 5}, "because the run has 5 steps"),
    ],
)
def test_too_few_requests_for_the_warm_up(settings: dict[str, Any], message: str) -> None:
    """A run that ends before there is anything to measure says how many requests it takes."""
    saturated: dict[str, Any] = {
        "arrivals": "saturated",
        "num_ranks": 2,
        "num_slots": 2,
        "start": "empty",
    }
    with pytest.raises(ConfigError) as caught:
        run(make_workload([5] * 3, [5] * 3, [0.0] * 3), "fcfs", **(saturated | settings))
    assert message in str(caught.value)


class Fixed:
    """Answers every call with the same plan."""

    binding: ClassVar[Binding] = "pooled"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Return it."""
        return self._plan


@pytest.mark.parametrize(
    ("requests", "ranks", "message"),
    [
        ([0, 1], [0], "the plan names 2 requests but 1 ranks"),
        ([0, 3], [0, 1], "request 3 is not in 0..2 (row 1 of the plan)"),
        ([-1], [0], "request -1 is not in 0..2 (row 0 of the plan)"),
        ([1, 1], [0, 1], "request 1 is placed twice (row 1 of the plan)"),
        ([0], [2], "rank 2 is not in 0..1 (row 0 of the plan)"),
        ([0], [-1], "rank -1 is not in 0..1 (row 0 of the plan)"),
        (
            [0, 1],
            [1, 1],
            "rank 1 gets more requests than view.max_sends allows (row 1 of the plan)",
        ),
    ],
)
def test_plans(requests: list[int], ranks: list[int], message: str) -> None:
    """A plan that breaks the contract ends the run with the rule and the row that broke it."""
    workload = make_workload([5] * 3, [2] * 3, [0.0] * 3)
    plan = Plan(np.array(requests, np.int64), np.array(ranks, np.int64))
    with pytest.raises(PlanError) as caught:
        run(workload, Fixed(plan), num_ranks=2)
    assert message == str(caught.value)


def test_plans_of_another_type() -> None:
    """Positions and ranks are integers; 0.5 is not rounded to a rank."""
    workload = make_workload([5] * 3, [2] * 3, [0.0] * 3)
    ranks: Any = np.array([0.5])
    with pytest.raises(PlanError, match="ranks must be a one-dimensional array of integers"):
        run(workload, Fixed(Plan.oldest(ranks)), num_ranks=2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"arrivals": "saturated", "start": "empty"},
        {"staleness_s": 3.0},  # a publication is always ahead, but will show nothing new
        {"staleness_s": 1e-9},
        {"start": "stationary"},  # only once the requests that filled the slots are gone
        {"start": "stationary", "staleness_s": 3.0},
        {"num_ranks": 2, "has_barrier": False},
        {"num_ranks": 2, "has_barrier": False, "start": "stationary", "staleness_s": 3.0},
        {"delivery_s": 0.5, "delivery_jitter_s": 1.0},
        {"delivery_s": 0.5, "staleness_s": 3.0},
    ],
)
def test_holding_everything_back(settings: dict[str, Any]) -> None:
    """A policy that sends nothing while nothing runs and nothing is ahead is stopped."""
    workload = make_workload([5] * 4, [2] * 4, [0.0, 0.0, 1.0, 1e6])
    with pytest.raises(PlanError, match="Holding holds back 4 requests"):
        run(workload, Holding(), **settings)


@pytest.mark.parametrize("staleness_s", [0.0, 3.0])
def test_immediate_binding_places_every_request(staleness_s: float) -> None:
    """Under immediate binding a request that is left out is an error at once."""
    workload = make_workload([5, 5], [2, 2], [0.0, 0.0])
    with pytest.raises(PlanError, match="under immediate binding 2 requests were left out"):
        run(workload, Holding(), binding="immediate", staleness_s=staleness_s)
