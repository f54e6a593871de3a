"""What a prefix cache would have of each prompt, from the blocks that a trace names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def cached_prefixes(
    block_ids: Sequence[Sequence[int]], prompt_tokens: NDArray[np.int32], *, block_tokens: int
) -> NDArray[np.int32]:
    """Return how many leading tokens of each prompt have been in a prompt before it.

    These are the hits of a cache without limit that all ranks share. The last token of a prompt is
    always computed, since the first output token comes from it.

    Parameters
    ----------
    block_ids : sequence of sequences of int, length N
        Ids of each prompt's blocks, in order; equal ids stand for equal prefixes up to that block.
    prompt_tokens : int32 array, shape (N,)
        Prompt lengths; the last block of a prompt may be shorter than the others.
    block_tokens : int
        Tokens of a block, at least 1.

    Returns
    -------
    int32 array, shape (N,)
        In 0 to the prompt's length less one.

    Examples
    --------
    Two blocks that are new; the first of them again; the same two again, in a prompt of 8 tokens:

    >>> cached_prefixes([[5, 6], [5, 7], [5, 6]], np.array([8, 7, 8], np.int32), block_tokens=4)
    array([0, 4, 7], dtype=int32)
    """
    seen: set[int] = set()
    num_hits = np.zeros(len(block_ids), np.int64)
    for row, ids in enumerate(block_ids):
        num_hits[row] = next((k for k, block in enumerate(ids) if block not in seen), len(ids))
        seen.update(ids)
    return np.minimum(num_hits * block_tokens, prompt_tokens - 1).astype(np.int32)
