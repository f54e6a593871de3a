"""What one rank's engine does at the start of a step, as vLLM's scheduler does it.

Running requests first, then prefills under way, then the rank's own queue, within the rank's
slots, KV tokens and token budget. A rank short of KV tokens throws out the request it admitted
last, which goes to the front of the rank's queue and recomputes everything it had (vLLM's
preemption by recompute); in a step in which a rank preempts it admits nobody.

Lists are linked through arrays indexed by handle, so every operation is O(1). Requests that still
prefill are always the youngest on their rank, because prefill is first come, first served.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels import ledger
from balanceroute.kernels.jit import bare_kernel
from balanceroute.kernels.ledger import Accounts, Int64Array, RecordArray

NONE = -1  # end of a list
# What a rank does without in a step: nothing, requests from its queue, prompt tokens altogether.
NOTHING, QUEUE, PREFILL = 0, 1, 2


#: The engine's notes per request in flight, shape (capacity,), by handle.
SEAT = np.dtype(
    [
        ("request", np.int64),  # row in the workload; NONE for those that fill the group at first
        ("target_tokens", np.int64),  # output length
        ("generated_tokens", np.int64),  # output tokens it had when it was last preempted
        ("next", np.int64),  # in the rank's running list or queue, or on the way to it
        ("prev", np.int64),
        ("due_next", np.int64),  # in the calendar's list of one step
        ("due_prev", np.int64),
        ("due_step", np.int64),  # the step that gives the last output token
        ("arrives_s", np.float64),  # when it reaches its rank, if nobody before it comes later
    ]
)

#: The engine's limits and lists per rank, shape (G,); lists hold handles.
ENGINE = np.dtype(
    [
        ("slots", np.int64),
        ("kv_tokens", np.int64),
        ("speed", np.float64),  # relative to the nominal one
        ("run_tail", np.int64),  # the request admitted last
        ("prefill_head", np.int64),  # the first running request that still prefills
        ("wait_head", np.int64),
        ("wait_tail", np.int64),
        ("prefilled_tokens", np.int64),  # prompt tokens computed in this step
        ("num_prefilled", np.int64),  # of how many requests
        ("work_s", np.float64),  # what its load adds to this step
        ("coming_head", np.int64),  # requests on their way, in the order in which they come
        ("coming_tail", np.int64),
        ("num_coming", np.int64),
    ]
)

#: Where ranks that step together are in time, shape (D,): one clock for a group with a barrier,
#: one for each rank without.
CLOCK = np.dtype(
    [
        ("now_s", np.float64),  # start of the step under way, else of the next one
        ("end_s", np.float64),  # end of the step under way
        ("step", np.int64),  # steps completed
        ("in_step", np.int64),  # 1 while a step is under way
        ("row", np.int64),  # where the step under way is logged
        ("num_admitted", np.int64),  # requests of the workload admitted since the start
        ("num_first", np.int64),  # entries of Group.first_handles that the step under way uses
        ("num_coming", np.int64),  # requests on their way to its ranks
    ]
)


class Group(NamedTuple):
    """A barrier group: its ledger, its engines, its clock, and its requests' log."""

    accounts: Accounts
    engines: RecordArray  # ENGINE, shape (G,)
    seats: RecordArray  # SEAT, shape (capacity,)
    clocks: RecordArray  # CLOCK, shape (D,)
    requests: RecordArray  # logs.REQUEST_LOG, shape (N,)
    calendar: Int64Array  # shape (D, longest output + 2): by step, the requests that end with it
    first_handles: Int64Array  # shape (capacity,): requests that get their first token in this step


@bare_kernel
def clock_of(group: Group, rank: int) -> int:
    """Return the clock that a rank steps by."""
    return rank * len(group.clocks) // len(group.engines)


@bare_kernel
def book(
    group: Group,
    rank: int,
    request: int,
    prompt_tokens: int,
    target_tokens: int,
    traits: RecordArray,
    i: int,
) -> int:
    """Book a request sent to a rank and return its handle; it is in no list of the rank yet.

    Row `i` of `traits` tells what else is known of it; no rows tell nothing.
    """
    client, max_tokens, prompt_hash, cached_tokens = ledger.UNKNOWN, 0, 0, 0
    if len(traits) > 0:
        known = traits[i]
        client, max_tokens, prompt_hash = known.client_id, known.max_tokens, known.prompt_hash
        cached_tokens = known.cached_tokens
    handle = ledger.send(
        group.accounts, rank, prompt_tokens, request, client, max_tokens, prompt_hash, cached_tokens
    )
    seat = group.seats[handle]
    seat.request = request
    seat.target_tokens = target_tokens
    seat.generated_tokens = 0
    seat.next = NONE
    return handle


@bare_kernel
def enqueue(group: Group, rank: int, handle: int) -> None:
    """Put a request at the end of its rank's queue."""
    engine = group.engines[rank]
    if engine.wait_head == NONE:
        engine.wait_head = handle
    else:
        group.seats[engine.wait_tail].next = handle
    engine.wait_tail = handle


@bare_kernel
def dequeue(group: Group, rank: int) -> int:
    """Move the head of a rank's queue to the end of its running list and return its handle."""
    engine = group.engines[rank]
    handle = engine.wait_head
    seat = group.seats[handle]
    engine.wait_head = seat.next
    seat.next = NONE
    seat.prev = engine.run_tail
    if engine.run_tail != NONE:
        group.seats[engine.run_tail].next = handle
    engine.run_tail = handle
    if engine.prefill_head == NONE:
        engine.prefill_head = handle
    ledger.start(group.accounts, handle)
    return handle


@bare_kernel
def unlink(group: Group, rank: int, handle: int) -> None:
    """Take a request out of its rank's running list."""
    engine = group.engines[rank]
    before, after = group.seats[handle].prev, group.seats[handle].next
    if before != NONE:
        group.seats[before].next = after
    if after == NONE:
        engine.run_tail = before
    else:
        group.seats[after].prev = before
    if engine.prefill_head == handle:
        engine.prefill_head = after


@bare_kernel
def mark_due(group: Group, clock: int, handle: int, due_step: int) -> None:
    """Enter a decoding request in the calendar."""
    seat, days = group.seats[handle], group.calendar[clock]
    day = due_step % len(days)
    seat.due_step = due_step
    seat.due_prev = NONE
    seat.due_next = days[day]
    if days[day] != NONE:
        group.seats[days[day]].due_prev = handle
    days[day] = handle


@bare_kernel
def unmark_due(group: Group, clock: int, handle: int) -> None:
    """Strike a request out of the calendar."""
    seat, days = group.seats[handle], group.calendar[clock]
    if seat.due_prev == NONE:
        days[seat.due_step % len(days)] = seat.due_next
    else:
        group.seats[seat.due_prev].due_next = seat.due_next
    if seat.due_next != NONE:
        group.seats[seat.due_next].due_prev = seat.due_prev


@bare_kernel
def compute_prompt(group: Group, rank: int, handle: int, num_tokens: int) -> None:
    """Prefill `num_tokens` of a request; with its last one it decodes from this step on."""
    seat, clock = group.seats[handle], group.clocks[clock_of(group, rank)]
    ledger.prefill(group.accounts, handle, num_tokens)
    group.engines[rank].prefilled_tokens += num_tokens
    group.engines[rank].num_prefilled += 1
    if group.accounts.entries[handle].state != ledger.DECODING:
        return
    group.engines[rank].prefill_head = seat.next
    due_step = clock.step + seat.target_tokens - seat.generated_tokens - 1
    mark_due(group, clock_of(group, rank), handle, due_step)
    if seat.generated_tokens == 0:
        group.first_handles[clock.num_first] = handle
        clock.num_first += 1


@bare_kernel
def preempt_last(group: Group, rank: int) -> None:
    """Throw the request admitted last off a rank, to the front of the rank's queue."""
    accounts, engine = group.accounts, group.engines[rank]
    handle = engine.run_tail
    seat, entry = group.seats[handle], accounts.entries[handle]
    if entry.state == ledger.DECODING:
        unmark_due(group, clock_of(group, rank), handle)
        seat.generated_tokens = ledger.resident_tokens(accounts, handle) - entry.prompt_tokens
    unlink(group, rank, handle)
    ledger.preempt(accounts, handle)
    seat.next = engine.wait_head
    if engine.wait_head == NONE:
        engine.wait_tail = handle
    engine.wait_head = handle
    if seat.request != NONE:
        group.requests[seat.request].num_preemptions += 1


@bare_kernel
def continue_prefills(group: Group, rank: int, budget: int) -> tuple[int, bool]:
    """Spend a step's token budget on prefills under way; return what is left, and if any fell."""
    preempted = False
    engine, there = group.engines[rank], group.accounts.ranks[rank]
    handle = engine.prefill_head
    while handle != NONE and budget > 0:
        chunk = min(budget, group.accounts.entries[handle].due_tokens)
        while there.load_tokens + chunk > engine.kv_tokens:
            preempted = True
            is_own = engine.run_tail == handle
            preempt_last(group, rank)
            if is_own:
                return budget, True
        after = group.seats[handle].next
        compute_prompt(group, rank, handle, chunk)
        budget -= chunk
        handle = after
    return budget, preempted


@bare_kernel
def first_chunk(group: Group, rank: int, budget: int) -> int:
    """Return how many prompt tokens the first in a rank's queue can begin with; 0 if it cannot.

    It begins only where its whole prompt fits (vLLM's `scheduler_reserve_full_isl`, its default).
    """
    engine, there = group.engines[rank], group.accounts.ranks[rank]
    if engine.wait_head == NONE or budget <= 0 or there.num_running >= engine.slots:
        return 0
    first = group.accounts.entries[engine.wait_head]
    if there.load_tokens + first.due_tokens > engine.kv_tokens:
        return 0
    return min(budget, first.due_tokens - first.cached_tokens)


@bare_kernel
def schedule_rank(group: Group, rank: int, budget_tokens: int, held: int) -> bool:
    """Decide what a rank computes in the step that begins, and tell whether it had to preempt.

    `held` is what it does without: `NOTHING`, `QUEUE` or `PREFILL`.
    """
    engine, there = group.engines[rank], group.accounts.ranks[rank]
    engine.prefilled_tokens, engine.num_prefilled = 0, 0
    preempted = False
    while there.load_tokens > engine.kv_tokens:
        preempt_last(group, rank)
        preempted = True
    budget = budget_tokens - there.num_decoding
    if engine.prefill_head != NONE and held != PREFILL:
        budget, fell = continue_prefills(group, rank, budget)
        preempted = preempted or fell
    if preempted or held != NOTHING:
        return preempted
    chunk = first_chunk(group, rank, budget)
    while chunk > 0:
        handle = dequeue(group, rank)
        request = group.seats[handle].request
        if request != NONE and np.isnan(group.requests[request].admitted_s):
            clock = group.clocks[clock_of(group, rank)]
            group.requests[request].admitted_s = clock.now_s
            clock.num_admitted += 1
        compute_prompt(group, rank, handle, chunk)
        budget -= chunk
        chunk = first_chunk(group, rank, budget)
    return False
