"""Who holds which prefixes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.cluster.prefixes import NOBODY, PrefixIndex
from balanceroute.errors import ConfigError

LIMIT = 6


def ids_of(path: list[int]) -> list[int]:
    """Return block ids of which each stands for the path that leads to it."""
    return [hash(tuple(path[: k + 1])) for k in range(len(path))]


prompts = st.lists(st.integers(0, 2), max_size=5).map(ids_of)


@given(st.lists(st.tuples(st.integers(0, 2), prompts), max_size=40), prompts)
def test_what_is_kept_are_whole_prefixes_of_the_latest(
    sent: list[tuple[int, list[int]]], asked: list[int]
) -> None:
    """Nobody keeps more than it can; what was sent last is there; the match holds most."""
    index = PrefixIndex([LIMIT] * 3)
    for owner, blocks in sent:
        index.note(owner, blocks)
        assert len(blocks) == index.held(owner, blocks)
    kept = [
        {block for _, blocks in sent for block in blocks[: index.held(owner, blocks)]}
        for owner in range(3)
    ]
    assert max(map(len, kept)) <= LIMIT
    owner, num_blocks = index.match(asked)
    assert num_blocks == max(index.held(each, asked) for each in range(3))
    if owner != NOBODY:
        assert num_blocks == index.held(owner, asked)


def test_the_one_that_had_it_last_is_asked() -> None:
    """Of several with the same prefix."""
    index = PrefixIndex([9, 9])
    index.note(0, [1, 2])
    index.note(1, [1, 2])
    assert (1, 2) == index.match([1, 2])
    index.note(0, [1, 2])
    assert (0, 2) == index.match([1, 2])


def test_who_has_lost_all() -> None:
    """A group that has been away, and one that is new."""
    index = PrefixIndex([9])
    index.note(0, [1, 2])
    index.add_owner(9)
    index.note(1, [1])
    index.forget(0)
    assert (1, 1) == index.match([1, 2])
    index.forget(1)
    assert (NOBODY, 0) == index.match([1, 2])


def test_an_owner_has_room() -> None:
    """For one block at least."""
    with pytest.raises(ConfigError, match="at least 1 block, got 0"):
        PrefixIndex([3, 0])
