"""Loads, margins, imbalance and step time of a group (design section 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels.jit import kernel

USAGE_EXPONENT = 0.7  # power over utilisation of one rank, BF-IO (arXiv 2601.17855)


@kernel
def imbalance_tokens(load_tokens: NDArray[np.int64]) -> int:
    """Return the imbalance of one step, in tokens; lower is better.

    Implements ``I = G * max(L) - sum(L)`` of [1]_ and [2]_.

    Parameters
    ----------
    load_tokens : int64 array, shape (G,)
        KV tokens resident on each rank, at least one rank.

    Returns
    -------
    int
        Tokens of work that the group's barrier turns into waiting; 0 when all ranks are level.

    References
    ----------
    .. [1] BalanceRoute, arXiv 2605.06113.
    .. [2] BF-IO, arXiv 2601.17855.

    Examples
    --------
    >>> imbalance_tokens(np.array([100, 90, 70, 60]))
    80
    """
    largest = load_tokens[0]
    total = 0
    for load in load_tokens:
        total += load
        largest = max(largest, load)
    return len(load_tokens) * largest - total


@kernel
def margins_tokens(load_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how far each rank lies below the envelope, ``m_g = max(L) - L_g``.

    Parameters
    ----------
    load_tokens : int64 array, shape (G,)
        KV tokens resident on each rank, at least one rank.

    Returns
    -------
    int64 array, shape (G,)
        Tokens that fit on each rank before it becomes the slowest; at least 0.

    Examples
    --------
    >>> margins_tokens(np.array([100, 90, 70, 60]))
    array([ 0, 10, 30, 40])
    """
    return load_tokens.max() - load_tokens


@kernel
def rank_work_s(
    load_tokens: int,
    num_running: int,
    prefill_tokens: int,
    constant_s: float,
    s_per_token: float,
    kappa0_tokens: float,
    prefill_s_per_token: float,
    prefill_shared: float,
    mixed_step_s: float,
    speed: float,
) -> float:
    """Return the part of a step that rank g's own load causes, in seconds.

    Implements, with p the prompt tokens that it computes in the step (design section 6)::

        work = (C + t_l * (kappa0 * n + L) + (1 - sigma) * t_p * p + m * [p > 0]) / speed - C

    A step of the group lasts ``C + max_g work + sigma * t_p * mean_g p``. Lower is better.

    Parameters
    ----------
    load_tokens, num_running, prefill_tokens : int
        Resident KV tokens L, requests n, and prompt tokens computed in this step.
    constant_s, s_per_token : float
        C in seconds and t_l in seconds per resident token.
    kappa0_tokens : float
        Resident tokens that cost as much as one more running request; 0 gives the papers' model.
    prefill_s_per_token : float
        t_p in seconds per prompt token computed; 0 on decode-only ranks.
    prefill_shared : float
        sigma, the part of t_p that all ranks of the group work off together, in [0, 1].
    mixed_step_s : float
        m in seconds, for a step in which the rank computes prompt tokens at all.
    speed : float
        Speed of the rank relative to the nominal one, above 0.

    Examples
    --------
    >>> round(rank_work_s(100_000, 72, 0, 9.775e-3, 1.005e-7, 0.0, 0.0, 0.0, 0.0, 1.0), 6)
    0.01005
    >>> round(rank_work_s(100_000, 72, 512, 9.775e-3, 1.005e-7, 0.0, 2e-5, 0.5, 1e-3, 1.0), 6)
    0.01617
    """
    work = s_per_token * (kappa0_tokens * num_running + load_tokens)
    work += (1.0 - prefill_shared) * prefill_s_per_token * prefill_tokens
    if prefill_tokens > 0:
        work += mixed_step_s
    return (constant_s + work) / speed - constant_s
