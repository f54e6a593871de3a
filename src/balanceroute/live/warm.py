"""Compile what a policy needs before the first request has to wait for it."""

from __future__ import annotations

import gc
from collections import deque

import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.live.group import LiveGroup
from balanceroute.live.ticket import Ticket
from balanceroute.policies.registry import make_policy

# So many that a policy also does what it does now and then, and has seen enough requests end.
NUM_PLANS, LEAST_SLOTS, MOST_SLOTS, NUM_WAITING = 400, 8, 128, 64
# Prompt and output tokens of two kinds of requests: prompts foretell outputs, and weigh much less,
# which is a reason to look ahead; and prompts weigh much more, which is one for waves.
AHEAD, HEAVY = ((20, 4), (40, 60)), ((20, 4), (2000, 30))
STEP_S = 0.03
Kinds = tuple[tuple[int, int], tuple[int, int]]
# What a policy may learn of ranks of which it is told nothing: then it works by other kernels.
LEARNT = StepCosts(
    constant_s=STEP_S, s_per_token=1e-7, prefill_s_per_token=2e-5, budget_tokens=2048
)


def warm(policy: str, *, num_ranks: int, costs: StepCosts | None) -> None:
    """Let a policy of the same kind serve requests of no importance.

    Its slots are short at first, and then there are more than enough. What steps cost is unknown at
    first, which leads to levelling, with a reason to look ahead; and then it is as it is or might
    turn out to be, which may lead to waves: under a load that changes a policy may do any of these.
    """
    for known, kinds in ((None, AHEAD), (costs or LEARNT, HEAVY)):
        _serve(policy, kinds, num_ranks=num_ranks, costs=known)


def keep_for_good() -> None:
    """Let the garbage collector pass over what there is by now: code, kernels, settings.

    To look through it took a tenth of a second now and then, in which no stream moved.
    """
    gc.collect()
    gc.freeze()


def _serve(policy: str, kinds: Kinds, *, num_ranks: int, costs: StepCosts | None) -> None:
    rng, now_s = np.random.default_rng(0), [0.0]
    group = LiveGroup(
        num_ranks=num_ranks,
        policy=make_policy(policy, rng=rng),
        num_slots=max(LEAST_SLOTS, MOST_SLOTS // num_ranks),
        costs=costs,
        clock=lambda: now_s[0],
    )
    group.lag_steps = 1  # as inside vLLM, which needs a kernel more for it
    running: deque[tuple[Ticket, int]] = deque()
    for num_waiting in (NUM_WAITING, 1):
        for _ in range(NUM_PLANS):
            now_s[0] += STEP_S
            _step(group, running)  # those sent before; what is sent now begins in the next step
            while group.num_waiting < num_waiting:
                prompt_tokens, _ = kinds[int(rng.random() < 0.5)]
                group.enter(Ticket(prompt_tokens=prompt_tokens + int(rng.integers(10))))
            running += [(ticket, _output_tokens(ticket, kinds)) for ticket in group.plan()]


def _step(group: LiveGroup, running: deque[tuple[Ticket, int]]) -> None:
    """Give each request that runs a token, and end those that have had all of theirs."""
    for _ in range(len(running)):
        ticket, left = running.popleft()
        group.grow(ticket, 1)
        if left > 1:
            running.append((ticket, left - 1))
            continue
        group.correct(
            ticket, prompt_tokens=ticket.prompt_tokens + 1, output_tokens=ticket.output_tokens
        )
        group.close(ticket, has_completed=True)


def _output_tokens(ticket: Ticket, kinds: Kinds) -> int:
    short, long = kinds
    return (short if ticket.prompt_tokens < long[0] else long)[1]
