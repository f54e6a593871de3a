"""What a group looks like to who plans for it, in one pass over its accounts."""

from __future__ import annotations

from balanceroute.kernels.arrays import BoolArray, Int64Array, RecordArray
from balanceroute.kernels.jit import bare_kernel
from balanceroute.kernels.ledger import DECODING

# Rows of what is seen, int64, shape (NUM_ROWS, G).
SLOTS, LOAD, DUE, PROMPTS, GENERATED, RUNNING, WAITING, INFLIGHT, CLOCK, SENDS = range(10)
NUM_ROWS = 10
NO_LIMIT = 1 << 31  # sends per rank under immediate binding: its own queue takes them all


@bare_kernel
def see(
    seen: Int64Array,
    ranks: RecordArray,
    num_slots: Int64Array,
    is_open: BoolArray,
    foreign_reqs: Int64Array,
    foreign_tokens: Int64Array,
    is_immediate: int,
) -> int:
    """Note what each rank holds and may get; return how many ranks may get something.

    Parameters
    ----------
    seen : int64 array, shape (NUM_ROWS, G)
        Written.
    ranks : RANK_ACCOUNT array, shape (G,)
        The ledger's.
    num_slots, is_open : int64 and bool array, shape (G,)
        Requests that a rank may run together, and whether it may have new ones.
    foreign_reqs, foreign_tokens : int64 array, shape (G,)
        What runs there beside what the ledger knows of; no tokens count if no requests do.
    is_immediate : int
        1 if ranks queue what they have no slot for, else 0.

    Examples
    --------
    Rank 0 has a slot of two left, rank 1 is closed:

    >>> import numpy as np
    >>> from balanceroute.kernels.ledger import RANK_ACCOUNT
    >>> ranks, nothing = np.zeros(2, RANK_ACCOUNT), np.zeros(2, np.int64)
    >>> ranks["num_running"], ranks["load_tokens"] = [1, 0], [50, 0]
    >>> seen = np.zeros((NUM_ROWS, 2), np.int64)
    >>> see(seen, ranks, np.array([2, 2]), np.array([True, False]), nothing, nothing, 0)
    1
    >>> seen[LOAD], seen[SENDS]
    (array([50,  0]), array([1, 0]))
    """
    num_able, num_foreign = 0, 0
    for g in range(len(ranks)):
        num_foreign += foreign_reqs[g]
    for g in range(len(ranks)):
        here = ranks[g]
        seen[SLOTS, g] = num_slots[g] if is_open[g] else 0
        seen[LOAD, g] = here.load_tokens + (foreign_tokens[g] if num_foreign > 0 else 0)
        seen[DUE, g] = here.due_tokens
        seen[PROMPTS, g] = here.prompt_tokens
        seen[GENERATED, g] = here.generated_tokens
        seen[RUNNING, g] = here.num_running + foreign_reqs[g]
        seen[WAITING, g] = here.num_waiting
        seen[INFLIGHT, g] = seen[RUNNING, g] + here.num_waiting
        seen[CLOCK, g] = here.clock
        seen[SENDS, g] = max(seen[SLOTS, g] - seen[INFLIGHT, g], 0)
        if is_immediate:
            seen[SENDS, g] = NO_LIMIT if seen[SLOTS, g] > 0 else 0
        num_able += seen[SENDS, g] > 0
    return num_able


@bare_kernel
def pass_over(
    seen: Int64Array, entries: RecordArray, num_steps: int, passed_over: Int64Array
) -> int:
    """Count those as gone that end for certain within some steps, at their own limit of output.

    For late binding only; returns how many ranks may get something then.

    Parameters
    ----------
    seen : int64 array, shape (NUM_ROWS, G)
        As `see` leaves it; what the ranks hold and may get is changed.
    entries : ENTRY_ACCOUNT array, shape (capacity,)
        The ledger's.
    num_steps : int
        At least 0.
    passed_over : int64 array, shape (3, G)
        Their number, resident tokens and prompt tokens are added to it.
    """
    for handle in range(len(entries)):
        entry = entries[handle]
        if entry.state != DECODING or entry.max_tokens == 0:
            continue
        g = entry.rank
        resident_tokens = entry.base_tokens + seen[CLOCK, g]
        if entry.prompt_tokens + entry.max_tokens - resident_tokens <= num_steps:
            passed_over[0, g] += 1
            passed_over[1, g] += resident_tokens
            passed_over[2, g] += entry.prompt_tokens
    num_able = 0
    for g in range(seen.shape[1]):
        seen[RUNNING, g] -= passed_over[0, g]
        seen[INFLIGHT, g] -= passed_over[0, g]
        seen[LOAD, g] -= passed_over[1, g]
        seen[PROMPTS, g] -= passed_over[2, g]
        seen[SENDS, g] = max(seen[SLOTS, g] - seen[INFLIGHT, g], 0)
        num_able += seen[SENDS, g] > 0
    return num_able
