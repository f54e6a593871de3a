"""Token accounts by what engines report after each step, and a rank for a lone request."""

from __future__ import annotations

from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array, RecordArray
from balanceroute.kernels.jit import bare_kernel
from balanceroute.kernels.ledger import DECODING, Accounts, grow, resident_tokens
from balanceroute.kernels.ledger import step as step_rank
from balanceroute.kernels.streams import settle

NONE = -1


@bare_kernel
def book_step(
    accounts: Accounts,
    rank: int,
    handles: Int64Array,
    new_tokens: Int64Array,
    last_steps: Int64Array,
    step: int,
) -> int:
    """Book one step of a rank, exactly: what each request that is named has given in it.

    The rank's clock advances, which gives every decoding request a token; those named get what they
    have really given, and those that are not named get nothing. Who has given tokens before and is
    not named is the sign of a preemption, which the caller looks into.

    Parameters
    ----------
    accounts : Accounts
        The ledger's; changed in place.
    rank : int
        In 0..G − 1.
    handles : int64 array, shape (N,)
        The requests named, all of this rank, each once.
    new_tokens : int64 array, shape (N,)
        Output tokens of each in this step, at least 1.
    last_steps : int64 array, shape (capacity,)
        For each handle the latest step that named it; changed in place.
    step : int
        The number of this one, above those before.

    Returns
    -------
    int
        Requests of the rank that decode and were not named.
    """
    there = accounts.ranks[rank]
    num_known = 0
    for i in range(len(handles)):
        last_steps[handles[i]] = step
        if accounts.entries[handles[i]].state == DECODING:
            num_known += 1
    num_silent = there.num_decoding - num_known
    if there.num_decoding > 0 and num_known > 0:
        step_rank(accounts, rank)
        extra = 1
        if num_silent > 0:
            take_back(accounts, rank, last_steps, step)
    else:
        extra = 0
    for i in range(len(handles)):
        entry = accounts.entries[handles[i]]
        if entry.state == DECODING:
            grow(accounts, handles[i], new_tokens[i] - extra)
        else:  # its first token, or the first since it was preempted
            given = resident_tokens(accounts, handles[i]) + entry.due_tokens - entry.prompt_tokens
            settle(accounts, handles[i], given + new_tokens[i])
    return num_silent


@bare_kernel
def take_back(accounts: Accounts, rank: int, last_steps: Int64Array, step: int) -> None:
    """Take back a rank's latest step from those of its requests that it did not name."""
    for handle in range(len(last_steps)):
        entry = accounts.entries[handle]
        if entry.state == DECODING and entry.rank == rank and last_steps[handle] != step:
            grow(accounts, handle, -1)


@bare_kernel
def silent_since(
    accounts: Accounts, rank: int, last_steps: Int64Array, step: int, found: Int64Array
) -> int:
    """Write to `found` who decodes on a rank and was last named before `step`; return how many."""
    num_found = 0
    for handle in range(len(last_steps)):
        entry = accounts.entries[handle]
        if entry.state == DECODING and entry.rank == rank and last_steps[handle] < step:
            found[num_found] = handle
            num_found += 1
    return num_found


@bare_kernel
def lightest_rank(
    ranks: RecordArray,
    is_open: BoolArray,
    foreign_reqs: Int64Array,
    foreign_tokens: Int64Array,
    kappa0_tokens: float,
    first_rank: int,
) -> int:
    """Return the rank with the least work, resident and on its way; `NONE` if none is open.

    What `plan_spread` does with a lone request and ranks of equal speed, except that ties go to the
    first rank from `first_rank` on, so that idle ranks take turns.

    Parameters
    ----------
    ranks : RANK_ACCOUNT array, shape (G,)
        Of the ledger.
    is_open : bool array, shape (G,)
        Which ranks may have requests.
    foreign_reqs, foreign_tokens : int64 array, shape (G,)
        What is there that the ledger does not know of.
    kappa0_tokens : float
        Tokens that cost as much as one more request, at least 0.
    first_rank : int
        In 0..G − 1.
    """
    best, least, num_ranks = NONE, 0.0, len(ranks)
    for k in range(num_ranks):
        g = first_rank + k
        if g >= num_ranks:
            g -= num_ranks
        if not is_open[g]:
            continue
        there = ranks[g]
        num_reqs = there.num_running + there.num_waiting + foreign_reqs[g]
        work = there.load_tokens + there.due_tokens + foreign_tokens[g] + kappa0_tokens * num_reqs
        if best == NONE or work < least:
            best, least = g, work
    return best


@bare_kernel
def add_time(
    ranks: RecordArray, foreign_tokens: Int64Array, dt_s: float, sums: Float64Array
) -> None:
    """Add to `sums` what the ranks hold for `dt_s` seconds.

    Parameters
    ----------
    ranks : RANK_ACCOUNT array, shape (G,)
        Of the ledger.
    foreign_tokens : int64 array, shape (G,)
        Resident tokens that the ledger does not know of.
    dt_s : float
        At least 0.
    sums : float64 array, shape (3,)
        Changed in place, in token seconds: resident tokens of all ranks, the envelope times the
        ranks, the spread. One less the first over the second is the idle share.
    """
    total, most, least = 0, 0, -1
    for g in range(len(ranks)):
        tokens = ranks[g].load_tokens + foreign_tokens[g]
        total += tokens
        most = max(most, tokens)
        least = tokens if least < 0 else min(least, tokens)
    sums[0] += dt_s * total
    sums[1] += dt_s * most * len(ranks)
    sums[2] += dt_s * (most - least)
