"""Results made by hand, for the tests of the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from balanceroute.metrics import Metrics, summarize
from balanceroute.report import (
    GroupInfo,
    RunResult,
    SimulationResult,
    StepTimeInfo,
    WorkloadInfo,
)
from balanceroute.types import RunRecords
from tests.metrics.records import make_requests, make_run

WORKLOAD = WorkloadInfo(
    name="mooncake-conversation",
    num_requests=20_000,
    num_source_requests=None,
    sampling="preset",
    fingerprint="0123456789abcdef",
    prompt_tokens_mean=12035.2,
    output_tokens_mean=342.6,
    notes=("3 rows had zero output tokens and count as 1.",),
)
GROUP = GroupInfo(
    ranks=4,
    slots=72,
    kv_tokens=None,
    step_time=StepTimeInfo(name="paper", constant_s=0.009775, seconds_per_token=1.005e-7),
    arrivals="saturated",
    pool=16,
)
METRICS = summarize(
    make_run(
        ((100, 90, 70, 60),),
        requests=make_requests((0.0,), (0.01,), (0.02,), (0.02,), (1,)),
    )
)


def make_metrics(**changes: Any) -> Metrics:
    """Return the figures of one small run with some of them replaced."""
    return msgspec.structs.replace(METRICS, **changes)


def make_result(
    *runs: tuple[str, Metrics], group: GroupInfo = GROUP, workload: WorkloadInfo = WORKLOAD
) -> SimulationResult:
    """Return a result; repeats of a policy get the seeds 0, 1, 2 and so on."""
    seen: list[str] = []
    results = []
    for policy, metrics in runs:
        results.append(
            RunResult(policy=policy, seed=seen.count(policy), binding="pooled", metrics=metrics)
        )
        seen.append(policy)
    return SimulationResult(workload=workload, group=group, runs=tuple(results))


def random_run(
    policy: str,
    *,
    spread: float,
    num_ranks: int = 4,
    num_steps: int = 300,
    num_requests: int = 500,
    seed: int = 0,
) -> RunRecords:
    """Return a run whose loads wander around a common mean; `spread` is their relative width."""
    rng = np.random.default_rng(seed)
    drift = np.cumsum(rng.normal(0.0, 1.0, (num_steps, num_ranks)), axis=0)
    drift -= drift.mean(axis=1, keepdims=True)
    drift *= spread / max(drift.std(), 1e-9) if num_ranks > 1 else 0.0
    common = 400_000 * (1.0 + 0.05 * np.sin(np.arange(num_steps) / 40.0))[:, None]
    loads: NDArray[np.int64] = np.maximum(common * (1.0 + drift), 0).astype(np.int64)
    run = make_run(
        loads,
        policy=policy,
        seed=seed,
        seconds_per_token=1.005e-7,
        num_tokens=[72 * num_ranks] * num_steps,
    )
    return _with_requests(run, num_requests, rng)


def _with_requests(run: RunRecords, num_requests: int, rng: np.random.Generator) -> RunRecords:
    """Add requests spread over the run, and leave out its first tenth."""
    step_s = float(run.steps.duration_s.mean())
    last_s = float(run.steps.start_s[-1] + run.steps.duration_s[-1])
    arrival_s = np.sort(rng.uniform(0.0, last_s, num_requests))
    waited = rng.uniform(size=num_requests) < 0.7
    admitted_s = arrival_s + waited * rng.lognormal(0.0, 1.0, num_requests) * step_s
    output_tokens = 2 + rng.geometric(1 / 20, num_requests)
    per_token_s = rng.normal(step_s, step_s / 20, num_requests)
    first_token_s = admitted_s + step_s
    finished_s = first_token_s + per_token_s * (output_tokens - 1)
    requests = make_requests(arrival_s, admitted_s, first_token_s, finished_s, output_tokens)
    return replace(run, requests=requests, window_s=(0.1 * last_s, 0.95 * last_s))
