"""Which group a request of the fleet would rather go to: where its prefix or its session is."""

from __future__ import annotations

from collections.abc import Mapping

from balanceroute.cluster.prefixes import PrefixIndex
from balanceroute.live.config import ServeConfig
from balanceroute.live.ticket import Ticket
from balanceroute.live.wire import number_of


class Affinity:
    """Knows what has been sent where, and tells the tickets of requests that come after.

    Parameters
    ----------
    num_groups : int
        Groups at first.
    max_blocks : int
        Of `wire.BLOCK_BYTES` each, that a group is taken to keep.
    """

    def __init__(self, num_groups: int, *, max_blocks: int) -> None:
        self._max_blocks, self._index = max_blocks, PrefixIndex([max_blocks] * num_groups)

    def add_group(self) -> None:
        """Take a group in, the last one."""
        self._index.add_owner(self._max_blocks)

    def forget(self, group: int) -> None:
        """Note that a group has lost what it had."""
        self._index.forget(group)

    def advise(self, ticket: Ticket) -> None:
        """Tell a ticket where its prefix is, and how many tokens that saves."""
        ticket.preferred_rank, num_blocks = self._index.match(ticket.blocks)
        share = num_blocks / max(len(ticket.blocks), 1)
        ticket.saved_tokens = int(share * ticket.prompt_tokens)

    def note(self, ticket: Ticket) -> None:
        """Note where a ticket has gone."""
        self._index.note(ticket.rank, ticket.blocks)


def affinity_of(config: ServeConfig) -> Affinity | None:
    """Return who advises, if the settings ask for it."""
    if config.prefix_blocks == 0:
        return None
    return Affinity(len(config.addresses), max_blocks=config.prefix_blocks)


def session_of(headers: Mapping[str, str], config: ServeConfig) -> int:
    """Return a number for the session that a request names, the same for the same; 0 if none."""
    if config.session_header is None:
        return 0
    name = headers.get(config.session_header, "")
    return number_of(name.encode("utf-8", "surrogateescape")) if name else 0
