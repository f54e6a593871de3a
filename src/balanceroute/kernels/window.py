"""The waiting requests sorted by size, with cheap removal.

Positions in size order are looked up by bisection. Removed ones are skipped through two arrays of
links that shorten themselves as they are followed, so a plan costs O(log N) per request.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.fscore import f_score
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import Int64Array
from balanceroute.kernels.plain import num_below

AGE_BITS = 32  # a key is the size shifted left by these, plus the position in the pool


class Window(NamedTuple):
    """Requests by size (ties: oldest first); links are one longer at both ends."""

    sizes: Int64Array  # shape (N,), ascending
    positions: Int64Array  # shape (N,), position in the pool
    up: Int64Array  # shape (N + 1,): i if not removed, else a step towards the next that is not
    down: Int64Array  # shape (N + 1,): the same downwards, shifted by one; 0 is the end


@kernel
def open_window(keys: Int64Array) -> Window:
    """Build a window from sorted keys ``size << AGE_BITS | position``."""
    num_requests = len(keys)
    sizes, positions = np.empty(num_requests, np.int64), np.empty(num_requests, np.int64)
    up, down = np.empty(num_requests + 1, np.int64), np.empty(num_requests + 1, np.int64)
    for i in range(num_requests):
        sizes[i] = keys[i] >> AGE_BITS
        positions[i] = keys[i] & ((1 << AGE_BITS) - 1)
    for i in range(num_requests + 1):
        up[i] = down[i] = i
    return Window(sizes, positions, up, down)


@kernel
def find_up(window: Window, index: int) -> int:
    """Return the first index from `index` upwards that is not removed, or N."""
    up = window.up
    while up[index] != index:
        up[index] = up[up[index]]
        index = up[index]
    return index


@kernel
def find_down(window: Window, index: int) -> int:
    """Return the first index from `index` downwards that is not removed, or -1."""
    down = window.down
    index += 1
    while down[index] != index:
        down[index] = down[down[index]]
        index = down[index]
    return index - 1


@kernel
def remove(window: Window, index: int) -> None:
    """Take the request at `index` out."""
    window.up[index] = index + 1
    window.down[index + 1] = index


@kernel
def best_single(window: Window, margin: int, limit: int, num_ranks: int) -> int:
    """Return the index of the request with the largest F (ties: oldest), or -1 if none fits.

    F (Eq. 1) rises with the size up to the margin and falls beyond it, so only the largest request
    within the margin and the smallest beyond it can win. Requests above `limit` are not looked at.
    """
    sizes = window.sizes
    within = find_down(window, num_below(sizes, min(margin, limit) + 1) - 1)
    beyond = find_up(window, num_below(sizes, margin + 1))
    if within >= 0:
        # Of several requests of this size, the oldest.
        within = find_up(window, num_below(sizes, sizes[within]))
    if beyond == len(sizes) or sizes[beyond] > limit:
        return within
    if within < 0:
        return beyond
    f_within = f_score(sizes[within], margin, num_ranks)
    f_beyond = f_score(sizes[beyond], margin, num_ranks)
    if f_within != f_beyond:
        return within if f_within > f_beyond else beyond
    return within if window.positions[within] < window.positions[beyond] else beyond
