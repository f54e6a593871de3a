"""Requests that ask for several sequences at once, in the ledger.

Each sequence has a slot, a prompt and tokens of its own on its rank. The answer has the tokens of
all, and they are taken to be equally long: the first sequence is followed, the others grow with
their rank.
"""

from __future__ import annotations

from balanceroute.cluster.ledger import Ledger
from balanceroute.cluster.streams import begin, end, resize, settle
from balanceroute.live.ticket import Ticket, share


def begin_all(ledger: Ledger, ticket: Ticket) -> None:
    """Book all sequences of a request as sent to its rank."""
    ticket.handle = _begin(ledger, ticket)
    if ticket.num_sequences > 1:
        ticket.companions = tuple(_begin(ledger, ticket) for _ in range(ticket.num_sequences - 1))


def _begin(ledger: Ledger, ticket: Ticket) -> int:
    return begin(
        ledger,
        rank=ticket.rank,
        prompt_tokens=share(ticket.prompt_tokens, ticket.num_prompts),
        request=ticket.number,
        client=ticket.client,
        max_tokens=ticket.max_tokens,
        prompt_hash=ticket.prompt_hash,
        has_stream=ticket.is_streamed,
    )


def follow(ledger: Ledger, ticket: Ticket, num_before: int) -> int:
    """Return what the first sequence has given by now, where all had given so many before.

    With its first token the others have begun, too.
    """
    output_tokens = share(ticket.output_tokens, ticket.num_sequences)
    if num_before == 0:
        for handle in ticket.companions:
            settle(ledger, handle, output_tokens)
    return output_tokens


def settle_all(ledger: Ledger, ticket: Ticket) -> None:
    """Book what all sequences have given by now."""
    for handle in (ticket.handle, *ticket.companions):
        settle(ledger, handle, share(ticket.output_tokens, ticket.num_sequences))


def resize_all(ledger: Ledger, ticket: Ticket) -> None:
    """Book how long all prompts are."""
    for handle in (ticket.handle, *ticket.companions):
        resize(ledger, handle, share(ticket.prompt_tokens, ticket.num_prompts))


def end_all(ledger: Ledger, ticket: Ticket, stated: tuple[int, int], *, has_completed: bool) -> int:
    """Book that all sequences have ended, and how many are left in flight on the ranks.

    What is stated are prompt and output tokens of all, 0 where nothing is.
    """
    each = (share(stated[0], ticket.num_prompts), share(stated[1], ticket.num_sequences))
    for handle in ticket.companions:
        end(ledger, handle, *each, has_completed=has_completed)
    ticket.companions = ()
    return end(ledger, ticket.handle, *each, has_completed=has_completed)
