"""A request as the router's bookkeeping knows it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from balanceroute.live.wire import RequestFacts

NO_HANDLE = -1
UNSEEN = -(1 << 62)  # a lead that no stream has


def _ignore(ticket: Ticket) -> None:
    """Do nothing: who sends a request to a rank of its own choice knows."""


class Ticket(msgspec.Struct, eq=False, kw_only=True):
    """One request on its way through the router.

    Attributes
    ----------
    prompt_tokens, max_tokens, client, prompt_hash, priority : int
        What is known of it, as in `Ledger.send`; the prompt's length may be an estimate.
    num_prompts, num_choices : int
        Prompts that it has, of `prompt_tokens` together, and sequences that go on from each.
    is_streamed : bool
        Whether its tokens are seen one by one.
    name : str
        How its client calls it, for logs.
    pinned_rank : int
        The rank that the client has asked for, or -1.
    preferred_rank, saved_tokens, session : int
        Where its prefix is, what that saves, and a number for its session; see `PoolView`.
    blocks : tuple of int
        Of its prefix, as `PrefixIndex` takes them.
    on_placed : callable
        Called with the ticket once it has a rank.
    age_s : float
        How long ago it came to another process of this router, if it did.
    number, rank, handle : int
        Its number, its rank and its account in the ledger; the latter -1 while it has none.
    companions : tuple of int
        The accounts of its sequences but the first, whose account is `handle`.
    arrived_s, sent_s, output_tokens
        When it came and was sent last, and what it has given since then.
    lead_tokens : int
        What it has given beyond its rank's steps, by the ledger; `UNSEEN` where that is not known.
    """

    prompt_tokens: int
    max_tokens: int = 0
    num_prompts: int = 1
    num_choices: int = 1
    client: int = -1
    prompt_hash: int = 0
    priority: int = 0
    is_streamed: bool = True
    name: str = ""
    pinned_rank: int = -1
    session: int = 0
    blocks: tuple[int, ...] = ()
    on_placed: Callable[[Ticket], None] = _ignore
    age_s: float = 0.0
    preferred_rank: int = -1
    saved_tokens: int = 0
    number: int = -1
    rank: int = -1
    handle: int = NO_HANDLE
    companions: tuple[int, ...] = ()
    arrived_s: float = 0.0
    sent_s: float = 0.0
    output_tokens: int = 0
    lead_tokens: int = UNSEEN

    @property
    def num_sequences(self) -> int:
        """Return how many slots it takes."""
        return self.num_prompts * self.num_choices

    @property
    def load_tokens(self) -> int:
        """Return the tokens of the prompts of all its sequences."""
        return self.num_sequences * share(self.prompt_tokens, self.num_prompts)

    @property
    def traits(self) -> tuple[int, ...]:
        """Return what `REQUEST_TRAITS` has of it."""
        known = (self.client, self.max_tokens, self.prompt_hash)
        affinity = (self.preferred_rank, self.saved_tokens)
        return (*known, *affinity, 0, self.priority, self.session)


def ticket_of(facts: RequestFacts, prompt_tokens: int) -> Ticket:
    """Return what a request is known by, whose prompts have so many tokens in all."""
    return Ticket(
        prompt_tokens=prompt_tokens,
        max_tokens=facts.max_tokens,
        num_prompts=facts.num_prompts,
        num_choices=facts.num_choices,
        client=facts.client,
        prompt_hash=facts.prompt_hash,
        priority=facts.priority,
        is_streamed=facts.is_streamed,
        blocks=facts.blocks,
    )


def share(num_tokens: int, num_sequences: int) -> int:
    """Return what each of several sequences has of their tokens, rounded up.

    Examples
    --------
    >>> share(9, 4)
    3
    """
    return -(-num_tokens // num_sequences)
