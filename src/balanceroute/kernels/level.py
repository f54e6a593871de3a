"""LEVEL's placement loop: give each free slot the request that leaves the ranks level."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.exchange import swap
from balanceroute.kernels.jit import bare_kernel, kernel
from balanceroute.kernels.placing import NONE, Ranks, Waiting, envelope_of, place


class Yardstick(NamedTuple):
    """What a plan measures against."""

    weights: Float64Array  # shape (K,): of each horizon, above 0, summing to 1
    mean_gain: Float64Array  # shape (K,): over the waiting requests
    gain_spread: Float64Array  # shape (K,): standard deviation of the same
    target: Float64Array  # shape (K,): work of every rank if they were level
    work_spread: float  # standard deviation of the ranks' work once refilled, plus 1
    age_weight: float  # of a mean wait against one standard deviation of the cost of a choice
    patience: float  # mean waits after which age alone decides
    rises: bool  # whether the present's target is at least the work of the busiest rank


@kernel
def moments(gains: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return mean and standard deviation of each column.

    Examples
    --------
    >>> moments(np.array([[1.0, 0.0], [3.0, 0.0]]))
    (array([2., 0.]), array([1., 0.]))
    """
    num_rows, num_columns = gains.shape
    mean, spread = np.zeros(num_columns), np.zeros(num_columns)
    for k in range(num_columns):
        for i in range(num_rows):
            mean[k] += gains[i, k] / num_rows
        for i in range(num_rows):
            spread[k] += (gains[i, k] - mean[k]) ** 2 / num_rows
        spread[k] = np.sqrt(spread[k])
    return mean, spread


@kernel
def horizon_weights(gain_spread: Float64Array) -> Float64Array:
    """Return how much each horizon counts: 1 now, ``(sd then / sd now)^2 - 1`` in [0, 1] later.

    A later load counts only where the choice among waiting requests decides more of it than of
    the present load; what it decides less of can be put right with later requests' prompts.

    Parameters
    ----------
    gain_spread : float64 array, shape (K,)
        Standard deviation over waiting requests of the load that each would add, by horizon.

    Returns
    -------
    float64 array, shape (K,)
        Summing to 1.

    Examples
    --------
    >>> horizon_weights(np.array([10.0, 10.0, 20.0]))
    array([0.5, 0. , 0.5])
    """
    weights = np.zeros(len(gain_spread))
    total = weights[0] = 1.0
    for k in range(1, len(weights)):
        excess = gain_spread[k] ** 2 - gain_spread[0] ** 2
        if excess > 0.0:
            weights[k] = min(1.0, excess / max(gain_spread[0] ** 2, 1e-300))
            total += weights[k]
    for k in range(len(weights)):
        weights[k] /= total
    return weights


@kernel
def counted(
    ranks: Ranks, waiting: Waiting
) -> tuple[Ranks, Waiting, Float64Array, Float64Array, Float64Array]:
    """Leave out the horizons that do not count: placing and exchanging look at the rest often.

    Returns
    -------
    tuple
        `ranks` and `waiting` with the columns that count, the present first; the weights of these,
        and mean and standard deviation of what a waiting request adds.
    """
    mean, spread = moments(waiting.gains)
    weights = horizon_weights(spread)
    used = np.nonzero(weights)[0]
    num_ranks, num_waiting = len(ranks.work), len(waiting.waits)
    projected = np.empty((num_ranks, len(used)))
    gains = np.empty((num_waiting, len(used)))
    for j in range(len(used)):
        for g in range(num_ranks):
            projected[g, j] = ranks.projected[g, used[j]]
        for i in range(num_waiting):
            gains[i, j] = waiting.gains[i, used[j]]
    ranks = Ranks(projected, ranks.work, ranks.speeds, ranks.sends, ranks.free_kv)
    waiting = Waiting(
        waiting.prompt_tokens,
        gains,
        waiting.waits,
        waiting.preferred,
        waiting.saved_tokens,
        waiting.is_taken,
    )
    return ranks, waiting, weights[used], mean[used], spread[used]


@kernel
def measure(
    ranks: Ranks,
    weights: Float64Array,
    mean: Float64Array,
    spread: Float64Array,
    age_weight: float,
    patience: float,
    rises: bool,
) -> Yardstick:
    """Fill the ranks' projection up with mean requests, and derive what to aim at.

    Parameters
    ----------
    ranks : Ranks
        ``projected`` without the free slots; they are added here.
    weights, mean, spread : float64 array, shape (K,)
        Of each horizon, and of what the waiting requests would add then.
    age_weight, patience, rises
        As in `Yardstick`.
    """
    num_ranks, num_horizons = ranks.projected.shape
    target = np.zeros(num_horizons)
    total_speed = 0.0
    for g in range(num_ranks):
        total_speed += ranks.speeds[g]
        for k in range(num_horizons):
            ranks.projected[g, k] += ranks.sends[g] * mean[k]
            target[k] += ranks.projected[g, k]
    for k in range(num_horizons):
        target[k] /= total_speed
    variance = 0.0
    for g in range(num_ranks):
        variance += (ranks.projected[g, 0] / ranks.speeds[g] - target[0]) ** 2 / num_ranks
    work_spread = np.sqrt(variance) + 1.0
    return Yardstick(weights, mean, spread, target, work_spread, age_weight, patience, rises)


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
