"""Plain loops for what NumPy has too: Numba compiles these many times faster than its own versions.

A first start compiles every kernel that it needs, so each second saved here is a second less that
a new user waits.
"""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import Int64Array


@kernel
def largest(values: Int64Array) -> int:
    """Return the largest of at least one value.

    Examples
    --------
    >>> largest(np.array([3, 8, 5]))
    8
    """
    most = values[0]
    for value in values:
        most = max(most, value)
    return most


@kernel
def total(values: Int64Array) -> int:
    """Return the sum of the values.

    Examples
    --------
    >>> total(np.array([3, 8, 5]))
    16
    """
    summed = 0
    for value in values:
        summed += value
    return summed


@kernel
def pick(values: Int64Array, indices: Int64Array) -> Int64Array:
    """Return the values at `indices`.

    Examples
    --------
    >>> pick(np.array([3, 8, 5]), np.array([2, 0]))
    array([5, 3])
    """
    picked = np.empty(len(indices), np.int64)
    for i in range(len(indices)):
        picked[i] = values[indices[i]]
    return picked


@kernel
def num_below(ascending: Int64Array, bound: int) -> int:
    """Return how many of the ascending values are less than `bound`.

    Examples
    --------
    >>> num_below(np.array([3, 5, 5, 8]), 5)
    1
    """
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < bound:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def sort_ascending(values: Int64Array) -> None:
    """Sort in place, for some hundreds of values (Shell's method with Ciura's gaps).

    Examples
    --------
    >>> values = np.array([5, 3, 8, 3])
    >>> sort_ascending(values)
    >>> values
    array([3, 3, 5, 8])
    """
    for gap in (132, 57, 23, 10, 4, 1):
        for i in range(gap, len(values)):
            value, j = values[i], i
            while j >= gap and values[j - gap] > value:
                values[j] = values[j - gap]
                j -= gap
            values[j] = value
