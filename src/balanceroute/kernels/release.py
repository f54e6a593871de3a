"""Whether to release requests to ranks that prefill, or to hold them for a fuller wave."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.kernels.jit import kernel

SHRINK = 1.5  # factor from one number of requests held back to the next that is tried
PRIORITIES = (-10, 10)  # in powers of 2, by which the time held counts


class Work(NamedTuple):
    """Seconds of work that ranks hold and requests bring, at nominal speed."""

    prefill_s: Float64Array  # shape (G,): of each rank's prompts still to be computed, all together
    decode_s: Float64Array  # shape (G,): what its requests add to each step
    request_prefill_s: Float64Array  # shape (N,): the same of each waiting request
    request_decode_s: Float64Array  # shape (N,)


class Dealt(NamedTuple):
    """Requests that a plan has given a rank."""

    requests: Int64Array  # shape (n,): positions in the pool
    ranks: Int64Array  # shape (n,)
    held_s: Float64Array  # shape (n,): how long each has been held
    priorities: Int64Array  # shape (n,): 1 less counts twice the time held
    ttft_left_s: Float64Array  # shape (n,): until a first token is due; empty if none ever is
    slots_s: Float64Array  # how long as many slots have been free, longest first; empty if unasked


class Terms(NamedTuple):
    """What the group does in a step, and on which terms it holds requests."""

    speeds: Float64Array  # shape (G,)
    step_prefill_s: float  # prefill in one step of a rank, at most: its token budget
    mixed_step_s: float  # what a step takes longer because some rank prefills
    constant_s: float  # what a step takes anyway
    mean_step_s: float  # what the latest steps have taken
    num_running: int  # requests that a release would stall
    strength: float  # waiting for a release, against waiting caused by it
    hold_s: float  # time that a request may be held
    hold_prefills: float  # and this many times its own prefill


class Wave(NamedTuple):
    """Requests that a plan has given a rank, and what holding and releasing them costs."""

    ranks: Int64Array  # shape (n,): the rank of each request
    prefill_s: Float64Array  # shape (n,): time that its rank alone needs for its prompt
    decode_s: Float64Array  # shape (n,): time that it adds to each step from then on
    held_s: Float64Array  # shape (n,): how long it has been held, longest first if `is_pooled`
    is_late: BoolArray  # shape (n,): whether it must not be held any longer
    is_pooled: bool  # held_s is of free slots, not of these requests


class Stall(NamedTuple):
    """What a release does to the requests that run."""

    work_s: Float64Array  # shape (G,): of each rank until its prompts are prefilled
    prefill_s: Float64Array  # shape (G,): the part of it that is prefill
    step_s: float  # prefill in one step of a rank, at most: its token budget
    mixed_step_s: float  # what a step takes longer because some rank prefills
    num_running: int  # requests that would wait
    strength: float  # waiting for a release, against waiting caused by it


@kernel
def work_of(
    pending_tokens: Float64Array,
    committed_tokens: Int64Array,
    num_reqs: Int64Array,
    prompt_tokens: Int64Array,
    cached_tokens: Int64Array,
    prefill_s_per_token: float,
    s_per_token: float,
    kappa0_tokens: float,
) -> Work:
    """Return the work of ranks and waiting requests.

    Parameters
    ----------
    pending_tokens : float64 array, shape (G,)
        Prompt tokens still to be computed.
    committed_tokens, num_reqs : int64 array, shape (G,)
        Tokens and requests that each step of the rank then reads.
    prompt_tokens, cached_tokens : int64 array, shape (N,)
        Of the waiting requests; the latter need not be computed. Empty if nothing is cached.
    prefill_s_per_token, s_per_token, kappa0_tokens : float
        Prefill of the rank's own, and cost of a decode step, as in `StepCosts`.

    Examples
    --------
    >>> none = np.zeros(0, np.int64)
    >>> work = work_of(np.array([50.0]), np.array([300]), np.array([2]), np.array([40]), none,
    ...                0.01, 0.001, 100.0)
    >>> work.prefill_s, work.decode_s, work.request_prefill_s, work.request_decode_s.round(3)
    (array([0.5]), array([0.5]), array([0.4]), array([0.14]))
    """
    num_ranks, num_requests = len(num_reqs), len(prompt_tokens)
    work = Work(
        prefill_s_per_token * pending_tokens,
        np.empty(num_ranks),
        np.empty(num_requests),
        np.empty(num_requests),
    )
    for g in range(num_ranks):
        work.decode_s[g] = s_per_token * (kappa0_tokens * num_reqs[g] + committed_tokens[g])
    for i in range(num_requests):
        cached = cached_tokens[i] if len(cached_tokens) > 0 else 0
        work.request_prefill_s[i] = prefill_s_per_token * (prompt_tokens[i] - cached)
        work.request_decode_s[i] = s_per_token * (kappa0_tokens + prompt_tokens[i])
    return work


@kernel
def now_and_later(
    work: Work, unit_s: float, num_steps: float, are_apart: bool
) -> tuple[Float64Array, Float64Array]:
    """Return what ranks and requests take in this step, and over the steps that follow.

    Parameters
    ----------
    work : Work
    unit_s : float
        What both are counted in, above 0.
    num_steps : float
        Steps that follow, until the rank's load can be levelled again.
    are_apart : bool
        Whether now and later are columns of their own, or added up in one.

    Returns
    -------
    tuple of float64 arrays, shape (G, K) and (N, K)
        K is 2 or 1.
    """
    loads = np.empty((len(work.decode_s), 2 if are_apart else 1))
    gains = np.empty((len(work.request_decode_s), loads.shape[1]))
    for g in range(len(loads)):
        later = num_steps / unit_s * work.decode_s[g]
        loads[g, 0] = (work.prefill_s[g] + work.decode_s[g]) / unit_s
        if are_apart:
            loads[g, 1] = later
        else:
            loads[g, 0] += later
    for i in range(len(gains)):
        later = num_steps / unit_s * work.request_decode_s[i]
        gains[i, 0] = (work.request_prefill_s[i] + work.request_decode_s[i]) / unit_s
        if are_apart:
            gains[i, 1] = later
        else:
            gains[i, 0] += later
    return loads, gains


@kernel
def release(work: Work, dealt: Dealt, terms: Terms) -> BoolArray:
    """Return which of the requests dealt go now; see `released`, which decides."""
    num_requests, (least, most) = len(dealt.requests), PRIORITIES
    prefill_s, decode_s = np.empty(num_requests), np.empty(num_requests)
    held_s, is_late = np.empty(num_requests), np.zeros(num_requests, np.bool_)
    work_s = (work.prefill_s + work.decode_s) / terms.speeds
    for i in range(num_requests):
        request, rank = dealt.requests[i], dealt.ranks[i]
        prefill_s[i] = work.request_prefill_s[request] / terms.speeds[rank]
        decode_s[i] = work.request_decode_s[request] / terms.speeds[rank]
        held_s[i] = dealt.held_s[i] * 2.0 ** -max(least, min(most, dealt.priorities[i]))
        is_late[i] = held_s[i] > terms.hold_s + terms.hold_prefills * prefill_s[i]
        if len(dealt.ttft_left_s) > 0:
            own_s = work_s[rank] + prefill_s[i] + decode_s[i] + terms.constant_s
            is_late[i] |= 0.0 < dealt.ttft_left_s[i] - own_s < terms.mean_step_s
    is_short = len(dealt.slots_s) > 0
    stall = Stall(
        work_s,
        work.prefill_s / terms.speeds,
        terms.step_prefill_s,
        terms.mixed_step_s,
        terms.num_running,
        terms.strength,
    )
    counted_s = dealt.slots_s if is_short else held_s
    return released(Wave(dealt.ranks, prefill_s, decode_s, counted_s, is_late, is_short), stall)


@kernel
def released(wave: Wave, stall: Stall) -> BoolArray:
    """Return which requests to release now.

    All of them if one is late or nothing runs. Else the most for which the time that they have been
    held is at least the time that all running requests would lose: the longest prompts are left out
    until it is. If there are none such, those that raise no rank above the busiest one.

    Parameters
    ----------
    wave : Wave
        n requests, at least one.
    stall : Stall
        The group.

    Returns
    -------
    bool array, shape (n,)

    Examples
    --------
    Two ranks run 10 requests. A prompt of 0.1 s stops one rank's neighbour for 0.05 s more than if
    both had their half, so it is held until it has waited 0.5 s. With one for each rank nothing is
    lost:

    >>> running = Stall(np.zeros(2), np.zeros(2), 0.1, 0.0, 10, 1.0)
    >>> def wave(ranks, held_s):
    ...     n = len(ranks)
    ...     return Wave(np.array(ranks), np.full(n, 0.1), np.zeros(n), np.full(n, held_s),
    ...                 np.zeros(n, np.bool_), False)
    >>> released(wave([0], 0.4), running), released(wave([0], 0.6), running)
    (array([False]), array([ True]))
    >>> released(wave([0, 1], 0.0), running)
    array([ True,  True])
    """
    num_requests = len(wave.ranks)
    if stall.num_running == 0 or wave.is_late.any():
        return np.ones(num_requests, np.bool_)
    by_length = np.argsort(-wave.prefill_s)
    is_in = np.ones(num_requests, np.bool_)
    num_out, num_tried = 0, 0
    while num_tried < num_requests:
        while num_out < num_tried:
            is_in[by_length[num_out]] = False
            num_out += 1
        if held_time(wave, is_in) >= stall.strength * stall.num_running * waste(wave, stall, is_in):
            return is_in
        num_tried = max(num_tried + 1, int(num_tried * SHRINK))
    return free_riders(wave, stall, by_length)


@kernel
def held_time(wave: Wave, is_in: BoolArray) -> float:
    """Return how long the requests, or as many free slots, have been held together."""
    total = 0.0
    if wave.is_pooled:
        for i in range(min(is_in.sum(), len(wave.held_s))):
            total += wave.held_s[i]
    else:
        for i in range(len(is_in)):
            if is_in[i]:
                total += wave.held_s[i]
    return total


@kernel
def waste(wave: Wave, stall: Stall, is_in: BoolArray) -> float:
    """Return the seconds that the group loses to a release.

    That is by how much the wait for the busiest rank gets longer, less by how much it would if the
    ranks shared the work evenly.
    """
    work_s, prefill_s = stall.work_s.copy(), stall.prefill_s.copy()
    even_s = 0.0
    for i in range(len(is_in)):
        if is_in[i]:
            work_s[wave.ranks[i]] += wave.prefill_s[i] + wave.decode_s[i]
            prefill_s[wave.ranks[i]] += wave.prefill_s[i]
            even_s += (wave.prefill_s[i] + wave.decode_s[i]) / len(work_s)
    lost_s = work_s.max() - stall.work_s.max() - even_s
    num_steps = np.ceil(prefill_s.max() / stall.step_s) - np.ceil(
        stall.prefill_s.max() / stall.step_s
    )
    return float(lost_s + stall.mixed_step_s * num_steps)


@kernel
def free_riders(wave: Wave, stall: Stall, by_length: Int64Array) -> BoolArray:
    """Return the requests that leave every rank at or below the busiest one, longest first."""
    work_s, envelope_s = stall.work_s.copy(), stall.work_s.max()
    rides = np.zeros(len(by_length), np.bool_)
    for i in by_length:
        added_s = wave.prefill_s[i] + wave.decode_s[i]
        if work_s[wave.ranks[i]] + added_s <= envelope_s:
            work_s[wave.ranks[i]] += added_s
            rides[i] = True
    return rides
