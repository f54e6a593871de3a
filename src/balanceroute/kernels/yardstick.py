"""What LEVEL's plans measure against: which horizons count, and the ranks' work if level."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.kernels.arrays import Float64Array
from balanceroute.kernels.jit import kernel
from balanceroute.kernels.placing import Ranks, Waiting


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
    for i in range(num_rows):
        for k in range(num_columns):
            mean[k] += gains[i, k] / num_rows
    for i in range(num_rows):
        for k in range(num_columns):
            spread[k] += (gains[i, k] - mean[k]) ** 2 / num_rows
    for k in range(num_columns):
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
