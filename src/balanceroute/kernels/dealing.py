"""Waves' plans from what a view shows: requests get ranks, and those that go now are told."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.kernels.jit import bare_kernel, kernel
from balanceroute.kernels.level import plan_below_envelope
from balanceroute.kernels.placing import NONE
from balanceroute.kernels.planning import Group, Queue, ranks_of, waiting_of
from balanceroute.kernels.release import Dealt, Terms, Work, now_and_later, release, work_of
from balanceroute.kernels.spread import plan_spread


class Load(NamedTuple):
    """What ranks have to compute, and what that costs."""

    pending_tokens: Float64Array  # shape (G,): prompt tokens still to be computed
    prefill_s_per_token: float  # of a rank's own; above 0
    s_per_token: float
    kappa0_tokens: float


class Deal(NamedTuple):
    """On which terms requests get ranks."""

    now_s: float
    mean_wait_s: float  # above 0
    steps_per_refill: float  # see `now_and_later`
    chooses: bool  # whether there are fewer slots than requests, and each looks at all of these
    age_weight: float  # as in `Yardstick`
    patience: float  # as in `Yardstick`
    exchange_passes: int  # as in `plan_level`


@kernel
def work_from(group: Group, queue: Queue, load: Load) -> Work:
    """Return the work of ranks and waiting requests; see `work_of`."""
    cached_tokens = np.zeros(len(queue.traits), np.int64)
    for i in range(len(cached_tokens)):
        cached_tokens[i] = queue.traits[i].cached_tokens
    return work_of(
        load.pending_tokens,
        group.committed_tokens,
        group.num_reqs,
        queue.prompt_tokens,
        cached_tokens,
        load.prefill_s_per_token,
        load.s_per_token,
        load.kappa0_tokens,
    )


@kernel
def deal_out(
    group: Group, queue: Queue, load: Load, deal: Deal, has_affinity: bool
) -> tuple[Int64Array, Int64Array]:
    """Give the free slots requests so that prefill now and decode later are level.

    Where requests are not chosen, the heaviest go first, and are returned by age.

    Examples
    --------
    A rank with 90 prompt tokens still to be computed, and one with none, which may therefore get a
    longer prompt at no cost to the other:

    >>> from balanceroute.kernels.waiting import REQUEST_TRAITS
    >>> group = Group(np.array([90, 0]), np.array([1, 0]), np.ones(2), np.array([1, 1]),
    ...               np.array([1000, 1000]))
    >>> queue = Queue(np.array([10, 100, 30]), np.zeros(3), np.zeros(0, REQUEST_TRAITS))
    >>> load = Load(np.array([90.0, 0.0]), 1e-5, 1e-7, 0.0)
    >>> deal = Deal(0.0, 1.0, 10.0, True, 0.5, 1.5, 2)
    >>> deal_out(group, queue, load, deal, True)
    (array([1, 0]), array([1, 0]))
    """
    work = work_from(group, queue, load)
    loads, gains = now_and_later(
        work, load.prefill_s_per_token, deal.steps_per_refill, deal.chooses
    )
    known = queue.traits if has_affinity else queue.traits[:0]
    queue = Queue(queue.prompt_tokens, queue.arrival_s, known)
    ranks = ranks_of(group, loads, 0.0)
    waiting = waiting_of(queue, gains, deal.now_s, deal.mean_wait_s)
    if deal.chooses:
        return plan_below_envelope(
            ranks, waiting, deal.age_weight, deal.patience, deal.exchange_passes
        )
    requests, places = plan_spread(ranks, waiting, np.argsort(-gains[:, 0], kind="mergesort"))
    by_age = np.argsort(requests)
    return requests[by_age], places[by_age]


@kernel
def release_from(group: Group, queue: Queue, load: Load, dealt: Dealt, terms: Terms) -> BoolArray:
    """Return which of the requests dealt go now; see `release`."""
    return release(work_from(group, queue, load), dealt, terms)


@kernel
def since_when(
    ids: Int64Array, before: Int64Array, before_s: Float64Array, now_s: float
) -> Float64Array:
    """Return since when each request has been known: a time of before, or now.

    Parameters
    ----------
    ids, before : int64 array, shape (n,) and (m,)
        Names of requests, now and before.
    before_s : float64 array, shape (m,)
        Since when those of before have been known, seconds.
    now_s : float
        Time, seconds.

    Examples
    --------
    >>> since_when(np.array([8, 9]), np.array([7, 8]), np.array([1.0, 2.0]), 5.0)
    array([2., 5.])
    """
    size = 1
    while size < 2 * len(before) + 1:
        size *= 2
    slots = np.full(size, NONE)
    for i in range(len(before)):
        slots[_slot_of(slots, before, before[i])] = i
    since_s = np.full(len(ids), now_s)
    for i in range(len(ids)):
        row = slots[_slot_of(slots, before, ids[i])]
        if row != NONE:
            since_s[i] = before_s[row]
    return since_s


@bare_kernel
def _slot_of(slots: Int64Array, names: Int64Array, name: int) -> int:
    """Return the slot in which a name is, or into which it would go."""
    mixed = name * 0x1E3779B97F4A7C15
    slot = (mixed ^ (mixed >> 32)) & (len(slots) - 1)
    while slots[slot] != NONE and names[slots[slot]] != name:
        slot = (slot + 1) & (len(slots) - 1)
    return slot
