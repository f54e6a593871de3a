"""Token accounts by what streams of tokens tell, where no steps can be seen.

A call from Python costs as much as a dozen of these, so each of the three events of a request has
one kernel that also sees for itself whether it can be booked.
"""

from __future__ import annotations

from balanceroute.kernels.jit import bare_kernel
from balanceroute.kernels.ledger import (
    DECODING,
    FREE,
    PREFILLING,
    WAITING,
    Accounts,
    finish,
    grow,
    prefill,
    resident_tokens,
    send,
    start,
)

REFUSED = -1  # nothing is booked: something is wrong, or there is no room


@bare_kernel
def can_note_event(accounts: Accounts) -> bool:
    """Tell whether there is room for one more event, or no events are kept."""
    return len(accounts.events) == 0 or accounts.counts[0].num_events < len(accounts.events)


@bare_kernel
def is_in_flight(accounts: Accounts, handle: int) -> bool:
    """Tell whether a handle is that of a request."""
    return 0 <= handle < len(accounts.entries) and accounts.entries[handle].state != FREE


@bare_kernel
def begin(
    accounts: Accounts,
    rank: int,
    prompt_tokens: int,
    request: int,
    client: int,
    max_tokens: int,
    prompt_hash: int,
    has_stream: int,
) -> int:
    """Book a request that is sent to a rank; return its handle, or `REFUSED`.

    Nobody tells when one without a stream starts: it is resident at once.
    """
    if not 0 <= rank < len(accounts.ranks) or prompt_tokens < 1 or max_tokens < 0:
        return REFUSED
    if accounts.counts[0].num_free == 0 or not can_note_event(accounts):
        return REFUSED
    handle = send(accounts, rank, prompt_tokens, request, client, max_tokens, prompt_hash, 0)
    if not has_stream:
        start(accounts, handle)
        prefill(accounts, handle, prompt_tokens)
    return handle


@bare_kernel
def observe(accounts: Accounts, handle: int, output_tokens: int) -> int:
    """Book that a request has given `output_tokens` by now; return the steps that this reveals.

    The first token tells that the prompt is resident. A request that is ahead of its rank's clock
    tells of a step in which the rank's other requests grew too, before any of their tokens are
    seen; one that is behind is put right by itself. `REFUSED` if there is no such request, or it
    has given nothing.
    """
    if output_tokens < 1 or not is_in_flight(accounts, handle):
        return REFUSED
    entry = accounts.entries[handle]
    there = accounts.ranks[entry.rank]
    ahead = output_tokens - (resident_tokens(accounts, handle) - entry.prompt_tokens)
    if entry.state != DECODING or ahead < 0:
        settle(accounts, handle, output_tokens)
        return 0
    there.clock += ahead
    there.load_tokens += ahead * there.num_decoding
    there.generated_tokens += ahead * there.num_decoding
    return ahead


@bare_kernel
def end(
    accounts: Accounts, handle: int, prompt_tokens: int, output_tokens: int, has_completed: int
) -> int:
    """Book that a request has ended, and what it has come to; return how many are left in flight.

    What it has come to is 0 where nobody says. `REFUSED` if there is no such request, no room for
    an event, or a prompt that has another length while it is still being computed.
    """
    if not is_in_flight(accounts, handle) or not can_note_event(accounts):
        return REFUSED
    entry = accounts.entries[handle]
    is_other = prompt_tokens > 0 and prompt_tokens != entry.prompt_tokens
    if is_other and output_tokens == 0 and entry.state != DECODING:
        return REFUSED
    if output_tokens > 0:
        settle(accounts, handle, output_tokens)
    if is_other:
        resize(accounts, handle, prompt_tokens)
    finish(accounts, handle, has_completed)
    return len(accounts.entries) - accounts.counts[0].num_free


@bare_kernel
def settle(accounts: Accounts, handle: int, output_tokens: int) -> None:
    """Book that a request has given `output_tokens` in all, which says nothing of any step."""
    entry = accounts.entries[handle]
    if entry.state == WAITING:
        start(accounts, handle)
    if entry.state == PREFILLING:
        prefill(accounts, handle, entry.due_tokens)
    age_tokens = resident_tokens(accounts, handle) - entry.prompt_tokens
    grow(accounts, handle, output_tokens - age_tokens)


@bare_kernel
def resize(accounts: Accounts, handle: int, prompt_tokens: int) -> None:
    """Book that a request's prompt has another length than was said when it was sent."""
    entry = accounts.entries[handle]
    there = accounts.ranks[entry.rank]
    added = prompt_tokens - entry.prompt_tokens
    entry.prompt_tokens = prompt_tokens
    if entry.state != WAITING:
        there.prompt_tokens += added
    if entry.state == DECODING:
        entry.base_tokens += added
        there.load_tokens += added
    else:
        entry.due_tokens += added
        there.due_tokens += added
