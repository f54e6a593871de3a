"""LEVEL's placement loop: give each free slot the request that leaves the ranks level."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.berths import due, give_up
from balanceroute.kernels.exchange import swap
from balanceroute.kernels.jit import bare_kernel, kernel
from balanceroute.kernels.placing import (
    FREE,
    HELD,
    NONE,
    TAKEN,
    Ranks,
    Waiting,
    envelope_of,
    place,
)
from balanceroute.kernels.yardstick import Yardstick


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
        if waiting.is_taken[i] != TAKEN and waiting.prompt_tokens[i] <= rank_kv:
            return i
    return NONE


@kernel
def best_request(
    ranks: Ranks, waiting: Waiting, yard: Yardstick, rank: int, envelope: float, is_kept: bool
) -> int:
    """Return the waiting request that suits a free slot of `rank` best, or `NONE` if none fits.

    The lowest sum wins of: squared distance from the target, averaged over the horizons, if this
    is the rank's last slot to fill or it is kept for a long request; G times what exceeds the
    envelope; less the request's age, and the prompt tokens that the rank would save it while it
    does not raise the envelope.
    """
    num_ranks, num_horizons = ranks.projected.shape
    speed, levels = ranks.speeds[rank], is_kept or ranks.sends[rank] == 1
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
        if waiting.is_taken[i] != FREE or waiting.prompt_tokens[i] > ranks.free_kv[rank]:
            continue
        cost = -age_price * waiting.waits[i]
        if levels:
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


@bare_kernel
def num_to_place(ranks: Ranks, waiting: Waiting) -> int:
    """Return how many requests a plan places, if the KV tokens suffice."""
    most = 0
    for sends in ranks.sends:
        most += sends
    return min(most, len(waiting.waits))


@kernel
def fill_slots(
    ranks: Ranks, waiting: Waiting, yard: Yardstick, berths: Int64Array, exchange_passes: int
) -> tuple[Int64Array, Int64Array]:
    """Give each free slot a request, then exchange pairs; see `plan_level` and `book`."""
    most = num_to_place(ranks, waiting)
    requests, places = np.empty(most, np.int64), np.empty(most, np.int64)
    is_fixed = np.zeros(most, np.int64)
    num_placed, oldest = 0, 0
    while num_placed < most:
        rank = emptiest(ranks, yard.weights)
        if rank == NONE:
            break
        while waiting.is_taken[oldest] == TAKEN:
            oldest += 1
        envelope = envelope_of(ranks)
        if yard.rises:
            yard.target[0] = max(yard.target[0], envelope)
        request = due(ranks, waiting, yard, berths, rank)
        if request == NONE:
            request = overdue(waiting, ranks.free_kv[rank], oldest, yard.patience)
        if request != NONE:
            is_fixed[num_placed] = 1
        else:
            is_kept = berths[rank] != NONE
            request = best_request(ranks, waiting, yard, rank, envelope, is_kept)
        if request == NONE:  # nothing fits the rank's KV tokens
            ranks.sends[rank] = 0
            continue
        if waiting.preferred[request] == rank:
            is_fixed[num_placed] = 1
        if waiting.is_taken[request] == HELD:
            give_up(ranks, waiting, yard.mean_gain, berths, request)
        place(ranks, waiting, yard.mean_gain, request, rank)
        requests[num_placed], places[num_placed] = request, rank
        num_placed += 1
    requests, places = requests[:num_placed], places[:num_placed]
    swap(ranks, waiting, yard.weights, requests, places, is_fixed, exchange_passes)
    return requests, places
