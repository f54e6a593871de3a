"""From what was kept of a run to its measurement."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.loadgen.client import Endpoint
from balanceroute.loadgen.config import LoadConfig
from balanceroute.loadgen.recorder import Measurement, Recorder
from balanceroute.loadgen.steps import (
    GroupState,
    StepReader,
    admitted_s,
    no_samples,
    no_steps,
)
from balanceroute.types import LoadSamples, RunRecords, StepRecords, Workload

UNKNOWN_BINDING = "unknown"  # whether the router keeps requests in a pool cannot be seen from here
# If fewer of the answers came while requests were sent, the run has no steady part to measure.
LEAST_ANSWERED_RATIO = 0.5
# As long as a decode step: beyond it, the generator's own delays show in the figures.
TOLERATED_LAG_S = 0.02
LAG_PROB = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """How requests were sent; wall seconds.

    Attributes
    ----------
    start_s : float
        Start of the run, on the client's clock.
    sent_until_s : float
        When sending ended, from the start.
    wall_s : float
        When the last answer had come, from the start.
    concurrency : int or None
        Requests kept outstanding; None for an open loop.
    lags_s : tuple of float
        How late the generator's timers were.
    is_interrupted : bool
        Whether the run was ended before its time.
    """

    start_s: float
    sent_until_s: float
    wall_s: float
    concurrency: int | None
    lags_s: tuple[float, ...]
    is_interrupted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What an emulated group has told of itself; nothing, if nobody asked or it is gone."""

    steps: StepRecords = field(default_factory=no_steps)
    samples: LoadSamples = field(default_factory=no_samples)
    state: GroupState | None = None
    num_preemptions: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def speedup(self) -> float:
        """Return its seconds per second of the wall."""
        return 1.0 if self.state is None else self.state.speedup


async def measure(
    workload: Workload,
    config: LoadConfig,
    endpoint: Endpoint,
    recorder: Recorder,
    reader: StepReader | None,
    sending: Sending,
) -> Measurement:
    """Put together what was measured."""
    group = await _read_group(reader, sending)
    begin_s, end_s, notes = _window(config, recorder, sending)
    gap_s, num_tokens = recorder.pieces(begin_s, end_s)
    due_s = np.full(workload.num_requests, np.nan)
    if workload.arrival_s is not None and not config.is_saturated:
        due_s = workload.arrival_s
    late_s = recorder.sent_s - due_s
    late_s, lag_s = late_s[np.isfinite(late_s)], np.array(sending.lags_s)
    failures, failure = recorder.ranked_failures()
    notes += [*group.notes, *_workload_notes(workload, config, recorder, group)]
    return Measurement(
        records=_records(config, endpoint, recorder, group, (begin_s, end_s), sending.wall_s),
        due_s=due_s,
        sent_s=recorder.sent_s,
        late_s=late_s,
        lag_s=lag_s,
        status=recorder.status,
        failure=failure,
        failures=failures,
        gap_s=gap_s * np.float32(group.speedup),
        num_window_tokens=num_tokens,
        num_sent=int(np.count_nonzero(np.isfinite(recorder.sent_s))),
        num_answered=recorder.num_answered,
        num_failed=recorder.num_failed,
        num_unfinished=recorder.num_unfinished,
        num_wrong_lengths=recorder.num_wrong_lengths,
        num_preemptions=group.num_preemptions,
        speedup=group.speedup,
        concurrency=sending.concurrency,
        model=endpoint.model,
        is_interrupted=sending.is_interrupted,
        notes=(*notes, *_lag_notes(late_s, lag_s)),
    )


async def _read_group(reader: StepReader | None, sending: Sending) -> Group:
    """Return the steps; a run is not lost because they are."""
    if reader is None:
        return Group()
    try:
        steps, samples, num_preemptions = await reader.close(sending.start_s)
    except ConfigError as error:
        return Group(notes=(f"The group's steps could not be read: {error}.",))
    return Group(steps=steps, samples=samples, state=reader.state, num_preemptions=num_preemptions)


def _records(
    config: LoadConfig,
    endpoint: Endpoint,
    recorder: Recorder,
    group: Group,
    window_s: tuple[float, float],
    wall_s: float,
) -> RunRecords:
    num_ranks = max(1, len(endpoint.workers or recorder.workers))
    begin_s, end_s = window_s
    return RunRecords(
        policy=config.name,
        seed=config.seed,
        num_ranks=num_ranks if group.state is None else group.state.num_ranks,
        binding=UNKNOWN_BINDING,
        steps=group.steps,
        requests=recorder.request_records(
            speedup=group.speedup,
            ranks=recorder.ranks(endpoint.workers),
            admitted_s=_admitted(recorder, group),
        ),
        samples=group.samples,
        window_s=(begin_s * group.speedup, end_s * group.speedup),
        decision_ns=np.empty(0, np.int64),
        wall_s=wall_s,
    )


def _admitted(recorder: Recorder, group: Group) -> NDArray[np.float64]:
    """Return when requests were admitted, as far as that can be told."""
    prefills = group.state is None or group.state.costs.budget_tokens is not None
    if prefills or not len(group.steps.start_s):
        return np.full(len(recorder.sent_s), np.nan)
    return admitted_s(group.steps, recorder.first_s * group.speedup)


def _window(
    config: LoadConfig, recorder: Recorder, sending: Sending
) -> tuple[float, float, list[str]]:
    """Return what figures cover, in wall seconds: from the warm-up to the end of sending."""
    begin_s, end_s = config.warmup_s, sending.sent_until_s
    if sending.is_interrupted:
        end_s = sending.wall_s
    finished_s = recorder.finished_s[np.isfinite(recorder.finished_s)]
    num_later = int(np.count_nonzero(finished_s > begin_s))
    num_inside = int(np.count_nonzero((finished_s > begin_s) & (finished_s <= end_s)))
    if num_inside >= LEAST_ANSWERED_RATIO * num_later and end_s > begin_s:
        return begin_s, end_s, []
    note = "The figures cover the run to its last answer, since most came after the last request."
    return begin_s, max(begin_s, sending.wall_s), [note]


def _workload_notes(
    workload: Workload, config: LoadConfig, recorder: Recorder, group: Group
) -> list[str]:
    notes = []
    if group.speedup != 1.0:
        notes.append(
            f"Times are emulated seconds, of which {group.speedup:g} pass in one of the wall's; "
            "what router and network take looks so many times longer."
        )
    if workload.cached_tokens is not None:
        notes.append("The trace's cached_tokens are not replayed: prompts share no prefixes.")
    if recorder.num_wrong_lengths:
        cure = " (a real engine needs --lengths ignore-eos)" if config.lengths == "header" else ""
        notes.append(
            f"{recorder.num_wrong_lengths:,} of {recorder.num_answered:,} answers were not as long "
            f"as the trace says{cure}."
        )
    has_sent_all = np.isfinite(recorder.sent_s[-1])
    if config.is_saturated and config.duration_s is not None and has_sent_all:
        notes.append(
            f"The {workload.num_requests:,} requests ran out before the duration was over; give "
            "more with --requests."
        )
    return notes


def _lag_notes(late_s: NDArray[np.float64], lag_s: NDArray[np.float64]) -> list[str]:
    late, lag = (float(np.quantile(it, LAG_PROB)) if it.size else 0.0 for it in (late_s, lag_s))
    if late > TOLERATED_LAG_S:
        return [
            f"The generator could not keep up: 1 request of 100 was sent {1e3 * late:,.0f} ms late "
            "or later; lower the rate, or share it among several generators."
        ]
    if lag > TOLERATED_LAG_S:
        return [
            f"The generator was busy: 1 timer of 100 came {1e3 * lag:,.0f} ms late or later, and "
            "answers were looked at as late; lower the load, or share it among several generators."
        ]
    return []
