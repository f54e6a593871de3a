"""A bundle whose refills are placed by a routing policy of the core, and what that is worth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from balanceroute.afd.cycle import Bundle
from balanceroute.afd.loads import worker_load
from balanceroute.afd.simulate import BundleRun, Float64Array, Loads, run_cycles
from balanceroute.afd.slots import slot_load
from balanceroute.errors import ConfigError
from balanceroute.policies.registry import make_policy
from balanceroute.sim.config import SimConfig, Start, StepTime
from balanceroute.sim.run import simulate
from balanceroute.types import RequestRecords, RunRecords, Workload
from balanceroute.workload.source import draw

POOL_PER_WORKER = 4
POLICY_STREAM = 2  # random numbers of a seed that a policy gets, as in simulated groups
PROBE_WORKERS, PROBE_CYCLES = 8, 3000  # of the run that measures `barrier_ratio`


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedRun:
    """What came of a bundle with a routing policy.

    Attributes
    ----------
    run : BundleRun
        The bundle.
    records : tuple of RunRecords, length m
        Each microbatch as a group of r ranks in the pipeline's time, as metrics take it.
    """

    run: BundleRun
    records: tuple[RunRecords, ...]


def simulate_routed(
    workload: Workload,
    bundle: Bundle,
    num_workers: int,
    policy: str,
    *,
    num_cycles: int = 4000,
    seed: int = 0,
    start: Start = "stationary",
) -> RoutedRun:
    """Simulate a bundle that places the requests of a saturated pool by a policy.

    The workers' slots of one microbatch are a group with a barrier of its own, since its attention
    ends with its slowest worker. Each is run as a simulated group of the core, with its own pool
    and policy; what the groups held in each cycle then goes through the pipeline.

    Parameters
    ----------
    workload : Workload
        Requests to draw from, with replacement.
    bundle : Bundle
        Stage costs, slots, microbatches.
    num_workers : int
        r, at least 1.
    policy : str
        As `balanceroute.policies.registry.make_policy` takes it.
    num_cycles : int
        Cycles that count, at least 1, after a warm-up of about one output length.
    seed : int
        Of every draw.
    start : {"stationary", "empty"}
        How the slots are filled before the first cycle.

    Raises
    ------
    ConfigError
        If the policy is not known or a number is out of range.
    PlanError
        If the policy breaks its contract.
    """
    if num_workers < 1 or num_cycles < 1:
        raise ConfigError(
            f"--workers and --cycles must be at least 1, got {num_workers} and {num_cycles}"
        )
    config = _group(workload, bundle, num_workers, start)
    groups = []
    for j in range(bundle.num_microbatches):
        drawn = draw(
            workload,
            num_requests=_num_requests(workload, config, num_cycles),
            seed=seed * bundle.num_microbatches + j,
        )
        chosen = make_policy(policy, rng=np.random.default_rng((seed, POLICY_STREAM, j)))
        groups.append(simulate(drawn, config, chosen, label=policy, seed=seed + j))
    windows = [_window(records, num_cycles) for records in groups]
    length = min(end - begin for begin, end in windows)
    loads = [
        Loads(
            max_tokens=records.steps.max_load_tokens[begin : begin + length].astype(np.float64),
            mean_tokens=records.steps.sum_load_tokens[begin : begin + length] / num_workers,
        )
        for records, (begin, _) in zip(groups, windows, strict=True)
    ]
    run = run_cycles(bundle, num_workers, loads)
    retimed = [
        retime(records, begin, run.end_s[j])
        for j, (records, (begin, _)) in enumerate(zip(groups, windows, strict=True))
    ]
    return RoutedRun(run=run, records=tuple(retimed))


def barrier_ratio(
    workload: Workload,
    bundle: Bundle,
    policy: str,
    *,
    num_workers: int = PROBE_WORKERS,
    num_cycles: int = PROBE_CYCLES,
    seed: int = 0,
) -> float:
    """Return which part of the barrier's cost a policy leaves, from a short simulated run (ours).

    The cost is E[max] − mean of the workers' loads; it is compared with that of independent slots.
    `WorkerLoad.squeezed` with it is the corrected rule for balanced routing: measured at one r, it
    serves for the others.
    """
    one = replace(bundle, num_microbatches=1)
    run = simulate_routed(workload, one, num_workers, policy, num_cycles=num_cycles, seed=seed).run
    load = worker_load(slot_load(workload), bundle.num_slots)
    independent = load.expected_max(num_workers) - load.mean_tokens
    if independent <= 0:
        return 1.0
    return (run.max_load_tokens - run.mean_load_tokens) / independent


def retime(records: RunRecords, begin: int, end_s: Float64Array) -> RunRecords:
    """Return records of a group from step `begin` on, in the pipeline's time.

    Step ``begin + k`` ends at ``end_s[k]`` and the next begins; what happened earlier or later is
    NaN. Times of a saturated group are all ends or beginnings of steps.
    """
    length = len(end_s)
    starts = records.steps.start_s
    end = min(begin + length, len(starts) - 1)
    bounds_s = np.concatenate(([0.0], end_s))[: end - begin + 1]
    old_s = starts[begin : end + 1]

    def moved(times_s: Float64Array) -> Float64Array:
        place = np.minimum(np.searchsorted(old_s, times_s), len(old_s) - 1)
        known = old_s[place] == times_s
        shifted: Float64Array = np.where(known, bounds_s[place], np.nan)
        return shifted

    columns = {name: getattr(records.steps, name)[begin:end] for name in records.steps.__slots__}
    columns["start_s"], columns["duration_s"] = bounds_s[:-1], np.diff(bounds_s)
    requests = records.requests
    times = {
        name: moved(getattr(requests, name))
        for name in ("arrival_s", "admitted_s", "first_token_s", "finished_s")
    }
    return replace(
        records,
        steps=type(records.steps)(**columns),
        requests=RequestRecords(
            **times,
            prompt_tokens=requests.prompt_tokens,
            output_tokens=requests.output_tokens,
            rank=requests.rank,
            num_preemptions=requests.num_preemptions,
        ),
        window_s=(0.0, float(bounds_s[-1])),
    )


def _group(workload: Workload, bundle: Bundle, num_workers: int, start: Start) -> SimConfig:
    attention = bundle.profile.attention
    refills = num_workers * bundle.num_slots / float(workload.output_tokens.mean())
    return SimConfig(
        step_time=StepTime(
            name=bundle.profile.name,
            constant_s=attention.constant_s,
            s_per_token=attention.s_per_token,
            kappa0_tokens=attention.s_per_request / attention.s_per_token,
        ),
        num_ranks=num_workers,
        num_slots=bundle.num_slots,
        pool_size=int(max(POOL_PER_WORKER * num_workers, 4 * refills)) + 1,
        start=start,
    )


def _num_requests(workload: Workload, config: SimConfig, num_cycles: int) -> int:
    """Return how many requests last for the warm-up and so many cycles, with a reserve."""
    size = config.num_ranks * config.num_slots
    turns = num_cycles / float(workload.output_tokens.mean())
    return int(size * (2 + 1.2 * turns)) + 2 * config.pool_target + 100


def _window(records: RunRecords, num_cycles: int) -> tuple[int, int]:
    """Return the first step after the warm-up, and the step after the last that counts."""
    begin, end = np.searchsorted(records.steps.start_s, records.window_s)
    return int(begin), int(min(end, begin + num_cycles))
