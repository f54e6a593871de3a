"""The engine makes the steps that the simulator makes, for the same requests on the same ranks."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balanceroute.emulator.config import UNLIMITED_BLOCKS, EngineConfig
from balanceroute.emulator.engine import Engine
from balanceroute.emulator.request import Request
from balanceroute.policies.registry import make_policy
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.types import RunRecords, StepRecords, Workload
from tests.emulator.driving import drive

STEP_TIME = StepTime(name="", constant_s=0.01, s_per_token=1e-6, kappa0_tokens=7.0)
SETUPS: dict[str, dict[str, Any]] = {
    "decode-only": {},
    "short of KV tokens": {"kv_tokens": 160},
    "two speeds": {"rank_speeds": (1.0, 0.5, 0.75)},
    "prefill": {"prefill_budget_tokens": 32, "prefill_s_per_token": 1e-4},
    "prefill, shared, mixed, short of KV tokens": {
        "prefill_budget_tokens": 16,
        "prefill_s_per_token": 1e-4,
        "prefill_shared": 0.3,
        "mixed_step_s": 0.002,
        "kv_tokens": 150,
        "rank_speeds": (1.0, 0.5, 0.75),
    },
}


def run_both(workload: Workload, **setup: Any) -> tuple[RunRecords, Engine, Any]:
    """Simulate under round robin, then let the engine have the same requests on the same ranks."""
    config = SimConfig(
        step_time=STEP_TIME, num_ranks=3, num_slots=4, arrivals="trace", binding="immediate"
    )
    config = SimConfig(**{f.name: getattr(config, f.name) for f in fields(config)} | setup)
    policy = make_policy("round_robin", rng=np.random.default_rng(0))
    simulated = simulate(workload, config, policy)
    engine = Engine(
        EngineConfig(
            costs=config.costs,
            num_ranks=config.num_ranks,
            num_slots=config.num_slots,
            num_blocks=config.kv_tokens or UNLIMITED_BLOCKS,
            block_size=1,
            rank_speeds=config.rank_speeds,
        )
    )
    requests = [
        Request(prompt_tokens=int(prompt), output_tokens=int(output), rank=int(rank))
        for prompt, output, rank in zip(
            workload.prompt_tokens,
            workload.output_tokens,
            simulated.requests.rank,
            strict=True,
        )
    ]
    assert workload.arrival_s is not None
    lives = drive(engine, requests, workload.arrival_s.tolist())
    preemptions = [request.num_preemptions for request in requests]
    assert simulated.requests.num_preemptions.tolist() == preemptions
    return simulated, engine, lives


def assert_same(simulated: RunRecords, engine: Engine, lives: Any) -> None:
    _, steps = engine.log.since(0)
    for column in fields(StepRecords):
        expected = getattr(simulated.steps, column.name)
        actual = getattr(steps, column.name)
        if column.name == "sum_usage_pow":  # a power of compiled and of interpreted code
            np.testing.assert_allclose(actual, expected, rtol=1e-12)
        else:
            np.testing.assert_array_equal(actual, expected, err_msg=column.name)
    assert simulated.requests.first_token_s.tolist() == lives.first_token_s
    assert simulated.requests.finished_s.tolist() == lives.finished_s


def draw_workload(rng: np.random.Generator, num_requests: int, rate_per_s: float) -> Workload:
    gaps_s = rng.exponential(1 / rate_per_s, num_requests)
    gaps_s[0] = 0.0
    return Workload(
        name="drawn",
        prompt_tokens=rng.integers(1, 60, num_requests).astype(np.int32),
        output_tokens=rng.integers(1, 40, num_requests).astype(np.int32),
        arrival_s=np.cumsum(gaps_s),
    )


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_every_step_is_the_simulators(setup: dict[str, Any]) -> None:
    """Step durations, loads, queues, first tokens and ends are equal to the last bit."""
    workload = draw_workload(np.random.default_rng(1), 200, rate_per_s=40.0)
    simulated, engine, lives = run_both(workload, **setup)
    assert_same(simulated, engine, lives)
    if "kv_tokens" in setup:
        assert simulated.requests.num_preemptions.sum() > 20


@given(seed=st.integers(0, 2**32 - 1), rate_per_s=st.sampled_from([5.0, 50.0, 1e9]))
@settings(max_examples=25)
def test_any_requests(seed: int, rate_per_s: float) -> None:
    """The same for drawn requests, sparse, dense and all at once, in the richest setting."""
    workload = draw_workload(np.random.default_rng(seed), 40, rate_per_s)
    setup = SETUPS["prefill, shared, mixed, short of KV tokens"]
    assert_same(*run_both(workload, **setup))
