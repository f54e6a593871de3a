"""Gates before prefill: engines that hold it back until the ranks of a group can do it together.

Before the ranks schedule, `decide` says what each does without in the step that begins; when a rank
has scheduled, `note` remembers what came of it. Each rule is a function that sees the whole group,
which steps by one clock. `balanceroute.sim.gates` has the rules' settings and their sources.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.jit import bare_kernel
from balanceroute.kernels.ledger import Int64Array, RecordArray
from balanceroute.kernels.scheduler import NONE, NOTHING, PREFILL, QUEUE, Group, first_chunk

NO_GATE, SGLANG, TRTLLM, VLLM = 0, 1, 2, 3
NUM_ATTEMPTS = 16  # prefill batches that SGLang looks back on, its default

#: What a gate remembers of each rank, shape (G,).
RANK_GATE = np.dtype(
    [
        ("held", np.int64),  # what it does without: NOTHING, QUEUE or PREFILL
        ("attempted_reqs", np.int64),  # what it could have prefilled in this step; 0 if nothing
        ("num_attempts", np.int64),  # batches noted in Gate.attempts so far
        ("is_capacity_bound", np.int64),  # 1 if its last admissions left requests in its queue
    ]
)

#: What a gate remembers of the group, shape (1,).
GROUP_GATE = np.dtype(
    [
        ("num_held", np.int64),  # steps held since the last release
        ("num_batching", np.int64),  # steps held though every rank could prefill
        ("since_s", np.float64),  # when holding began
        ("step", np.int64),  # steps since the group was idle
        ("has_wanted_more", np.int64),  # 1 once it had a reason to wait for larger batches
    ]
)


class GateRules(NamedTuple):
    """Which rule a gate follows, and the settings of all of them."""

    kind: int = NO_GATE
    max_delay_passes: int = 1
    low_watermark: float = 0.0  # 0 for none
    queue_min_ratio: float = 0.0  # 0 for none
    max_delay_s: float = 0.0
    timeout_iters: int = 0
    batching_wait_iters: int = 0
    min_generation_reqs: int = 0
    low_occupancy_timeout_iters: int = 0
    interval: int = 1


class Gate(NamedTuple):
    """A gate: its rules and what it remembers."""

    rules: GateRules
    group: RecordArray  # GROUP_GATE, shape (1,)
    ranks: RecordArray  # RANK_GATE, shape (G,)
    attempts: Int64Array  # shape (G, NUM_ATTEMPTS): sizes of each rank's last prefill batches


@bare_kernel
def decide(gate: Gate, group: Group, budget_tokens: int) -> None:
    """Decide what each rank does without in the step that begins."""
    if gate.rules.kind == VLLM:
        throttle_prefills(gate, group)
        return
    if gate.rules.kind == SGLANG:
        held = delay_prefill(gate, group, budget_tokens)
    else:
        held = balance_context(gate, group, budget_tokens)
    for g in range(len(gate.ranks)):
        gate.ranks[g].held = held


@bare_kernel
def note(gate: Gate, group: Group, rank: int, has_preempted: bool) -> None:
    """Remember what a rank has scheduled in the step that begins."""
    memory, there = gate.ranks[rank], group.accounts.ranks[rank]
    if gate.rules.kind == VLLM:
        if memory.held == NOTHING and not has_preempted:
            memory.is_capacity_bound = 1 if there.num_waiting > 0 else 0
    elif gate.rules.kind == SGLANG:
        size = group.engines[rank].num_prefilled
        if size == 0:
            size = memory.attempted_reqs
        if size > 0:
            gate.attempts[rank, memory.num_attempts % NUM_ATTEMPTS] = size
            memory.num_attempts += 1


@bare_kernel
def can_prefill(group: Group, rank: int, budget_tokens: int) -> bool:
    """Tell whether a rank could compute prompt tokens in the step that begins."""
    engine, there = group.engines[rank], group.accounts.ranks[rank]
    if there.load_tokens > engine.kv_tokens:
        return False
    budget = budget_tokens - there.num_decoding
    if engine.prefill_head != NONE:
        return budget > 0
    return first_chunk(group, rank, budget) > 0


@bare_kernel
def delay_prefill(gate: Gate, group: Group, budget_tokens: int) -> int:
    """Return what ranks do without by SGLang's prefill delayer."""
    rules, state = gate.rules, gate.group[0]
    num_able, num_running, has_room = 0, 0, False
    for g in range(len(gate.ranks)):
        there, engine = group.accounts.ranks[g], group.engines[g]
        num_running += there.num_running
        gate.ranks[g].attempted_reqs = 0
        if can_prefill(group, g, budget_tokens):
            num_able += 1
            num_free = max(engine.slots - there.num_decoding, 1)
            gate.ranks[g].attempted_reqs = min(max(there.num_waiting, 1), num_free)
            if there.load_tokens < rules.low_watermark * engine.kv_tokens:
                has_room = True
    has_reason = False
    if num_able > 0 and num_running > 0 and not has_room:
        has_reason = num_able < len(gate.ranks) or wants_more(gate, group)
    if not has_reason or state.num_held >= rules.max_delay_passes - 1:
        state.num_held = 0
        return NOTHING
    if state.num_held == 0:
        state.since_s = group.clocks[0].now_s
    state.num_held += 1
    return QUEUE


@bare_kernel
def wants_more(gate: Gate, group: Group) -> bool:
    """Tell whether SGLang's delayer waits for larger batches though every rank could prefill."""
    rules, state = gate.rules, gate.group[0]
    most_decoding, most_waiting, batch = 0, 0, 0
    for g in range(len(gate.ranks)):
        most_decoding = max(most_decoding, group.accounts.ranks[g].num_decoding)
        most_waiting = max(most_waiting, group.accounts.ranks[g].num_waiting)
        for i in range(NUM_ATTEMPTS):
            batch = max(batch, gate.attempts[g, i])
    wanted = min(int(most_decoding * rules.queue_min_ratio), batch)
    held_s = group.clocks[0].now_s - state.since_s if state.num_held > 0 else 0.0
    lacks_queue = most_waiting < wanted and (state.num_held == 0 or held_s < rules.max_delay_s)
    lacks_slots = group.engines[0].slots - most_decoding < batch
    if not (lacks_queue or lacks_slots):
        return False
    if state.has_wanted_more == 0:  # the first reason is passed over
        state.has_wanted_more = 1
        return False
    return True


@bare_kernel
def balance_context(gate: Gate, group: Group, budget_tokens: int) -> int:
    """Return what ranks do without by TensorRT-LLM's attention-DP balance.

    A rank that has no request counts as one that decodes, as it does there, where it is given a
    dummy.
    """
    rules, state = gate.rules, gate.group[0]
    all_able, all_decode, fewest_decoding = True, True, np.int64(1 << 62)
    for g in range(len(gate.ranks)):
        there = group.accounts.ranks[g]
        is_empty = there.num_running + there.num_waiting == 0
        all_decode = all_decode and (there.num_decoding > 0 or is_empty)
        all_able = all_able and can_prefill(group, g, budget_tokens)
        fewest_decoding = min(fewest_decoding, there.num_decoding)
    if all_able:
        state.num_held = 0
        if not all_decode:
            return NOTHING
        is_held = state.num_batching < rules.batching_wait_iters
        state.num_batching = state.num_batching + 1 if is_held else 0
        return PREFILL if is_held else NOTHING
    timeout_iters = rules.timeout_iters
    if fewest_decoding < rules.min_generation_reqs:
        timeout_iters = rules.low_occupancy_timeout_iters
    state.num_held += 1
    if state.num_held >= timeout_iters or not all_decode:
        state.num_held = 0
        return NOTHING
    return PREFILL


@bare_kernel
def throttle_prefills(gate: Gate, group: Group) -> None:
    """Let ranks prefill in every `interval`-th step only, as vLLM's prefill schedule interval does.

    A rank goes on in each step while it decodes nothing, or once its last admissions have left
    requests in its queue.
    """
    state, clock = gate.group[0], group.clocks[0]
    if clock.now_s > clock.end_s:  # nobody had a request since the last step ended
        state.step = 0
    is_off = state.step % gate.rules.interval != 0
    state.step += 1
    for g in range(len(gate.ranks)):
        memory = gate.ranks[g]
        is_free = memory.is_capacity_bound == 1 or group.accounts.ranks[g].num_decoding == 0
        memory.held = PREFILL if is_off and not is_free else NOTHING
