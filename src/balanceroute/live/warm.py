"""Compile what a policy needs before the first request has to wait for it."""

from __future__ import annotations

import gc
from collections import deque

import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.live.group import LiveGroup
from balanceroute.live.ticket import Ticket
from balanceroute.policies.registry import make_policy

# So many that a policy also does what it does now and then; of each kind half have company.
NUM_PLANS, NUM_SLOTS, NUM_WAITING = 400, 8, 24
SHORT, LONG = (20, 4), (2000, 30)  # prompt and output tokens: the one foretells the other
STEP_S = 0.03
# What a policy may learn of ranks of which it is told nothing: then it works by other kernels.
LEARNT = StepCosts(
    constant_s=STEP_S, s_per_token=1e-7, prefill_s_per_token=2e-5, budget_tokens=2048
)


def warm(policy: str, *, num_ranks: int, costs: StepCosts | None) -> None:
    """Let a policy of the same kind serve requests of no importance.

    Its slots are short at first, and then there are more than enough; outputs follow from prompts,
    so that a policy that looks ahead finds a reason to. And what steps cost is unknown at first,
    which leads to levelling, and then as it is or might turn out to be, which may lead to waves:
    under a load that changes a policy may do either.
    """
    for known in (None, costs or LEARNT):
        _serve(policy, num_ranks=num_ranks, costs=known)


def keep_for_good() -> None:
    """Let the garbage collector pass over what there is by now: code, kernels, settings.

    To look through it took a tenth of a second now and then, in which no stream moved.
    """
    gc.collect()
    gc.freeze()


def _serve(policy: str, *, num_ranks: int, costs: StepCosts | None) -> None:
    rng, now_s = np.random.default_rng(0), [0.0]
    group = LiveGroup(
        num_ranks=num_ranks,
        policy=make_policy(policy, rng=rng),
        num_slots=NUM_SLOTS,
        costs=costs,
        clock=lambda: now_s[0],
    )
    group.lag_steps = 1  # as inside vLLM, which needs a kernel more for it
    running: deque[tuple[Ticket, int]] = deque()
    for num_waiting in (NUM_WAITING, 1):
        for _ in range(NUM_PLANS):
            now_s[0] += STEP_S
            while group.num_waiting < num_waiting:
                prompt_tokens, _ = (SHORT, LONG)[int(rng.random() < 0.5)]
                group.enter(Ticket(prompt_tokens=prompt_tokens + int(rng.integers(10))))
            running += [(ticket, _output_tokens(ticket)) for ticket in group.plan()]
            for _ in range(len(running)):
                ticket, left = running.popleft()
                group.grow(ticket, 1)
                if left > 1:
                    running.append((ticket, left - 1))
                    continue
                group.correct(
                    ticket,
                    prompt_tokens=ticket.prompt_tokens + 1,
                    output_tokens=ticket.output_tokens,
                )
                group.close(ticket, has_completed=True)


def _output_tokens(ticket: Ticket) -> int:
    return (SHORT if ticket.prompt_tokens < LONG[0] else LONG)[1]
