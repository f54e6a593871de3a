"""Ranks that step: all together, with a barrier at the end of each step, or each by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels import gates, ledger
from balanceroute.kernels.costs import StepCost, own_work_s, share_prefill, sum_usage_pow
from balanceroute.kernels.delivery import deliver_all, first_to_get, hide_coming, post
from balanceroute.kernels.gates import NO_GATE, Gate
from balanceroute.kernels.jit import bare_kernel
from balanceroute.kernels.ledger import Int64Array, RecordArray
from balanceroute.kernels.logs import Log, sample_loads
from balanceroute.kernels.scheduler import (
    NONE,
    Group,
    book,
    clock_of,
    compute_prompt,
    dequeue,
    enqueue,
    schedule_rank,
    unlink,
)

# Why `advance` came back.
DUE, BOUNDARY, IDLE, LOG_FULL, EVENTS_FULL = 0, 1, 2, 3, 4
# Between which steps it is to come back.
NEVER, WHEN_SLOT_FREE, ALWAYS = 0, 1, 2


@bare_kernel
def begin_step(group: Group, cost: StepCost, gate: Gate, log: Log, which: int) -> None:
    """Let the ranks of a clock schedule, measure them, and find out when the slowest is done."""
    num_ranks = len(group.engines) // len(group.clocks)
    first_rank, clock = which * num_ranks, group.clocks[which]
    clock.num_first = 0
    if gate.rules.kind != NO_GATE:
        hide_coming(group)
        gates.decide(gate, group, cost.budget_tokens)
    most, least, total = 0, np.int64(1 << 62), 0
    num_decoding, num_running, num_waiting = 0, 0, 0
    slowest_s, sum_work_s = -np.inf, 0.0
    for g in range(first_rank, first_rank + num_ranks):
        preempted = schedule_rank(group, g, cost.budget_tokens, gate.ranks[g].held)
        if gate.rules.kind != NO_GATE:
            gates.note(gate, group, g, preempted)
            group.accounts.ranks[g].num_waiting += group.engines[g].num_coming
        there, engine = group.accounts.ranks[g], group.engines[g]
        engine.work_s = own_work_s(group, cost, g)
        slowest_s = max(slowest_s, engine.work_s)
        sum_work_s += engine.work_s
        most, least = max(most, there.load_tokens), min(least, there.load_tokens)
        total += there.load_tokens
        num_decoding += there.num_decoding
        num_running += there.num_running
        num_waiting += there.num_waiting
    shared_s = share_prefill(group.engines, cost, first_rank, num_ranks)
    slowest_s += shared_s
    clock.end_s = clock.now_s + cost.constant_s + slowest_s
    clock.in_step, clock.row = 1, log.num_steps[0]
    log.num_steps[0] += 1
    row = log.steps[clock.row]
    row.start_s = clock.now_s
    row.duration_s = cost.constant_s + slowest_s
    row.max_load_tokens, row.min_load_tokens, row.sum_load_tokens = most, least, total
    row.max_work_s, row.mean_work_s = slowest_s, sum_work_s / num_ranks + shared_s
    row.sum_usage_pow = sum_usage_pow(group.engines, first_rank, num_ranks, slowest_s)
    row.num_tokens, row.num_running, row.num_waiting = num_decoding, num_running, num_waiting
    sample_loads(group, log.samples, clock.row, clock.now_s)


@bare_kernel
def end_step(group: Group, log: Log, which: int) -> None:
    """Give every decoding request its token and let those go whose last one it was."""
    num_ranks = len(group.engines) // len(group.clocks)
    accounts, clock = group.accounts, group.clocks[which]
    first_rank, days = which * num_ranks, group.calendar[which]
    for g in range(first_rank, first_rank + num_ranks):
        ledger.step(accounts, g)
    handle = days[clock.step % len(days)]
    while handle != NONE:
        seat = group.seats[handle]
        if seat.request != NONE:
            group.requests[seat.request].finished_s = clock.end_s
        after = seat.due_next
        unlink(group, accounts.entries[handle].rank, handle)
        ledger.finish(accounts, handle, 1)
        handle = after
    days[clock.step % len(days)] = NONE
    most, total = 0, 0
    for g in range(first_rank, first_rank + num_ranks):
        most = max(most, accounts.ranks[g].load_tokens)
        total += accounts.ranks[g].load_tokens
    row = log.steps[clock.row]
    row.refill_max_load_tokens, row.refill_sum_load_tokens = most, total
    clock.step += 1
    clock.in_step = 0
    clock.now_s = clock.end_s


@bare_kernel
def note_first_tokens(group: Group, which: int) -> None:
    """Note when the step under way gives first tokens; its end is known from its beginning."""
    clock = group.clocks[which]
    for i in range(clock.num_first):
        request = group.seats[group.first_handles[i]].request
        if request != NONE:
            group.requests[request].first_token_s = clock.end_s


@bare_kernel
def has_work(group: Group, which: int) -> bool:
    """Tell whether a request runs or is queued on the ranks of a clock."""
    num_ranks = len(group.engines) // len(group.clocks)
    for g in range(which * num_ranks, (which + 1) * num_ranks):
        if group.accounts.ranks[g].num_running > 0 or group.engines[g].wait_head != NONE:
            return True
    return False


@bare_kernel
def has_free_slot(group: Group) -> bool:
    """Tell whether some rank could take one more request."""
    for g in range(len(group.engines)):
        there = group.accounts.ranks[g]
        if there.num_running + there.num_waiting < group.engines[g].slots:
            return True
    return False


@bare_kernel
def begin_steps(group: Group, cost: StepCost, gate: Gate, log: Log) -> bool:
    """Begin a step wherever none is under way and there is work; False if the log is full."""
    for which in range(len(group.clocks)):
        if group.clocks[which].in_step == 0 and group.clocks[which].num_coming > 0:
            deliver_all(group, which)
        if group.clocks[which].in_step == 0 and has_work(group, which):
            if log.num_steps[0] == len(log.steps):
                return False
            begin_step(group, cost, gate, log, which)
            note_first_tokens(group, which)
    return True


@bare_kernel
def first_to_end(group: Group) -> int:
    """Return the clock whose step is the next to end, or `NONE`."""
    first = NONE
    for which in range(len(group.clocks)):
        clock = group.clocks[which]
        if clock.in_step == 1 and (first == NONE or clock.end_s < group.clocks[first].end_s):
            first = which
    return first


@bare_kernel
def advance(group: Group, cost: StepCost, gate: Gate, log: Log, until_s: float, pause: int) -> int:
    """Run steps until something outside the group has to happen, and say what.

    Parameters
    ----------
    group, cost, gate, log
        State of the group, what a step costs, what keeps prefill back, and what it writes.
    until_s : float
        Time of the next event outside the group; infinity if there is none.
    pause : int
        `NEVER`, `WHEN_SLOT_FREE` or `ALWAYS`: at which step boundaries the router wants to act.

    Returns
    -------
    int
        `DUE`: `until_s` lies in the steps under way, or no later than the next request reaches an
        idle rank. `BOUNDARY`: a step has just ended, and `pause` asks for it or it is `until_s`
        now. `IDLE`: nothing to run, and nothing on its way. `LOG_FULL`: give the log more rows and
        call again. `EVENTS_FULL`: make room for an event of each request in flight and call again.
    """
    while True:
        # Beginning steps and ending one of them touches a request once at most: what is preempted
        # as a step begins does not decode in it.
        if not ledger.has_event_room(group.accounts):
            return EVENTS_FULL
        if not begin_steps(group, cost, gate, log):
            return LOG_FULL
        which = first_to_end(group)
        idle, arrives_s = first_to_get(group)
        if which == NONE and idle == NONE:
            return IDLE
        if which == NONE or arrives_s < group.clocks[which].end_s:
            if arrives_s >= until_s:
                return DUE
            group.clocks[idle].now_s = arrives_s
            continue
        if group.clocks[which].end_s > until_s:
            return DUE
        end_step(group, log, which)
        if group.clocks[which].now_s == until_s or pause == ALWAYS:
            return BOUNDARY
        if pause == WHEN_SLOT_FREE and has_free_slot(group):
            return BOUNDARY


@bare_kernel
def dispatch(
    group: Group,
    requests: Int64Array,
    ranks: Int64Array,
    prompt_tokens: NDArray[np.int32],
    output_tokens: NDArray[np.int32],
    traits: RecordArray,
    now_s: float,
    arrives_s: NDArray[np.float64],
) -> None:
    """Send workload rows `requests`, of which `traits` tell more, to `ranks` at `now_s`.

    They reach the ranks at `arrives_s`, shape (N,) and at least `now_s`; no times: at once.
    """
    for i in range(len(requests)):
        row = requests[i]
        clock = group.clocks[clock_of(group, ranks[i])]
        if clock.in_step == 0:  # an idle rank begins its next step no earlier than this
            clock.now_s = max(clock.now_s, now_s)
        prompt, output = int(prompt_tokens[row]), int(output_tokens[row])
        handle = book(group, ranks[i], row, prompt, output, traits, i)
        group.requests[row].rank = ranks[i]
        if len(arrives_s) > 0:
            post(group, ranks[i], handle, arrives_s[i])
        else:
            enqueue(group, ranks[i], handle)


@bare_kernel
def fill(
    group: Group,
    rows: Int64Array,
    ranks: Int64Array,
    prompt_tokens: NDArray[np.int32],
    output_tokens: NDArray[np.int32],
    traits: RecordArray,
    age_tokens: Int64Array,
) -> None:
    """Start copies of workload rows that have already some of their output.

    Those that a rank has no KV tokens for are left out. None of them is in anybody's log.
    """
    for i in range(len(ranks)):
        # As int64, so that Numba does not compile the scheduler once more for int32.
        rank, prompt = ranks[i], int(prompt_tokens[rows[i]])
        resident = prompt + age_tokens[i]
        if group.accounts.ranks[rank].load_tokens + resident > group.engines[rank].kv_tokens:
            continue
        output = int(output_tokens[rows[i]])
        handle = book(group, rank, rows[i], prompt, output, traits, i)
        enqueue(group, rank, handle)
        group.seats[handle].request = NONE
        dequeue(group, rank)
        group.seats[handle].generated_tokens = age_tokens[i]
        compute_prompt(group, rank, handle, group.accounts.entries[handle].due_tokens)
        ledger.grow(group.accounts, handle, age_tokens[i])
