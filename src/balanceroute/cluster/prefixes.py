"""Who holds which prompt prefixes, as far as one can know who has sent them there."""

from __future__ import annotations

from collections.abc import Sequence

from balanceroute.errors import ConfigError

NOBODY = -1


class PrefixIndex:
    """Blocks of prompts that have been sent to owners, each of which keeps the latest of them.

    A block's id stands for the whole prefix that ends with it, as in Mooncake's ``hash_ids`` and in
    vLLM's block hashes: prompts of which the k-th ids are equal are equal up to block k. What an
    owner has no room for goes from the ends of the prefixes that were used longest ago, so whoever
    holds a block holds all blocks before it.

    Parameters
    ----------
    limits : sequence of int
        Blocks that each owner keeps, at least 1: groups, or whatever else holds a cache.

    Examples
    --------
    >>> index = PrefixIndex([3, 3])
    >>> index.note(0, [1, 2])
    >>> index.note(1, [1, 5])
    >>> index.match([1, 2, 3]), index.match([1, 5, 6]), index.match([9])
    ((0, 2), (1, 2), (-1, 0))
    >>> index.note(0, [1, 7, 8])
    >>> index.match([1, 2, 3]), index.held(0, [1, 2])
    ((0, 1), 1)
    """

    def __init__(self, limits: Sequence[int]) -> None:
        if any(limit < 1 for limit in limits):
            raise ConfigError(f"an owner must keep at least 1 block, got {min(limits)}")
        self._limits = list(limits)
        # Dictionaries keep the order in which keys are put in: the last one was used last.
        self._blocks_of: list[dict[int, None]] = [{} for _ in limits]
        self._owners_of: dict[int, dict[int, None]] = {}

    def add_owner(self, limit: int) -> None:
        """Make room for one more, the last one."""
        self._limits.append(limit)
        self._blocks_of.append({})

    def match(self, blocks: Sequence[int]) -> tuple[int, int]:
        """Return who holds most of a prompt, and how many of its leading blocks.

        Of several, it is the one to which that prefix was sent last; `NOBODY` and 0 if there is
        none.
        """
        owner, num_held = NOBODY, 0
        for block in blocks:
            owners = self._owners_of.get(block)
            if owners is None:
                break
            owner, num_held = next(reversed(owners)), num_held + 1
        return owner, num_held

    def held(self, owner: int, blocks: Sequence[int]) -> int:
        """Return how many leading blocks of a prompt an owner holds."""
        mine = self._blocks_of[owner]
        return next((k for k, block in enumerate(blocks) if block not in mine), len(blocks))

    def note(self, owner: int, blocks: Sequence[int]) -> None:
        """Note that a prompt has been sent to an owner."""
        mine = self._blocks_of[owner]
        for block in reversed(blocks):  # the beginning was used last, so it goes last
            mine.pop(block, None)
            mine[block] = None
            owners = self._owners_of.setdefault(block, {})
            owners.pop(owner, None)
            owners[owner] = None
        while len(mine) > self._limits[owner]:
            self._drop(owner, next(iter(mine)))

    def forget(self, owner: int) -> None:
        """Note that an owner holds nothing any more."""
        for block in list(self._blocks_of[owner]):
            self._drop(owner, block)

    def _drop(self, owner: int, block: int) -> None:
        del self._blocks_of[owner][block]
        owners = self._owners_of[block]
        del owners[owner]
        if not owners:
            del self._owners_of[block]
