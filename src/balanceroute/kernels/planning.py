"""LEVEL's plans from what a view shows, in one call: each call from Python costs microseconds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array, RecordArray
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.level import plan_level
from balanceroute.kernels.placing import NONE, Ranks, Waiting
from balanceroute.kernels.spread import plan_spread


class Group(NamedTuple):
    """The ranks as a view shows them, shape (G,) each."""

    committed_tokens: Int64Array
    num_reqs: Int64Array  # in flight
    speeds: Float64Array  # above 0; shape (0,) if all are equal
    sends: Int64Array  # requests that each may take; changed in place
    free_kv: Int64Array  # prompt tokens that each may take; changed in place


class Queue(NamedTuple):
    """The waiting requests as a view shows them, oldest first."""

    prompt_tokens: Int64Array  # shape (N,)
    arrival_s: Float64Array  # shape (N,)
    traits: RecordArray  # REQUEST_TRAITS, shape (N,); shape (0,) if none prefers a rank


class Terms(NamedTuple):
    """What a plan goes by."""

    now_s: float
    mean_wait_s: float  # above 0
    request_tokens: float  # κ₀: tokens that cost as much as one more request
    age_weight: float  # as in `Yardstick`
    patience: float  # as in `Yardstick`
    exchange_passes: int  # as in `plan_level`
    has_berths: bool  # as in `plan_level`


@kernel
def ranks_of(group: Group, loads: Float64Array, request_tokens: float) -> Ranks:
    """Return the ranks with these loads, shape (G, K), to which their requests' cost is added.

    Examples
    --------
    >>> group = Group(np.array([100]), np.array([2]), np.array([0.5]), np.array([1]), np.array([9]))
    >>> ranks = ranks_of(group, np.array([[100.0]]), 10.0)
    >>> ranks.projected, ranks.work, ranks.speeds
    (array([[120.]]), array([240.]), array([0.5]))
    """
    speeds = group.speeds if len(group.speeds) > 0 else np.ones(len(loads))
    if request_tokens > 0.0:
        for g in range(len(loads)):
            loads[g] += request_tokens * group.num_reqs[g]
    return Ranks(loads, loads[:, 0] / speeds, speeds, group.sends, group.free_kv)


@kernel
def waiting_of(queue: Queue, gains: Float64Array, now_s: float, mean_wait_s: float) -> Waiting:
    """Return the waiting requests, that would add `gains`, shape (N, K).

    Examples
    --------
    >>> from balanceroute.kernels.waiting import REQUEST_TRAITS
    >>> queue = Queue(np.array([30]), np.array([1.0]), np.zeros(0, REQUEST_TRAITS))
    >>> waiting = waiting_of(queue, np.array([[30.0]]), 4.0, 2.0)
    >>> waiting.waits, waiting.preferred
    (array([1.5]), array([-1]))
    """
    num_waiting, num_known = len(queue.prompt_tokens), len(queue.traits)
    preferred, saved_tokens = np.full(num_waiting, NONE), np.zeros(num_waiting, np.int64)
    for i in range(num_known):
        preferred[i] = queue.traits[i].preferred_rank
        saved_tokens[i] = queue.traits[i].saved_tokens
    waits = (now_s - queue.arrival_s) / mean_wait_s
    is_taken = np.zeros(num_waiting, np.int64)
    return Waiting(queue.prompt_tokens, gains, waits, preferred, saved_tokens, is_taken)


@kernel
def present(group: Group, queue: Queue, terms: Terms) -> tuple[Ranks, Waiting]:
    """Return ranks and waiting requests with what they hold and add today: K is 1."""
    loads = np.empty((len(group.committed_tokens), 1))
    gains = np.empty((len(queue.prompt_tokens), 1))
    for g in range(len(loads)):
        loads[g, 0] = group.committed_tokens[g]
    for i in range(len(gains)):
        gains[i, 0] = queue.prompt_tokens[i] + terms.request_tokens
    ranks = ranks_of(group, loads, terms.request_tokens)
    return ranks, waiting_of(queue, gains, terms.now_s, terms.mean_wait_s)


@kernel
def level_present(group: Group, queue: Queue, terms: Terms) -> tuple[Int64Array, Int64Array]:
    """Choose among the waiting requests by what the ranks hold today; see `plan_level`.

    Examples
    --------
    Two ranks hold 100 and 60 tokens, with a slot free on each, and 10, 45 and 30 tokens wait:

    >>> from balanceroute.kernels.waiting import REQUEST_TRAITS
    >>> group = Group(np.array([100, 60]), np.array([1, 1]), np.zeros(0), np.array([1, 1]),
    ...               np.array([1000, 1000]))
    >>> queue = Queue(np.array([10, 45, 30]), np.zeros(3), np.zeros(0, REQUEST_TRAITS))
    >>> level_present(group, queue, Terms(0.0, 1.0, 0.0, 0.5, 4.0, 2, True))
    (array([1, 0]), array([1, 0]))
    """
    ranks, waiting = present(group, queue, terms)
    return plan_level(
        ranks, waiting, terms.age_weight, terms.patience, terms.exchange_passes, terms.has_berths
    )


@kernel
def level_ahead(
    group: Group, queue: Queue, terms: Terms, loads: Float64Array, gains: Float64Array
) -> tuple[Int64Array, Int64Array]:
    """Do so by what they will hold, shape (G, K), and requests would add, shape (N, K)."""
    ranks = ranks_of(group, loads, terms.request_tokens)
    waiting = waiting_of(queue, gains, terms.now_s, terms.mean_wait_s)
    return plan_level(
        ranks, waiting, terms.age_weight, terms.patience, terms.exchange_passes, terms.has_berths
    )


@kernel
def spread_present(
    group: Group, prompt_tokens: Int64Array, traits: RecordArray, request_tokens: float
) -> tuple[Int64Array, Int64Array]:
    """Place everybody by what the ranks hold today, the longest prompts first; see `plan_spread`.

    They are returned by age: under immediate binding that is how they queue on their ranks.

    Examples
    --------
    The rank with 60 tokens gets the 45, which leaves the other one lighter for the 30:

    >>> from balanceroute.kernels.waiting import REQUEST_TRAITS
    >>> group = Group(np.array([100, 60]), np.array([1, 1]), np.zeros(0), np.array([9, 9]),
    ...               np.array([1000, 1000]))
    >>> spread_present(group, np.array([30, 45]), np.zeros(0, REQUEST_TRAITS), 0.0)
    (array([0, 1]), array([0, 1]))
    """
    # How long they have waited decides nothing: there is room for all.
    queue = Queue(prompt_tokens, np.zeros(len(prompt_tokens)), traits)
    ranks, waiting = present(group, queue, Terms(0.0, 1.0, request_tokens, 0.0, 1.0, 0, False))
    order = np.argsort(-prompt_tokens, kind="mergesort")  # which is stable
    requests, places = plan_spread(ranks, waiting, order)
    by_age = np.argsort(requests)
    return requests[by_age], places[by_age]
