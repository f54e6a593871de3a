"""Records made by hand, for the tests of metrics and report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from balanceroute.types import LoadSamples, RequestRecords, RunRecords, StepRecords

CONSTANT_S = 0.01
SECONDS_PER_TOKEN = 1e-4


def make_steps(
    loads: NDArray[np.int64],
    refill_loads: NDArray[np.int64],
    *,
    num_tokens: Sequence[int] | None = None,
    constant_s: float = CONSTANT_S,
    seconds_per_token: float = SECONDS_PER_TOKEN,
) -> StepRecords:
    """Return the steps of ranks with these loads, both of shape (T, G), one after the other."""
    work_s = loads * seconds_per_token
    max_work_s = work_s.max(axis=1)
    duration_s = constant_s + max_work_s
    usage = np.divide(
        work_s, max_work_s[:, None], out=np.zeros_like(work_s), where=max_work_s[:, None] > 0
    )
    num_running = np.count_nonzero(loads, axis=1).astype(np.int64)
    return StepRecords(
        start_s=np.concatenate(([0.0], np.cumsum(duration_s)[:-1])),
        duration_s=duration_s,
        max_load_tokens=loads.max(axis=1),
        min_load_tokens=loads.min(axis=1),
        sum_load_tokens=loads.sum(axis=1),
        refill_max_load_tokens=refill_loads.max(axis=1),
        refill_sum_load_tokens=refill_loads.sum(axis=1),
        max_work_s=max_work_s,
        mean_work_s=work_s.mean(axis=1),
        sum_usage_pow=(usage**0.7).sum(axis=1),
        num_tokens=num_running if num_tokens is None else np.array(num_tokens, dtype=np.int64),
        num_running=num_running,
        num_waiting=np.zeros_like(num_running),
    )


def make_requests(
    arrival_s: ArrayLike = (),
    admitted_s: ArrayLike = (),
    first_token_s: ArrayLike = (),
    finished_s: ArrayLike = (),
    output_tokens: ArrayLike = (),
    num_preemptions: ArrayLike = 0,
) -> RequestRecords:
    """Return request records; lengths that no figure reads are 1."""
    arrivals = np.asarray(arrival_s, dtype=np.float64)
    n = len(arrivals)
    return RequestRecords(
        arrival_s=arrivals,
        admitted_s=np.asarray(admitted_s, dtype=np.float64),
        first_token_s=np.asarray(first_token_s, dtype=np.float64),
        finished_s=np.asarray(finished_s, dtype=np.float64),
        prompt_tokens=np.ones(n, dtype=np.int32),
        output_tokens=np.array(output_tokens, dtype=np.int32),
        rank=np.zeros(n, dtype=np.int32),
        num_preemptions=np.zeros(n, dtype=np.int32) + np.asarray(num_preemptions, dtype=np.int32),
    )


def make_run(
    loads: Sequence[Sequence[int]] | NDArray[np.int64],
    refill_loads: Sequence[Sequence[int]] | NDArray[np.int64] | None = None,
    *,
    requests: RequestRecords | None = None,
    window_s: tuple[float, float] = (0.0, float("inf")),
    num_tokens: Sequence[int] | None = None,
    decision_ns: Sequence[int] = (),
    policy: str = "br_0",
    seed: int = 0,
    constant_s: float = CONSTANT_S,
    seconds_per_token: float = SECONDS_PER_TOKEN,
) -> RunRecords:
    """Return a run whose ranks have these loads, shape (T, G), in its steps."""
    after = np.asarray(loads, dtype=np.int64)
    before = after if refill_loads is None else np.asarray(refill_loads, dtype=np.int64)
    steps = make_steps(
        after,
        before,
        num_tokens=num_tokens,
        constant_s=constant_s,
        seconds_per_token=seconds_per_token,
    )
    return RunRecords(
        policy=policy,
        seed=seed,
        num_ranks=after.shape[1],
        binding="pooled",
        steps=steps,
        requests=make_requests() if requests is None else requests,
        samples=LoadSamples(time_s=steps.start_s, load_tokens=after),
        window_s=window_s,
        decision_ns=np.array(decision_ns, dtype=np.int64),
        wall_s=0.5,
    )
