"""What the router books while prompts are computed, against the engine that computes them."""

from __future__ import annotations

import numpy as np
import pytest

from balanceroute.cluster.costs import StepCosts
from balanceroute.emulator.config import EngineConfig
from balanceroute.live.group import LiveGroup
from balanceroute.live.ticket import Ticket
from balanceroute.policies.classic import Fcfs
from tests.live.virtual import Virtual

BUDGET = 64
COSTS = StepCosts(constant_s=0.01, s_per_token=1e-7, prefill_s_per_token=2e-5, budget_tokens=BUDGET)


def virtual(seed: int, *, policy: str, stream_interval: int = 1) -> Virtual:
    """Return four ranks of six slots, with prompts of up to eight chunks."""
    rng = np.random.default_rng(seed)
    lengths = np.column_stack([rng.integers(1, 8 * BUDGET, 300), rng.geometric(0.02, 300)])
    config = EngineConfig(costs=COSTS, num_ranks=4, num_slots=6, block_size=1)
    return Virtual(config, lengths, policy=policy, stream_interval=stream_interval)


@pytest.mark.parametrize("policy", ["br_auto", "least_tokens"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_ranks_tokens_are_known(seed: int, policy: str) -> None:
    """Prompts that are under way included, though no stream tells of them.

    To the token, but for a while after steps that no stream has told of, as in the beginning; then
    by less than a step's budget.
    """
    run = virtual(seed, policy=policy)
    num_exact = num_prefilling = 0
    for step in run.steps():
        if step <= 40:  # before the first output token nothing tells of a step
            continue
        known = run.group.ledger.ranks
        errors = known["load_tokens"] - [rank.load_tokens for rank in run.engine.ranks]
        assert np.all(np.abs(errors[known["num_decoding"] > 0]) < BUDGET)
        num_exact += not errors.any()
        num_prefilling += bool(known["due_tokens"].any())
    assert num_prefilling > 100, "there was something to know"
    assert num_exact > 0.9 * (step - 40)


def test_long_chunks_of_streams_hide_little() -> None:
    """Where a chunk has 8 tokens, others of the rank tell of its steps."""
    run = virtual(0, policy="br_auto", stream_interval=8)
    errors = [
        abs(int(known) - rank.load_tokens) / max(1, rank.load_tokens)
        for step in run.steps()
        if step > 40
        for known, rank in zip(run.group.ledger.ranks["load_tokens"], run.engine.ranks, strict=True)
    ]
    assert np.mean(errors) < 0.05


def group_of(num_ranks: int, *, has_barrier: bool = True) -> tuple[LiveGroup, list[float]]:
    """Return a group, and the clock that it reads."""
    now_s = [0.0]
    costs = StepCosts(
        constant_s=0.01,
        s_per_token=1e-7,
        prefill_s_per_token=2e-5,
        budget_tokens=BUDGET,
        has_barrier=has_barrier,
    )
    group = LiveGroup(
        num_ranks=num_ranks, policy=Fcfs(), num_slots=4, costs=costs, clock=lambda: now_s[0]
    )
    return group, now_s


def sent(group: LiveGroup, rank: int, prompt_tokens: int) -> Ticket:
    """Return a request that has gone to a rank."""
    ticket = Ticket(prompt_tokens=prompt_tokens, pinned_rank=rank)
    group.enter_pinned(ticket)
    return ticket


def due(group: LiveGroup) -> list[int]:
    """Return the prompt tokens that each rank has still to compute."""
    tokens: list[int] = group.ledger.ranks["due_tokens"].tolist()
    return tokens


def test_a_step_spends_what_decodes_leave_on_the_prompts_that_were_there() -> None:
    """Not on one that came while the step was under way."""
    group, now_s = group_of(1)
    running = sent(group, 0, 10)
    group.grow(running, 1)  # tells of no step
    now_s[0] = 1.0
    group.grow(running, 1)
    early = sent(group, 0, 100)
    now_s[0] = 2.0
    late = sent(group, 0, 100)
    group.grow(running, 1)
    assert due(group) == [200 - (BUDGET - 1)]
    now_s[0] = 3.0
    group.grow(running, 1)  # the rest of the first, but its last token; the budget's rest
    assert due(group) == [1 + 100 - (BUDGET - 1 - 37)]
    group.grow(early, 1)
    assert group.ledger.resident_tokens(early.handle) == 101
    assert group.ledger.resident_tokens(late.handle) == BUDGET - 1 - 37


@pytest.mark.parametrize(("has_barrier", "left"), [(True, 200 - 2 * BUDGET), (False, 200)])
def test_ranks_of_a_barrier_step_together(*, has_barrier: bool, left: int) -> None:
    """One that has nothing to stream is seen to step when another makes its next."""
    group, now_s = group_of(2, has_barrier=has_barrier)
    running = sent(group, 0, 10)
    group.grow(running, 1)
    sent(group, 1, 200)
    for step in range(1, 4):
        now_s[0] = float(step)
        group.grow(running, 1)
    assert due(group)[1] == left


def test_a_request_that_has_left_is_not_waited_for() -> None:
    """Neither its budget nor its place in the queue stay."""
    group, now_s = group_of(1)
    running, gone = sent(group, 0, 10), sent(group, 0, 1000)
    group.grow(running, 1)
    last = sent(group, 0, 50)
    group.close(gone, has_completed=False)
    for step in range(1, 3):
        now_s[0] = float(step)
        group.grow(running, 1)
    assert due(group) == [1]
    group.grow(last, 1)
    assert due(group) == [0]
