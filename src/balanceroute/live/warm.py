"""Compile what a policy needs before the first request has to wait for it."""

from __future__ import annotations

import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.live.group import LiveGroup
from balanceroute.live.ticket import Ticket
from balanceroute.policies.registry import make_policy

NUM_ROUNDS, NUM_SLOTS = 3, 2


def warm(policy: str, *, num_ranks: int, costs: StepCosts | None) -> None:
    """Let a policy of the same kind serve a few requests of no importance."""
    rng = np.random.default_rng(0)
    group = LiveGroup(
        num_ranks=num_ranks,
        policy=make_policy(policy, rng=rng),
        num_slots=NUM_SLOTS,
        costs=costs,
    )
    running: list[Ticket] = []
    for prompt_tokens in rng.integers(1, 1000, size=NUM_ROUNDS * (NUM_SLOTS + 1) * num_ranks):
        group.enter(Ticket(prompt_tokens=int(prompt_tokens)))
    for _ in range(NUM_ROUNDS):
        running += group.plan()
        for ticket in running:
            for _ in range(NUM_ROUNDS):
                group.grow(ticket, 1)
        for ticket in running[::2]:
            group.correct(ticket, prompt_tokens=ticket.prompt_tokens + 1, output_tokens=4)
            group.close(ticket, has_completed=True)
        running = running[1::2]
