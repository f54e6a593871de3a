"""LEVEL's placement loop: give each free slot the request that leaves the ranks level."""

from __future__ import annotations

from typing import NamedTuple

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


class Scratch(NamedTuple):
    """What choosing a request works with."""

    gains: Float64Array  # shape (K, N): those of `Waiting`, by horizon
    costs: Float64Array  # shape (N,): of each request for the slot looked at; overwritten
    has_preference: bool  # whether any request prefers a rank


@kernel
def scratch_for(waiting: Waiting) -> Scratch:
    """Return what choosing among these requests needs."""
    has_preference = False
    for rank in waiting.preferred:
        has_preference |= rank != NONE
    return Scratch(waiting.gains.T.copy(), np.empty(len(waiting.waits)), has_preference)


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


@bare_kernel
def best_request(
    ranks: Ranks,
    waiting: Waiting,
    yard: Yardstick,
    rank: int,
    envelope: float,
    is_kept: bool,
    scratch: Scratch,
) -> int:
    """Return the waiting request that suits a free slot of `rank` best, or `NONE` if none fits.

    The lowest sum wins of: squared distance from the target, averaged over the horizons, if this
    is the rank's last slot to fill or it is kept for a long request; G times what exceeds the
    envelope; less the request's age, and the prompt tokens that the rank would save it while it
    does not raise the envelope.
    """
    num_ranks, num_horizons = ranks.projected.shape
    speed, levels = ranks.speeds[rank], is_kept or ranks.sends[rank] == 1
    scale = 0.0  # about one standard deviation of the squared distance over the waiting requests
    for k in range(num_horizons):
        distance = ranks.projected[rank, k] / speed - yard.target[k]
        spread = yard.gain_spread[k] / speed
        scale += yard.weights[k] * (spread * spread + 2.0 * abs(distance) * spread)
    room, price = envelope - ranks.work[rank], num_ranks * yard.work_spread
    age_price, pace, costs = yard.age_weight * scale, 1.0 / speed, scratch.costs
    # Loops without branches, and along rows: compiled, each takes several requests at a time.
    for i in range(len(costs)):
        costs[i] = -age_price * waiting.waits[i]
    if levels:
        for k in range(num_horizons):
            distance = ranks.projected[rank, k] / speed - yard.target[k]
            away, weight = distance - yard.mean_gain[k] / speed, yard.weights[k]
            for i in range(len(costs)):
                distance = away + scratch.gains[k, i] * pace
                costs[i] += weight * distance * distance
    for i in range(len(costs)):
        costs[i] += price * max(scratch.gains[0, i] * pace - room, 0.0)
    if scratch.has_preference:
        for i in range(len(costs)):
            if waiting.preferred[i] == rank and scratch.gains[0, i] * pace <= room:
                costs[i] -= yard.work_spread * waiting.saved_tokens[i] / speed
    best, least = NONE, np.inf
    for i in range(len(costs)):
        if costs[i] >= least or waiting.is_taken[i] != FREE:
            continue
        if waiting.prompt_tokens[i] <= ranks.free_kv[rank]:
            best, least = i, costs[i]
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
    is_fixed, scratch = np.zeros(most, np.int64), scratch_for(waiting)
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
            request = best_request(ranks, waiting, yard, rank, envelope, is_kept, scratch)
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
