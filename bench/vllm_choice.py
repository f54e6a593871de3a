"""What the plug-in costs vLLM's client, measured without vLLM.

A choice on arrival, a step's outputs, and a plan for requests that are held.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from balanceroute.live.warm import keep_for_good, warm
from balanceroute.policies.registry import make_policy
from balanceroute.vllm_plugin.balancer import Balancer
from balanceroute.vllm_plugin.facts import RequestFacts

NUM_RANKS, NUM_REQUESTS, NUM_WARM, MOST_RUNNING = 8, 4000, 1000, 100
POLICIES = ("br_auto", "least_tokens", "round_robin", "power_of_two", "br_0")


@dataclass(slots=True)
class _Output:
    request_id: str
    new_token_ids: list[int]
    finish_reason: str | None = None


def main() -> None:
    """Print microseconds per choice, per request and step, and per plan."""
    warm("br_auto", num_ranks=NUM_RANKS, costs=None)  # as the plug-in does at its start
    keep_for_good()  # as vLLM does
    for num_held in (1, 16):
        plan_us = measure_plans(num_held)
        p50, p99 = np.percentile(plan_us, [50, 99])
        print(f"br_auto, late: a plan for {num_held:2d} held, p50 {p50:.0f} p99 {p99:.0f} us")
    for name in POLICIES:
        choice_us, step_us = measure(name)
        p50, p90, p99 = np.percentile(choice_us, [50, 90, 99])
        print(
            f"{name:14s} choice p50 {p50:6.1f} p90 {p90:6.1f} p99 {p99:6.1f} us, "
            f"a request's step p50 {np.median(step_us):.2f} us"
        )


def measure(policy: str) -> tuple[list[float], list[float]]:
    """Return the microseconds of each choice, and of each step over its requests."""
    rng = np.random.default_rng(0)
    balancer = Balancer(
        num_ranks=NUM_RANKS,
        num_slots=256,
        kv_tokens=10**7,
        policy=make_policy(policy, rng=np.random.default_rng(1)),
    )
    running: list[list[str]] = [[] for _ in range(NUM_RANKS)]
    choice_us, step_us = [], []
    for number in range(NUM_REQUESTS):
        facts = RequestFacts(request_id=str(number), prompt_tokens=int(rng.integers(10, 2000)))
        began_s = time.perf_counter()
        running[balancer.place(facts)].append(facts.request_id)
        choice_us.append(1e6 * (time.perf_counter() - began_s))
        here = running[number % NUM_RANKS]
        outputs = [_Output(name, [1]) for name in here]
        if len(here) > MOST_RUNNING:
            outputs[0].finish_reason = "stop"
            here.pop(0)
        began_s = time.perf_counter()
        balancer.take_step(number % NUM_RANKS, outputs, None)
        if outputs:
            step_us.append(1e6 * (time.perf_counter() - began_s) / len(outputs))
    return choice_us[NUM_WARM:], step_us[NUM_WARM:]


def _note(running: list[list[str]], name: str, rank: int) -> None:
    running[rank].append(name)


def measure_plans(num_held: int) -> list[float]:
    """Return the microseconds of plans that place so many requests, all of which have a slot."""
    rng = np.random.default_rng(0)
    balancer = Balancer(
        num_ranks=NUM_RANKS,
        num_slots=256,
        kv_tokens=10**7,
        policy=make_policy("br_auto", rng=np.random.default_rng(1)),
        is_pooled=True,
    )
    running: list[list[str]] = [[] for _ in range(NUM_RANKS)]
    plan_us = []
    for turn in range(NUM_REQUESTS // num_held):
        for number in range(num_held):
            name = f"{turn}-{number}"
            facts = RequestFacts(request_id=name, prompt_tokens=int(rng.integers(10, 2000)))
            balancer.hold(facts, partial(_note, running, name))
        began_s = time.perf_counter()
        balancer.group.plan()
        plan_us.append(1e6 * (time.perf_counter() - began_s))
        for rank, here in enumerate(running):
            outputs = [_Output(name, [1]) for name in here]
            if len(here) > MOST_RUNNING:
                outputs[0].finish_reason = "stop"
                here.pop(0)
            balancer.take_step(rank, outputs, None)
    return plan_us[NUM_WARM // num_held :]


if __name__ == "__main__":
    main()
