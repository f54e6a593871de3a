"""Requests that no rank could ever hold, as far as is known; the engine is to say so."""

from __future__ import annotations

import numpy as np

from balanceroute.live.group import LiveGroup

FITS = -1


def rank_for_misfit(group: LiveGroup, prompt_tokens: int) -> int:
    """Return the least loaded rank for a prompt that is beyond the KV tokens of every open one.

    It need not wait for room that there will never be: the engine refuses it, or knows better how
    long it is.

    Parameters
    ----------
    group : LiveGroup
        That has the ranks.
    prompt_tokens : int
        Of the prompt, at least 1; may be an estimate.

    Returns
    -------
    int
        `FITS` if some rank could hold it, or the policy is not asked for room, or none is open.

    Examples
    --------
    >>> from balanceroute.policies.classic import Fcfs
    >>> group = LiveGroup(num_ranks=2, policy=Fcfs(), num_slots=2, kv_tokens=1000)
    >>> rank_for_misfit(group, 1000), rank_for_misfit(group, 1001)
    (-1, 0)
    """
    if group.is_immediate or prompt_tokens <= min(group.kv_tokens.tolist()):
        return FITS
    is_open = np.array(group.is_open)
    if not is_open.any() or prompt_tokens <= int(group.kv_tokens[is_open].max()):
        return FITS
    ranks = group.ledger.ranks
    committed = ranks["load_tokens"] + ranks["due_tokens"]
    return int(np.where(is_open, committed, np.iinfo(np.int64).max).argmin())
