"""What lies between two views of a group, told in one pass: each look from Python takes longer."""

from __future__ import annotations

from balanceroute.kernels.arrays import Int64Array, RecordArray
from balanceroute.kernels.jit import bare_kernel

# What `tell` tells, added up.
IS_BUSY = 1  # requests are in flight
IS_OLD = 2  # the view counts other requests on the ranks than are in flight
HAS_STEPPED = 4  # some rank has made a step
IS_ONE_STEP = 8  # each rank has made one
HAS_CACHE = 16  # some prompt was in a cache, of those that something has happened to


@bare_kernel
def tell(
    clocks_before: Int64Array,
    clocks: Int64Array,
    num_running: Int64Array,
    num_waiting: Int64Array,
    num_inflight: Int64Array,
    entries: RecordArray,
    events: RecordArray,
) -> int:
    """Tell what a view shows and what has happened since the one before.

    Parameters
    ----------
    clocks_before, clocks : int64 array, shape (G,)
        The ranks' clocks then and now.
    num_running, num_waiting, num_inflight : int64 array, shape (G,)
        As of `GroupView`, now.
    entries, events : ENTRY_ACCOUNT and REQUEST_EVENT array
        Likewise.

    Examples
    --------
    >>> import numpy as np
    >>> from balanceroute.kernels.ledger import ENTRY_ACCOUNT, REQUEST_EVENT
    >>> one, events = np.ones(2, np.int64), np.zeros(1, REQUEST_EVENT)
    >>> told = tell(one, one + 1, one, 0 * one, one, np.zeros(4, ENTRY_ACCOUNT), events)
    >>> told == IS_BUSY + HAS_STEPPED + IS_ONE_STEP
    True
    """
    told = IS_ONE_STEP
    for i in range(len(events)):
        if entries[events[i].handle].cached_tokens != 0:
            told |= HAS_CACHE
    for g in range(len(clocks)):
        if num_inflight[g] != 0:
            told |= IS_BUSY
        if num_running[g] + num_waiting[g] != num_inflight[g]:
            told |= IS_OLD
        if clocks[g] != clocks_before[g]:
            told |= HAS_STEPPED
        if clocks[g] != clocks_before[g] + 1:
            told &= ~IS_ONE_STEP
    return told
