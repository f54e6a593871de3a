"""How long one plan takes, and how that grows with the group."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.policies.registry import make_policy

POLICIES = ("br_0,select_by=margin", "br_0", "vllm", "least_tokens", "trtllm_adp")
# Ranks, waiting requests, admissions: two targets, then a curve in G.
TARGETS = ((8, 256, 4), (144, 1024, 50))
CURVE = tuple((4**k, 8 * 4**k, 4**k // 2) for k in range(1, 7))
NUM_SLOTS = 72
NUM_PLANS = 2000
NUM_WARM_PLANS = 50
MEAN_PROMPT_TOKENS = 1200


def measure_plans() -> list[dict[str, object]]:
    """Return microseconds per plan for each policy and size."""
    cells: list[dict[str, object]] = []
    for num_ranks, num_waiting, num_sends in (*TARGETS, *CURVE):
        num_plans = min(NUM_PLANS, 4_000_000 // (num_ranks * num_sends) + 20)
        for spec in POLICIES:
            micros = _time_plans(spec, num_ranks, num_waiting, num_sends, num_plans)
            p50, p99 = np.percentile(micros, [50, 99])
            cells.append(
                {
                    "policy": spec,
                    "ranks": num_ranks,
                    "waiting": num_waiting,
                    "admissions": num_sends,
                    "plans": len(micros),
                    "p50_us": round(float(p50), 1),
                    "p99_us": round(float(p99), 1),
                    "max_us": round(float(micros.max()), 1),
                }
            )
    return cells


def _time_plans(
    spec: str, num_ranks: int, num_waiting: int, num_sends: int, num_plans: int
) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    policy = make_policy(spec, rng=rng)
    micros = np.empty(num_plans)
    for i in range(-NUM_WARM_PLANS, num_plans):
        view, pool = _situation(rng, num_ranks, num_waiting, num_sends)
        began_ns = time.perf_counter_ns()
        plan = policy.plan(view, pool)
        micros[max(i, 0)] = (time.perf_counter_ns() - began_ns) / 1000
        assert len(plan) == num_sends
    return micros


def _situation(
    rng: np.random.Generator, num_ranks: int, num_waiting: int, num_sends: int
) -> tuple[GroupView, PoolView]:
    """Return a random busy group with `num_sends` free slots, and a full pool."""
    free = np.bincount(rng.integers(num_ranks, size=num_sends), minlength=num_ranks)
    load = rng.integers(90_000, 110_000, size=num_ranks)
    running = NUM_SLOTS - free
    view = GroupView(
        now_s=0.0,
        is_immediate=False,
        num_slots=np.full(num_ranks, NUM_SLOTS),
        kv_capacity_tokens=np.full(num_ranks, 1 << 62),
        load_tokens=load,
        due_tokens=np.zeros(num_ranks, np.int64),
        resident_prompt_tokens=load // 2,
        generated_tokens=load // 2,
        num_running_reqs=running,
        num_waiting_reqs=np.zeros(num_ranks, np.int64),
        num_inflight_reqs=running,
    )
    pool = PoolView(
        ids=np.arange(num_waiting),
        prompt_tokens=1 + rng.exponential(MEAN_PROMPT_TOKENS, size=num_waiting).astype(np.int64),
        arrival_s=np.zeros(num_waiting),
    )
    return view, pool
