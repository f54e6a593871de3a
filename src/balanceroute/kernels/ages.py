"""How far requests in flight have come, from their accounts in a ledger."""

from __future__ import annotations

from typing import Any

import numpy as np

from balanceroute.kernels.jit import bare_kernel, kernel
from balanceroute.kernels.ledger import DECODING, Int64Array, RecordArray


@bare_kernel
def age_tokens(entry: Any, clock: int) -> int:
    """Return the output tokens that a request in flight has so far.

    What is resident and what is due are together its prompt and its output, also while a
    preempted request waits to be computed again.

    Parameters
    ----------
    entry : ENTRY_ACCOUNT record
        The request's account.
    clock : int
        The clock of its rank, in steps.

    Returns
    -------
    int
        Output tokens generated, at least 0; of no meaning where the state is `FREE`.

    Examples
    --------
    Three of ten prompt tokens are resident; nothing is generated before the last of them.

    >>> from balanceroute.kernels.ledger import ENTRY_ACCOUNT, PREFILLING
    >>> entry = np.zeros((), ENTRY_ACCOUNT)
    >>> entry["state"], entry["prompt_tokens"] = PREFILLING, 10
    >>> entry["due_tokens"], entry["base_tokens"] = 7, 3
    >>> age_tokens(entry[()], clock=5)
    0

    It decodes since its rank's clock stood at 5, and has grown by a token a step since.

    >>> entry["state"], entry["due_tokens"], entry["base_tokens"] = DECODING, 0, 10 - 5
    >>> age_tokens(entry[()], clock=7)
    2
    """
    tokens = entry.base_tokens + entry.due_tokens - entry.prompt_tokens
    if entry.state == DECODING:
        tokens += clock
    return tokens


@kernel
def ages_tokens(entries: RecordArray, clocks: Int64Array, handles: Int64Array) -> Int64Array:
    """Return the output tokens so far of requests in flight.

    Parameters
    ----------
    entries : ENTRY_ACCOUNT array, shape (capacity,)
        Accounts by handle.
    clocks : int64 array, shape (G,)
        Clocks of the ranks, in steps, of the same moment as the entries.
    handles : int64 array, shape (N,)
        Which requests.

    Returns
    -------
    int64 array, shape (N,)
        Output tokens generated; see `age_tokens`.

    Examples
    --------
    >>> from balanceroute.kernels.ledger import ENTRY_ACCOUNT
    >>> entries = np.zeros(3, ENTRY_ACCOUNT)
    >>> entries["state"], entries["prompt_tokens"] = DECODING, 10
    >>> entries["base_tokens"] = [10, 8, 4]
    >>> ages_tokens(entries, np.array([6]), np.array([2, 1]))
    array([0, 4])
    """
    ages = np.empty(len(handles), np.int64)
    for i in range(len(handles)):
        entry = entries[handles[i]]
        ages[i] = age_tokens(entry, clocks[entry.rank])
    return ages
