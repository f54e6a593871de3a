"""Token accounts by what streams of tokens tell, where no steps can be seen."""

from __future__ import annotations

from balanceroute.kernels.jit import bare_kernel
from balanceroute.kernels.ledger import (
    DECODING,
    PREFILLING,
    WAITING,
    Accounts,
    grow,
    prefill,
    resident_tokens,
    start,
)


@bare_kernel
def observe(accounts: Accounts, handle: int, output_tokens: int) -> int:
    """Book that a request has given `output_tokens` by now; return the steps that this reveals.

    The first token tells that the prompt is resident. A request that is ahead of its rank's clock
    tells of a step in which the rank's other requests grew too, before any of their tokens are
    seen; one that is behind is put right by itself.
    """
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
