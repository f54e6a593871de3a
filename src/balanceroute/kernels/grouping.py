"""Which group a request should go to: wait, head-room, and where its prefix or session is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels.jit import kernel
from balanceroute.kernels.ledger import Int64Array
from balanceroute.kernels.ring import bound_of, owner_on_ring


class Groups(NamedTuple):
    """What is known of the groups; `assign_groups` changes it as it places requests."""

    num_reqs: Int64Array  # shape (K,): in flight
    slots: Int64Array  # shape (K,); 0 while a group is away
    tokens: NDArray[np.float64]  # shape (K,): resident and due
    kv_tokens: NDArray[np.float64]  # shape (K,): what it can hold
    ends_per_s: NDArray[np.float64]  # shape (K,): requests that it brings to an end, above 0
    max_sends: Int64Array  # shape (K,): requests that it may still take
    free_kv_tokens: Int64Array  # shape (K,): prompt tokens that it may still take


class Waiting(NamedTuple):
    """The requests to be placed, oldest first."""

    prompt_tokens: Int64Array  # shape (N,)
    preferred: Int64Array  # shape (N,): the group that holds its prefix; -1 if none does
    saved_tokens: Int64Array  # shape (N,): prompt tokens that the preferred group would save
    sessions: NDArray[np.uint64]  # shape (N,): keys on the ring; 0 without a session


@kernel
def predicted_wait_s(
    num_reqs: int, slots: int, tokens: float, kv_tokens: float, prompt_tokens: int, per_s: float
) -> float:
    """Return how long a request would wait for a place in a group.

    Implements (ours)::

        wait = max(0, n + 1 − slots, (T + s − K) / (T / n)) / μ

    requests of those in flight have to end first: as many as make a slot free, or as many as make
    room for the prompt, if the mean request holds T / n tokens; μ of them end in a second.

    Parameters
    ----------
    num_reqs, slots : int
        n, in flight, and the slots of all ranks of the group.
    tokens, kv_tokens : float
        T, resident and due, and K, what the group can hold.
    prompt_tokens : int
        s.
    per_s : float
        μ, above 0.

    Returns
    -------
    float
        Seconds, at least 0; lower is better.

    Examples
    --------
    >>> predicted_wait_s(100, 96, 1e5, 1e6, 500, 10.0)
    0.5
    >>> predicted_wait_s(50, 96, 1e5, 1e5, 4000, 10.0)
    0.2
    """
    num_ahead = float(num_reqs + 1 - slots)
    if num_reqs > 0 and tokens > 0.0:
        num_ahead = max(num_ahead, (tokens + prompt_tokens - kv_tokens) * num_reqs / tokens)
    return max(0.0, num_ahead) / per_s


@kernel
def assign_groups(
    groups: Groups,
    waiting: Waiting,
    places: NDArray[np.uint64],
    owners: Int64Array,
    excess: float,
    s_per_token: float,
    kappa0_tokens: float,
) -> Int64Array:
    """Give the oldest requests, one by one, to groups.

    A request goes to the group that holds its prefix, else to its session's on the ring, if that
    group stays within its bound (`bound_of`) and is not waited for longer than elsewhere by more
    than the prompt tokens that may be saved there cost. Else to the group with the shortest
    predicted wait, and among those without any, to the one with the least load per slot. Stops at
    the first request that no group can take.

    Parameters
    ----------
    groups, waiting
        See the classes. `groups` is changed in place.
    places, owners
        The ring, as `make_ring` returns it for K owners.
    excess : float
        ε of `bound_of`.
    s_per_token : float
        Seconds that a prompt token takes, t_p, at least 0.
    kappa0_tokens : float
        κ₀: tokens that cost as much as one more request.

    Returns
    -------
    int64 array, shape (M,)
        Groups of the M oldest requests.
    """
    num_groups, num_requests = len(groups.slots), len(waiting.prompt_tokens)
    chosen = np.empty(num_requests, np.int64)
    waits_s = np.empty(num_groups)
    is_fit = np.empty(num_groups, np.bool_)
    in_flight, sum_slots = 0, 0
    for g in range(num_groups):
        if groups.slots[g] > 0:
            in_flight += groups.num_reqs[g]
            sum_slots += groups.slots[g]
    for i in range(num_requests):
        prompt = waiting.prompt_tokens[i]
        best, best_wait_s, best_level = -1, np.inf, np.inf
        for g in range(num_groups):
            is_fit[g] = False
            if groups.max_sends[g] == 0 or groups.free_kv_tokens[g] < prompt:
                continue
            n, slots, tokens = groups.num_reqs[g], groups.slots[g], groups.tokens[g]
            per_s = groups.ends_per_s[g]
            waits_s[g] = predicted_wait_s(n, slots, tokens, groups.kv_tokens[g], prompt, per_s)
            is_fit[g] = n < bound_of(in_flight + 1, slots, sum_slots, excess)
            level = (kappa0_tokens * n + tokens) / slots
            if waits_s[g] < best_wait_s or (waits_s[g] == best_wait_s and level < best_level):
                best, best_wait_s, best_level = g, waits_s[g], level
        if best < 0:
            return chosen[:i]
        there = waiting.preferred[i]
        may_save = waiting.saved_tokens[i]
        if there < 0 or not is_fit[there]:
            there = -1
            if waiting.sessions[i] != 0:
                there = owner_on_ring(places, owners, waiting.sessions[i], is_fit)
                may_save = prompt
        if there >= 0 and waits_s[there] <= best_wait_s + may_save * s_per_token:
            best = there
        chosen[i] = best
        in_flight += 1
        groups.num_reqs[best] += 1
        groups.tokens[best] += prompt
        groups.max_sends[best] -= 1
        groups.free_kv_tokens[best] -= prompt
    return chosen
