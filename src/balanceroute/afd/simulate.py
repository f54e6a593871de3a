"""A simulated bundle: attention workers in lockstep, network and FFN workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from balanceroute.afd.cycle import Bundle
from balanceroute.errors import ConfigError
from balanceroute.kernels import pipeline
from balanceroute.kernels.slots import NONE, Slots, fill_slots, run_slots
from balanceroute.sim.config import Start
from balanceroute.sim.ranges import require_choice
from balanceroute.types import Workload

Order = Literal["shuffled", "trace"]
NUM_BATCHES = 20  # parts of a run whose means are compared, for its standard error
MAX_DRAWS = 1 << 22  # rows drawn for refills; a run that needs more takes them again in order
MAX_CELLS = 100_000_000  # slots, or loads that are kept, of 8 bytes each
Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """What the attention workers of one microbatch held, cycle by cycle, after refills.

    Attributes
    ----------
    max_tokens, mean_tokens : float64 array, shape (T,)
        Largest load of the workers, and their mean.
    """

    max_tokens: Float64Array
    mean_tokens: Float64Array

    @staticmethod
    def of_workers(load_tokens: Int64Array) -> Loads:
        """Return the loads of workers, given as an array of shape (T, r)."""
        return Loads(
            max_tokens=load_tokens.max(axis=1).astype(np.float64),
            mean_tokens=load_tokens.mean(axis=1),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Parts of the time that devices are idle, by cause; each in [0, 1].

    Attributes
    ----------
    attention_barrier_ratio : float
        Attention workers, on average: done, waiting for the slowest of them.
    attention_ffn_ratio, attention_network_ratio : float
        Attention workers with no microbatch, because the next one is with FFN or the network.
    ffn_attention_ratio, ffn_barrier_ratio, ffn_network_ratio : float
        FFN workers with no microbatch: the next one is still with attention, with the slowest
        worker only, or on the network.
    """

    attention_barrier_ratio: float
    attention_ffn_ratio: float
    attention_network_ratio: float
    ffn_attention_ratio: float
    ffn_barrier_ratio: float
    ffn_network_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRun:
    """What came of one simulated bundle.

    Attributes
    ----------
    num_workers : int
        r.
    num_cycles : int
        T, cycles of each microbatch.
    cycle_s : float
        Mean time per microbatch and cycle, τ, seconds.
    cycle_error_s : float
        Its standard error, from the means of 20 parts of the run.
    tpot_s : float
        Mean time between two tokens of a request: m·τ.
    tokens_per_s : float
        Output tokens per second of the bundle.
    max_load_tokens, mean_load_tokens : float
        Mean over cycles of the largest load of a worker, and of the mean one.
    idle : Idle
        Who was idle, and for what.
    end_s : float64 array, shape (m, T)
        When each cycle's tokens came.
    """

    num_workers: int
    num_cycles: int
    cycle_s: float
    cycle_error_s: float
    tpot_s: float
    tokens_per_s: float
    max_load_tokens: float
    mean_load_tokens: float
    idle: Idle
    end_s: Float64Array


def simulate_bundle(
    workload: Workload,
    bundle: Bundle,
    num_workers: int,
    *,
    num_cycles: int = 20_000,
    seed: int = 0,
    start: Start = "stationary",
    order: Order = "shuffled",
) -> BundleRun:
    """Simulate a saturated bundle whose freed slots are refilled at once, each by the next request.

    Parameters
    ----------
    workload : Workload
        Requests to serve.
    bundle : Bundle
        What stages cost, slots and microbatches.
    num_workers : int
        r, at least 1.
    num_cycles : int
        T, cycles of each microbatch, at least 1.
    seed : int
        Of every draw.
    start : {"stationary", "empty"}
        Slots as an observer finds them in the long run, or all with a new request.
    order : {"shuffled", "trace"}
        Requests drawn independently with replacement, or in the trace's order from a random place,
        over and over. The order matters where lengths depend on their neighbours'.

    Returns
    -------
    BundleRun

    Raises
    ------
    ConfigError
        If a number is out of range.

    Examples
    --------
    >>> from balanceroute.afd.profile import load_profile
    >>> from balanceroute.workload import load
    >>> bundle = Bundle(profile=load_profile("qwen3-30b-a3b", "h200_sxm"), num_slots=64)
    >>> run = simulate_bundle(load("azure-2024-conv"), bundle, 4, num_cycles=2000)
    >>> round(run.cycle_s * 1000, 1), round(run.tokens_per_s)
    (16.0, 16027)
    """
    _check(bundle, num_workers, num_cycles, start, order)
    rngs = np.random.default_rng(seed).spawn(bundle.num_microbatches)
    runs = [
        simulate_loads(
            workload, bundle.num_slots, num_workers,
            num_cycles=num_cycles, rng=rng, start=start, order=order,
        )
        for rng in rngs
    ]  # fmt: skip
    return run_cycles(bundle, num_workers, [Loads.of_workers(run) for run in runs])


def simulate_loads(
    workload: Workload,
    num_slots: int,
    num_workers: int,
    *,
    num_cycles: int,
    rng: np.random.Generator,
    start: Start = "stationary",
    order: Order = "shuffled",
    stride: int = 1,
) -> Int64Array:
    """Return loads of r workers with B slots, shape (T, r); arguments as of `simulate_bundle`.

    With a `stride` above 1 there are so many cycles from one row to the next.
    The workers do not know of each other: any r' < r of them are a bundle of r' workers.
    """
    prompts, outputs = workload.prompt_tokens, workload.output_tokens
    size = num_workers * num_slots
    slots = Slots(
        np.zeros(num_workers, np.int64),
        np.zeros(size, np.int64),
        np.zeros(size, np.int64),
        np.full(int(outputs.max()) + 1, NONE, np.int64),
    )
    rows, ages = _first_requests(outputs, size, rng, start)
    fill_slots(slots, prompts, outputs, rows, ages)
    num_draws = int(size * stride * num_cycles / float(outputs.mean()) * 1.1) + 1000
    refills = _refills(workload.num_requests, min(num_draws, MAX_DRAWS), rng, order)
    load_tokens = np.empty((num_cycles, num_workers), np.int64)
    run_slots(slots, prompts, outputs, refills, load_tokens, stride)
    return load_tokens


def run_cycles(bundle: Bundle, num_workers: int, runs: list[Loads]) -> BundleRun:
    """Send microbatches with these loads through attention, network and FFN."""
    constant_s = bundle.attention_constant_s
    slope = bundle.profile.attention.s_per_token
    max_s = constant_s + slope * np.stack([run.max_tokens for run in runs])
    mean_s = constant_s + slope * np.stack([run.mean_tokens for run in runs])
    end_s, idle_s = np.zeros(max_s.shape), np.zeros(pipeline.NUM_CAUSES)
    ffn_s, leg_s = bundle.ffn_s(num_workers), bundle.network_s(num_workers) / 2
    pipeline.run_pipeline(max_s, mean_s, ffn_s, leg_s, end_s, idle_s)
    total_s = float(end_s.max())
    num_microbatches, num_cycles = max_s.shape
    tokens = num_microbatches * num_cycles * num_workers * bundle.num_slots
    cycle_s = total_s / (num_microbatches * num_cycles)
    barrier_s = float((max_s - mean_s).sum())
    return BundleRun(
        num_workers=num_workers,
        num_cycles=num_cycles,
        cycle_s=cycle_s,
        cycle_error_s=_standard_error(end_s),
        tpot_s=cycle_s * num_microbatches,
        tokens_per_s=tokens / total_s,
        max_load_tokens=float(np.mean([run.max_tokens.mean() for run in runs])),
        mean_load_tokens=float(np.mean([run.mean_tokens.mean() for run in runs])),
        idle=_idle(idle_s / total_s, barrier_s / total_s),
        end_s=end_s,
    )


def _first_requests(
    outputs: NDArray[np.int32], size: int, rng: np.random.Generator, start: Start
) -> tuple[Int64Array, Int64Array]:
    """Draw rows and ages for all slots.

    One output token drawn uniformly gives a row in proportion to its length, and a uniform age.
    """
    if start == "empty":
        return rng.integers(len(outputs), size=size), np.zeros(size, np.int64)
    ends = np.cumsum(outputs, dtype=np.int64)
    tokens = rng.integers(ends[-1], size=size)
    rows = np.searchsorted(ends, tokens, side="right")
    return rows, tokens - (ends[rows] - outputs[rows])


def _refills(
    num_requests: int, num_draws: int, rng: np.random.Generator, order: Order
) -> Int64Array:
    if order == "shuffled":
        return rng.integers(num_requests, size=num_draws)
    return np.roll(np.arange(num_requests), -int(rng.integers(num_requests)))


def _idle(ratios: Float64Array, barrier_ratio: float) -> Idle:
    return Idle(
        attention_barrier_ratio=barrier_ratio,
        attention_ffn_ratio=float(ratios[pipeline.ATTENTION_FOR_FFN]),
        attention_network_ratio=float(ratios[pipeline.ATTENTION_FOR_NETWORK]),
        ffn_attention_ratio=float(ratios[pipeline.FFN_FOR_ATTENTION]),
        ffn_barrier_ratio=float(ratios[pipeline.FFN_FOR_BARRIER]),
        ffn_network_ratio=float(ratios[pipeline.FFN_FOR_NETWORK]),
    )


def _standard_error(end_s: Float64Array) -> float:
    """Return the standard error of the mean cycle time, from means over parts of the run."""
    num_microbatches, num_cycles = end_s.shape
    num_batches = min(NUM_BATCHES, num_cycles - 1)
    if num_batches < 2:
        return 0.0
    places = np.linspace(0, num_cycles - 1, num_batches + 1).astype(np.int64)
    spans = np.diff(end_s[0][places]) / np.diff(places) / num_microbatches
    return float(spans.std(ddof=1) / np.sqrt(num_batches))


def _check(bundle: Bundle, num_workers: int, num_cycles: int, start: str, order: str) -> None:
    if num_workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {num_workers}")
    if num_cycles < 1:
        raise ConfigError(f"--cycles must be at least 1, got {num_cycles}")
    for name, number in (("slots", bundle.num_slots), ("cycles", num_cycles)):
        if num_workers * number > MAX_CELLS:
            raise ConfigError(
                f"--workers times --{name} must be at most {MAX_CELLS:,}, got "
                f"{num_workers} times {number}"
            )
    require_choice("start", start, get_args(Start))
    require_choice("order", order, get_args(Order))
