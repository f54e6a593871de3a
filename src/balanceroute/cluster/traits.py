"""What may be known of a waiting request beyond its prompt's length and its arrival."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels.ledger import RecordArray
from balanceroute.kernels.waiting import REQUEST_TRAITS

Integers = NDArray[np.integer] | Sequence[int]
UNKNOWN = np.array((-1, 0, 0, -1, 0, 0, 0, 0), REQUEST_TRAITS)
NO_TRAITS: RecordArray = np.zeros(0, REQUEST_TRAITS)  # where nothing is known of any request


def request_traits(
    num_requests: int,
    *,
    client_ids: Integers | None = None,
    max_tokens: Integers | None = None,
    prompt_hashes: Integers | None = None,
    preferred_ranks: Integers | None = None,
    saved_tokens: Integers | None = None,
    cached_tokens: Integers | None = None,
    priorities: Integers | None = None,
    sessions: Integers | None = None,
) -> RecordArray:
    """Return what is known of requests, one record each; columns left out are unknown.

    Parameters
    ----------
    num_requests : int
        N, at least 0.
    client_ids, max_tokens, prompt_hashes, preferred_ranks, saved_tokens, cached_tokens, priorities
        Integers, shape (N,); see `PoolView`.
    sessions
        Likewise.

    Returns
    -------
    REQUEST_TRAITS array, shape (N,)

    Examples
    --------
    >>> request_traits(2, max_tokens=[100, 0])[["client_id", "max_tokens"]].tolist()
    [(-1, 100), (-1, 0)]
    """
    traits: RecordArray = np.full(num_requests, UNKNOWN)
    for name, values in (
        ("client_id", client_ids),
        ("max_tokens", max_tokens),
        ("prompt_hash", prompt_hashes),
        ("preferred_rank", preferred_ranks),
        ("saved_tokens", saved_tokens),
        ("cached_tokens", cached_tokens),
        ("priority", priorities),
        ("session", sessions),
    ):
        if values is not None:
            traits[name] = values
    return traits
