"""What the plug-in costs vLLM's client, measured without vLLM.

A choice on arrival, a step's outputs, and a plan for requests that are held. Choices are told apart
by how fast the processor was just before and after, which a host changes without a word.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from balanceroute.live.warm import keep_for_good, warm
from balanceroute.policies.registry import make_policy
from balanceroute.vllm_plugin.balancer import Balancer
from balanceroute.vllm_plugin.facts import RequestFacts
from bench.machine import work_s

NUM_RANKS, NUM_REQUESTS, NUM_HELD, NUM_WARM, MOST_RUNNING = 8, 16_000, 4000, 1000, 100
NUM_TOGETHER, FULL_SPEED = 25, 1.2  # choices between two looks at the speed; of the least work
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
    measured = {name: measure(name) for name in POLICIES}
    least_s = min(works_s.min() for _, works_s, _ in measured.values())
    for name, (choice_us, works_s, step_us) in measured.items():
        print(f"{name}: a request's step p50 {np.median(step_us):.2f} us")
        is_fast = works_s < FULL_SPEED * least_s
        print_choices("at full speed", choice_us[is_fast], len(choice_us))
        print_choices("at less", choice_us[~is_fast], len(choice_us))


def print_choices(what: str, choice_us: NDArray[np.float64], num_all: int) -> None:
    """Print how many they are, and how long they took."""
    if len(choice_us) > 0:
        p50, p90, p99 = np.percentile(choice_us, [50, 90, 99])
        share = f"{len(choice_us) / num_all:4.0%} of choices {what}"
        print(f"  {share}: p50 {p50:.1f} p90 {p90:.1f} p99 {p99:.1f} us")


def measure(policy: str) -> tuple[NDArray[np.float64], NDArray[np.float64], list[float]]:
    """Return the microseconds of each choice and of each step over its requests.

    Between them the processor time of the same work around each choice, the longer of two.
    """
    rng = np.random.default_rng(0)
    balancer = Balancer(
        num_ranks=NUM_RANKS,
        num_slots=256,
        kv_tokens=10**7,
        policy=make_policy(policy, rng=np.random.default_rng(1)),
    )
    running: list[list[str]] = [[] for _ in range(NUM_RANKS)]
    choice_us, step_us, works_s = [], [], [work_s()]
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
        if number % NUM_TOGETHER == NUM_TOGETHER - 1:
            works_s.append(work_s())
    around_s = np.repeat(np.maximum(works_s[:-1], works_s[1:]), NUM_TOGETHER)
    return np.array(choice_us)[NUM_WARM:], around_s[NUM_WARM:], step_us[NUM_WARM:]


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
    for turn in range(NUM_HELD // num_held):
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
