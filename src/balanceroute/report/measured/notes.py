"""What besides the policy differs between a measured run and the simulation beside it."""

from __future__ import annotations

from collections.abc import Sequence

from balanceroute.report.measured.folder import MeasuredFolder
from balanceroute.report.result import RunResult, SimulationResult

# Ends of two windows that lie further apart than this share of the longer window are told.
WINDOW_TOLERANCE = 0.1
# The same of their lengths, where both count a steady state.
LEAST_LENGTH_RATIO = 0.5


def list_differences(
    result: SimulationResult,
    measured: MeasuredFolder,
    paired: Sequence[RunResult],
    *,
    is_same: bool,
) -> tuple[str, ...]:
    """Return a sentence for each thing that makes the comparison mislead.

    Parameters
    ----------
    result, measured
        The simulation, and what was measured.
    paired : sequence of RunResult
        The simulated runs that it is compared with; none if no policy has its label.
    is_same : bool
        Whether the measured requests were simulated, at the same times.
    """
    notes = (
        _unpaired(result, measured) if not paired else "",
        _requests(result, measured) if not is_same else "",
        _ranks(result, measured),
        _outstanding(result, measured),
        _start(result, measured),
        _window(result, measured, paired),
        _failures(measured),
    )
    return tuple(note for note in notes if note)


def _unpaired(result: SimulationResult, measured: MeasuredFolder) -> str:
    policies = ", ".join(dict.fromkeys(run.policy for run in result.runs))
    return (
        f"No simulated policy is called {measured.run.policy!r}, so nothing is divided; measure "
        f"with --label and one of {policies}, or simulate --policy with the label."
    )


def _requests(result: SimulationResult, measured: MeasuredFolder) -> str:
    """Say which requests were measured, and which were simulated."""
    run, endpoint, group = measured.run, measured.endpoint, result.group
    seeds = sorted({each.seed for each in result.runs})
    ours = _describe(
        measured.workload.num_requests,
        measured.workload.name,
        endpoint.arrivals,
        endpoint.rate_scale / run.speedup,
        [run.seed],
        measured.workload.fingerprint,
    )
    theirs = _describe(
        result.workload.num_requests,
        result.workload.name,
        group.arrivals,
        group.rate_scale,
        seeds,
        result.workload.fingerprint,
    )
    return (
        f"The requests differ, and with them the figures: measured were {ours}; simulated were "
        f"{theirs}."
    )


def _describe(
    num_requests: int,
    name: str,
    arrivals: str,
    rate_scale: float,
    seeds: Sequence[int],
    fingerprint: str,
) -> str:
    """Name requests by the options that choose them, the rate in the group's own seconds."""
    rate = "" if arrivals == "saturated" else f", rate × {rate_scale:g}"
    plural = "s" if len(seeds) > 1 else ""
    return (
        f"{num_requests:,} of {name}, {arrivals}{rate}, seed{plural} "
        f"{', '.join(map(str, seeds))} ({fingerprint})"
    )


def _ranks(result: SimulationResult, measured: MeasuredFolder) -> str:
    ranks = measured.endpoint.ranks
    if ranks is None or ranks == result.group.ranks:
        return ""
    return f"{ranks} ranks were measured, {result.group.ranks} simulated (--ranks)."


def _outstanding(result: SimulationResult, measured: MeasuredFolder) -> str:
    """In a closed loop the load is what is kept outstanding: slots and pool."""
    group, concurrency = result.group, measured.endpoint.concurrency
    if concurrency is None or group.pool is None:
        return ""
    simulated = group.ranks * group.slots + group.pool
    if concurrency == simulated:
        return ""
    return (
        f"{concurrency:,} requests were kept outstanding when measured, {simulated:,} when "
        f"simulated ({group.ranks} × {group.slots} slots and a pool of {group.pool:,})."
    )


def _start(result: SimulationResult, measured: MeasuredFolder) -> str:
    if result.group.start == "empty" or measured.run.window_s[0] > 0:
        return ""
    return (
        "The measured figures count the first fill of an empty group, while the simulation starts "
        "in its stationary state; simulate with --start empty, or measure with --warmup-secs."
    )


def _window(result: SimulationResult, measured: MeasuredFolder, paired: Sequence[RunResult]) -> str:
    """Compare with the first repeat: windows of repeats hardly differ."""
    window_s = paired[0].window_s if paired else None
    if window_s is None:
        return ""
    (begin_s, end_s), (other_begin_s, other_end_s) = measured.run.window_s, window_s
    shorter_s, longer_s = sorted((end_s - begin_s, other_end_s - other_begin_s))
    if result.group.start == "stationary":  # where the clock says nothing of the run's course
        if shorter_s >= LEAST_LENGTH_RATIO * longer_s:
            return ""
        consequence = "the shorter one has more of chance in it"
    else:
        apart_s = max(abs(begin_s - other_begin_s), abs(end_s - other_end_s))
        if apart_s <= WINDOW_TOLERANCE * longer_s:
            return ""
        consequence = "what changes over a run changes with them"
    return (
        f"The windows differ: measured figures cover {begin_s:,.1f} to {end_s:,.1f} s, simulated "
        f"ones {other_begin_s:,.1f} to {other_end_s:,.1f} s, and {consequence}."
    )


def _failures(measured: MeasuredFolder) -> str:
    counts = measured.run.requests
    parts = [f"{counts.failed:,} failed"] if counts.failed else []
    if measured.run.is_interrupted:
        parts.append(f"{counts.unfinished:,} were cut off by an interrupt")
    if not parts:
        return ""
    return f"Of {counts.sent:,} measured requests {' and '.join(parts)}; they count in no figure."
