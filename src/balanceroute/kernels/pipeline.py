"""Microbatches that go round attention workers, network and FFN workers."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.arrays import Float64Array
from balanceroute.kernels.jit import kernel

# Legs of a cycle. Both ways share the network.
ATTENTION, OUT, FFN, BACK = 0, 1, 2, 3
NUM_LEGS = 4
# Entries of `idle_s`: who was idle, and for what.
ATTENTION_FOR_FFN, ATTENTION_FOR_NETWORK = 0, 1
FFN_FOR_ATTENTION, FFN_FOR_BARRIER, FFN_FOR_NETWORK = 2, 3, 4
NUM_CAUSES = 5
# Cycles after which frozen microbatches have found their period, and over which it is measured. In
# one more, the last, those that are done no longer compete.
SETTLING_CYCLES, MEASURED_CYCLES = 2, 3


@kernel
def overlap_s(from_s: float, to_s: float, begin_s: float, end_s: float) -> float:
    """Return how long two intervals overlap."""
    return max(0.0, min(to_s, end_s) - max(from_s, begin_s))


@kernel
def note_attention_idle(
    from_s: float, to_s: float, been_s: Float64Array, idle_s: Float64Array
) -> None:
    """Say why attention was idle: by what the microbatch that came next did meanwhile.

    ``been_s[leg]`` is when it was done with each leg; its wait for a leg counts as the leg.
    """
    out_s = overlap_s(from_s, to_s, been_s[ATTENTION], been_s[OUT])
    back_s = overlap_s(from_s, to_s, been_s[FFN], been_s[BACK])
    idle_s[ATTENTION_FOR_NETWORK] += out_s + back_s
    idle_s[ATTENTION_FOR_FFN] += overlap_s(from_s, to_s, been_s[OUT], been_s[FFN])


@kernel
def note_ffn_idle(
    from_s: float, to_s: float, been_s: Float64Array, barrier_s: float, idle_s: Float64Array
) -> None:
    """Say why FFN was idle; `barrier_s` is how long the slowest worker outlasted the mean."""
    mean_done_s = been_s[ATTENTION] - barrier_s
    back_s = overlap_s(from_s, to_s, been_s[FFN], been_s[BACK])
    out_s = overlap_s(from_s, to_s, been_s[ATTENTION], been_s[OUT])
    idle_s[FFN_FOR_NETWORK] += back_s + out_s
    idle_s[FFN_FOR_ATTENTION] += overlap_s(from_s, to_s, been_s[BACK], mean_done_s)
    idle_s[FFN_FOR_BARRIER] += overlap_s(from_s, to_s, mean_done_s, been_s[ATTENTION])


@kernel
def run_pipeline(
    max_attention_s: Float64Array,
    mean_attention_s: Float64Array,
    ffn_s: float,
    leg_s: float,
    end_s: Float64Array,
    idle_s: Float64Array,
) -> None:
    """Send microbatches round; attention, network and FFN serve one at a time, first come first.

    A cycle is attention (until the slowest worker is done), the way out, FFN and the way back;
    then the microbatch begins its next cycle.

    Parameters
    ----------
    max_attention_s, mean_attention_s : float64 array, shape (m, T)
        Attention time of each microbatch's cycles: of the slowest worker, and averaged.
    ffn_s, leg_s : float
        FFN time, and time on the network each way, seconds.
    end_s : float64 array, shape (m, T)
        Written: when each cycle's tokens are back at the attention workers.
    idle_s : float64 array, shape (`NUM_CAUSES`,)
        Added to: seconds between two microbatches, by who had none and why. That attention workers
        wait for the slowest of them is not in it.

    Examples
    --------
    One microbatch: 3 s of attention, 1 s each way, 2 s of FFN.

    >>> end_s, idle_s = np.zeros((1, 2)), np.zeros(NUM_CAUSES)
    >>> run_pipeline(np.full((1, 2), 3.0), np.full((1, 2), 2.5), 2.0, 1.0, end_s, idle_s)
    >>> end_s, idle_s
    (array([[ 7., 14.]]), array([2., 2., 5., 1., 3.]))
    """
    num_microbatches, num_cycles = max_attention_s.shape
    attention_free_s, network_free_s, ffn_free_s = 0.0, 0.0, 0.0
    ready_s, been_s = np.zeros(num_microbatches), np.zeros((num_microbatches, NUM_LEGS))
    leg, cycle = np.zeros(num_microbatches, np.int64), np.zeros(num_microbatches, np.int64)
    for _ in range(NUM_LEGS * num_microbatches * num_cycles):
        j = -1
        for i in range(num_microbatches):
            if cycle[i] < num_cycles and (j == -1 or ready_s[i] < ready_s[j]):
                j = i
        k = cycle[j]
        if leg[j] == ATTENTION:
            start_s = max(ready_s[j], attention_free_s)
            note_attention_idle(attention_free_s, start_s, been_s[j], idle_s)
            attention_free_s = start_s + max_attention_s[j, k]
            ready_s[j] = attention_free_s
        elif leg[j] == FFN:
            start_s = max(ready_s[j], ffn_free_s)
            barrier_s = max_attention_s[j, k] - mean_attention_s[j, k]
            note_ffn_idle(ffn_free_s, start_s, been_s[j], barrier_s, idle_s)
            ffn_free_s = start_s + ffn_s
            ready_s[j] = ffn_free_s
        else:
            network_free_s = max(ready_s[j], network_free_s) + leg_s
            ready_s[j] = network_free_s
        been_s[j, leg[j]] = ready_s[j]
        leg[j] = (leg[j] + 1) % NUM_LEGS
        if leg[j] == ATTENTION:
            end_s[j, k] = ready_s[j]
            cycle[j] += 1


@kernel
def period_s(attention_s: Float64Array, ffn_s: float, leg_s: float) -> float:
    """Return the time per microbatch of a pipeline whose attention times stay as they are.

    Parameters
    ----------
    attention_s : float64 array, shape (m,)
        Of the slowest worker, for each microbatch.
    ffn_s, leg_s : float
        As of `run_pipeline`.

    Examples
    --------
    FFN is always busy; then neither is, as each microbatch waits for its own legs; and with equal
    times both ways collide on the network:

    >>> period_s(np.array([3.0, 5.0]), 8.0, 1.0), period_s(np.array([3.0, 5.0]), 5.0, 2.0)
    (8.0, 7.0)
    >>> period_s(np.array([5.0, 5.0]), 5.0, 1.0)
    6.0
    """
    num_microbatches, num_cycles = len(attention_s), SETTLING_CYCLES + MEASURED_CYCLES + 1
    times_s = np.empty((num_microbatches, num_cycles))
    for j in range(num_microbatches):
        times_s[j] = attention_s[j]
    end_s, idle_s = np.empty((num_microbatches, num_cycles)), np.zeros(NUM_CAUSES)
    run_pipeline(times_s, times_s, ffn_s, leg_s, end_s, idle_s)
    lasted_s = end_s[:, num_cycles - 2] - end_s[:, SETTLING_CYCLES - 1]
    return lasted_s.mean() / MEASURED_CYCLES / num_microbatches


@kernel
def mean_period_s(
    attention_s: Float64Array,
    probs: Float64Array,
    num_microbatches: int,
    ffn_s: float,
    leg_s: float,
) -> float:
    """Return the mean of `period_s` over independent microbatches.

    Parameters
    ----------
    attention_s, probs : float64 array, shape (K,)
        Attention times of the slowest worker, and their probabilities.
    num_microbatches : int
        m, 2 or 3.
    ffn_s, leg_s : float
        As of `run_pipeline`.

    Examples
    --------
    >>> mean_period_s(np.array([3.0, 5.0]), np.array([0.5, 0.5]), 2, 8.0, 1.0)
    8.0
    """
    num_bins, mean_s = len(probs), 0.0
    chosen_s = np.empty(num_microbatches)
    for i in range(num_bins):
        for j in range(i + 1):  # which microbatch has which time makes little difference
            pairs = probs[i] * probs[j] * (1 if i == j else 2)
            chosen_s[0], chosen_s[1] = attention_s[i], attention_s[j]
            if num_microbatches == 2:
                mean_s += pairs * period_s(chosen_s, ffn_s, leg_s)
                continue
            for k in range(num_bins):
                chosen_s[2] = attention_s[k]
                mean_s += pairs * probs[k] * period_s(chosen_s, ffn_s, leg_s)
    return mean_s
