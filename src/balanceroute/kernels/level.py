"""LEVEL's placement loop: give each free slot the request that leaves the ranks level."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.exchange import swap
from balanceroute.kernels.jit import bare_kernel, kernel
from balanceroute.kernels.placing import NONE, Ranks, Waiting, envelope_of, place
from balanceroute.kernels.yardstick import Yardstick, counted, measure

# Given on to policies, which take LEVEL's kernels from here.
from balanceroute.kernels.yardstick import horizon_weights as horizon_weights
from balanceroute.kernels.yardstick import moments as moments


@bare_kernel
def emptiest(ranks: Ranks, weights: Float64Array) -> int:
    """Return the rank that may take a request and will have the least work, or `NONE`."""
    best, least = NONE, np.inf
    for g in range(len(ranks.work)):
        if ranks.sends[g] <= 0:
            continue
        work = 0.0
        for k in range(len(weights)):
            work += weights[k] * ranks.projected[g, k]
        work /= ranks.speeds[g]
        if work < least:
            best, least = g, work
    return best


@bare_kernel
def overdue(waiting: Waiting, rank_kv: int, start: int, patience: float) -> int:
    """Return the oldest request, if it has waited beyond all patience and fits, or `NONE`."""
    for i in range(start, len(waiting.waits)):
        if waiting.waits[i] <= patience:
            return NONE
        if waiting.is_taken[i] == 0 and waiting.prompt_tokens[i] <= rank_kv:
            return i
    return NONE


@kernel
def best_request(
    ranks: Ranks, waiting: Waiting, yard: Yardstick, rank: int, envelope: float
) -> int:
    """Return the waiting request that suits a free slot of `rank` best, or `NONE` if none fits.

    The lowest sum wins of: squared distance from the target, averaged over the horizons, if this
    is the rank's last slot to fill; G times what exceeds the envelope; less the request's age,
    and the prompt tokens that the rank would save it while it does not raise the envelope.
    """
    num_ranks, num_horizons = ranks.projected.shape
    speed, is_last = ranks.speeds[rank], ranks.sends[rank] == 1
    away = np.empty(num_horizons)
    scale = 0.0  # about one standard deviation of the squared distance over the waiting requests
    for k in range(num_horizons):
        distance = ranks.projected[rank, k] / speed - yard.target[k]
        away[k] = distance - yard.mean_gain[k] / speed
        spread = yard.gain_spread[k] / speed
        scale += yard.weights[k] * (spread * spread + 2.0 * abs(distance) * spread)
    room, price = envelope - ranks.work[rank], num_ranks * yard.work_spread
    age_price, pace = yard.age_weight * scale, 1.0 / speed
    best, least = NONE, np.inf
    for i in range(len(waiting.waits)):
        if waiting.is_taken[i] == 1 or waiting.prompt_tokens[i] > ranks.free_kv[rank]:
            continue
        cost = -age_price * waiting.waits[i]
        if is_last:
            for k in range(num_horizons):
                distance = away[k] + waiting.gains[i, k] * pace
                cost += yard.weights[k] * distance * distance
        excess = waiting.gains[i, 0] * pace - room
        if excess > 0.0:
            cost += price * excess
        elif waiting.preferred[i] == rank:
            cost -= yard.work_spread * waiting.saved_tokens[i] / speed
        if cost < least:
            best, least = i, cost
    return best


@kernel
def plan_level(
    ranks: Ranks, waiting: Waiting, age_weight: float, patience: float, exchange_passes: int
) -> tuple[Int64Array, Int64Array]:
    """Fill the free slots from a pool that has more requests than there are free slots.

    Parameters
    ----------
    ranks : Ranks
        Before the plan; changed in place.
    waiting : Waiting
        At least one request.
    age_weight, patience : float
        As in `Yardstick`.
    exchange_passes : int
        Times that exchanges among the placed requests are looked for, at most.

    Returns
    -------
    tuple of int64 arrays, shape (number placed,)
        Positions in the pool and their ranks.

    Examples
    --------
    Two ranks hold 100 and 60 tokens, with a slot free on each, and 10, 45 and 30 tokens wait.
    Level is 109 on each, so the rank with 60 gets 45 and the other 10:

    >>> ranks = Ranks(np.array([[100.0], [60.0]]), np.array([100.0, 60.0]), np.ones(2),
    ...               np.array([1, 1]), np.array([1000, 1000]))
    >>> prompts, nobody = np.array([10, 45, 30]), np.full(3, -1)
    >>> waiting = Waiting(prompts, prompts[:, None] * 1.0, np.zeros(3), nobody, nobody * 0,
    ...                   np.zeros(3, np.int64))
    >>> plan_level(ranks, waiting, 0.5, 4.0, 2)
    (array([1, 0]), array([1, 0]))
    """
    ranks, waiting, weights, mean, spread = counted(ranks, waiting)
    yard = measure(ranks, weights, mean, spread, age_weight, patience, False)
    return fill_slots(ranks, waiting, yard, exchange_passes)


@kernel
def plan_below_envelope(
    ranks: Ranks, waiting: Waiting, age_weight: float, patience: float, exchange_passes: int
) -> tuple[Int64Array, Int64Array]:
    """Do the same where the first column is work that is done once and then gone, as a prefill is.

    The ranks wait for the busiest one anyway, so what the others do meanwhile is free: they aim at
    its work if that is above the mean. All columns count alike, in the unit that they are given in.

    Parameters
    ----------
    ranks, waiting, age_weight, patience, exchange_passes
        As for `plan_level`.

    Examples
    --------
    As above, but the rank with 100 is not full, and the slots free are on two others:

    >>> ranks = Ranks(np.array([[100.0], [0.0], [60.0]]), np.array([100.0, 0.0, 60.0]), np.ones(3),
    ...               np.array([0, 1, 1]), np.array([1000, 1000, 1000]))
    >>> prompts, nobody = np.array([10, 35, 90]), np.full(3, -1)
    >>> waiting = Waiting(prompts, prompts[:, None] * 1.0, np.zeros(3), nobody, nobody * 0,
    ...                   np.zeros(3, np.int64))
    >>> plan_below_envelope(ranks, waiting, 0.5, 4.0, 2)
    (array([2, 1]), array([1, 2]))
    """
    mean, spread = moments(waiting.gains)
    weights = np.full(len(mean), 1.0 / len(mean))
    yard = measure(ranks, weights, mean, spread, age_weight, patience, True)
    return fill_slots(ranks, waiting, yard, exchange_passes)


@kernel
def fill_slots(
    ranks: Ranks, waiting: Waiting, yard: Yardstick, exchange_passes: int
) -> tuple[Int64Array, Int64Array]:
    """Give each free slot a request, then exchange pairs; see `plan_level`."""
    most = 0
    for g in range(len(ranks.work)):
        most += ranks.sends[g]
    most = min(most, len(waiting.waits))
    requests, places = np.empty(most, np.int64), np.empty(most, np.int64)
    is_fixed = np.zeros(most, np.int64)
    num_placed, oldest = 0, 0
    while num_placed < most:
        rank = emptiest(ranks, yard.weights)
        if rank == NONE:
            break
        while waiting.is_taken[oldest] == 1:
            oldest += 1
        envelope = envelope_of(ranks)
        if yard.rises:
            yard.target[0] = max(yard.target[0], envelope)
        request = overdue(waiting, ranks.free_kv[rank], oldest, yard.patience)
        if request != NONE:
            is_fixed[num_placed] = 1
        else:
            request = best_request(ranks, waiting, yard, rank, envelope)
        if request == NONE:  # nothing fits the rank's KV tokens
            ranks.sends[rank] = 0
            continue
        if waiting.preferred[request] == rank:
            is_fixed[num_placed] = 1
        place(ranks, waiting, yard.mean_gain, request, rank)
        requests[num_placed], places[num_placed] = request, rank
        num_placed += 1
    requests, places = requests[:num_placed], places[:num_placed]
    swap(ranks, waiting, yard.weights, requests, places, is_fixed, exchange_passes)
    return requests, places
