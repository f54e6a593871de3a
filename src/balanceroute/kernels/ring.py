"""Consistent hashing with bounded loads: who serves a session, whoever comes and goes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels.arrays import BoolArray
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import Int64Array

POINTS = 128  # on the ring for each owner: shares differ by a tenth or so

# Steele, Lea, Flood (OOPSLA 2014): the finaliser of SplitMix64, as David Stafford's variant 13.
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mixed(keys: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Spread keys evenly over 64 bits, equal keys alike.

    Parameters
    ----------
    keys : integer array, shape (N,)
        Any.

    Returns
    -------
    uint64 array, shape (N,)
        One-to-one with the keys.

    Examples
    --------
    >>> mixed(np.array([0, 1])).tolist()
    [16294208416658607535, 10451216379200822465]
    """
    x = keys.astype(np.uint64) + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
    spread: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return spread


def make_ring(num_owners: int) -> tuple[NDArray[np.uint64], Int64Array]:
    """Return the places on the ring, ascending, and whose each of them is.

    An owner's places depend on its number alone, so those of the first n owners are the same
    however many there are: one that is new takes over what lies before its own places, and nothing
    else moves.

    Parameters
    ----------
    num_owners : int
        At least 0.

    Returns
    -------
    places : uint64 array, shape (POINTS · num_owners,)
        Ascending.
    owners : int64 array, of the same shape
        In 0..num_owners − 1.

    Examples
    --------
    >>> places, owners = make_ring(2)
    >>> len(places), owners[:4].tolist(), bool((places[1:] >= places[:-1]).all())
    (256, [1, 1, 0, 1], True)
    """
    places = mixed(np.arange(num_owners * POINTS))
    order = np.argsort(places, kind="stable")
    return places[order], order // POINTS


@kernel
def bound_of(num_requests: int, slots: int, sum_slots: int, excess: float) -> int:
    """Return how many requests an owner may have at most, so that it stays near its share.

    Implements the bound of [1]_ for owners of unequal size::

        bound = ceil((1 + ε) · m · slots / Σ slots)

    Parameters
    ----------
    num_requests : int
        m, those in flight at all owners, with the one to be placed.
    slots, sum_slots : int
        Of the owner and of all together; the latter at least 1.
    excess : float
        ε, above 0.

    Returns
    -------
    int
        Requests. Some owner is always below its bound before the request is placed.

    References
    ----------
    .. [1] Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018.

    Examples
    --------
    >>> bound_of(9, 10, 30, 0.25)
    4
    """
    return int(np.ceil((1.0 + excess) * num_requests * slots / sum_slots))


@kernel
def owner_on_ring(
    places: NDArray[np.uint64], owners: Int64Array, key: np.uint64, is_fit: BoolArray
) -> int:
    """Return the first fit owner at or after a key on the ring, going round; -1 if none is fit.

    Parameters
    ----------
    places, owners
        As `make_ring` returns them.
    key : uint64
        As `mixed` returns it.
    is_fit : bool array, shape (owners,)
        Who may have the request.

    Examples
    --------
    >>> places, owners = np.array([10, 20, 30], np.uint64), np.array([0, 1, 2])
    >>> owner_on_ring(places, owners, np.uint64(15), np.array([True, True, True]))
    1
    >>> owner_on_ring(places, owners, np.uint64(15), np.array([True, False, False]))
    0
    """
    first = np.searchsorted(places, key)
    for k in range(len(places)):
        i = first + k
        if i >= len(places):
            i -= len(places)
        if is_fit[owners[i]]:
            return int(owners[i])
    return -1
