"""Whether to release requests to ranks that prefill, or to hold them for a fuller wave."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.kernels.jit import kernel

SHRINK = 1.5  # factor from one number of requests held back to the next that is tried


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
