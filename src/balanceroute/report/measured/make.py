"""From a measurement to its result document."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from balanceroute.loadgen import LoadConfig, Measurement
from balanceroute.metrics import summarize, tpot_values, ttft_values
from balanceroute.metrics.requests import describe, num_finished
from balanceroute.report.measurement import (
    NOTHING,
    EndpointInfo,
    FailureInfo,
    MeasuredMetrics,
    MeasuredRun,
    MeasurementResult,
    RequestCounts,
)
from balanceroute.report.workload import workload_info
from balanceroute.types import Workload


def make_result(
    measurement: Measurement,
    config: LoadConfig,
    workload: Workload,
    num_source_requests: int | None,
) -> MeasurementResult:
    """Describe a run.

    Parameters
    ----------
    measurement, config, workload
        The run, how it was made, and what was sent.
    num_source_requests : int or None
        Requests in the file; None for a preset.
    """
    records = measurement.records
    run = MeasuredRun(
        policy=records.policy,
        seed=records.seed,
        window_s=records.window_s,
        speedup=measurement.speedup,
        is_interrupted=measurement.is_interrupted,
        metrics=measured_metrics(measurement),
        requests=RequestCounts(
            sent=measurement.num_sent,
            answered=measurement.num_answered,
            failed=measurement.num_failed,
            unfinished=measurement.num_unfinished,
            wrong_lengths=measurement.num_wrong_lengths,
        ),
        failures=tuple(
            FailureInfo(cause=it.cause, num_requests=it.num_requests, example=it.example)
            for it in measurement.failures
        ),
        late_s=describe(measurement.late_s.copy()),
        lag_s=describe(measurement.lag_s.copy()),
        notes=measurement.notes,
    )
    return MeasurementResult(
        workload=workload_info(workload, num_source_requests),
        endpoint=_endpoint_info(measurement, config),
        runs=(run,),
    )


def measured_metrics(measurement: Measurement) -> MeasuredMetrics:
    """Compute the figures of a run, those of steps only where there are steps."""
    records = measurement.records
    begin_s, end_s = records.window_s
    known: dict[str, Any] = {
        "throughput_tok_per_s": None,
        "num_tokens": measurement.num_window_tokens,
    }
    if end_s > begin_s:
        known["throughput_tok_per_s"] = measurement.num_window_tokens / (end_s - begin_s)
    if np.any((records.steps.start_s >= begin_s) & (records.steps.start_s < end_s)):
        known = msgspec.structs.asdict(summarize(records))
        del known["decision_us"]  # the router's affair
        known["preemptions"] = measurement.num_preemptions
        if not np.any(np.isfinite(records.requests.admitted_s)):
            known.update(wait_s=NOTHING, longest_wait_ratio=None, num_waiting_at_end=None)
    ttfts_s = ttft_values(records)
    known["longest_ttft_s"] = float(ttfts_s.max()) if ttfts_s.size else None
    return MeasuredMetrics(
        **known
        | {
            "ttft_s": describe(ttfts_s),
            "tpot_s": describe(tpot_values(records)),
            "itl_s": describe(measurement.gap_s.astype(np.float64)),
            "num_requests": num_finished(records),
            "wall_s": records.wall_s,
        }
    )


def _endpoint_info(measurement: Measurement, config: LoadConfig) -> EndpointInfo:
    is_known = measurement.records.num_ranks > 1 or config.steps_url is not None
    return EndpointInfo(
        url=config.base_url,
        model=measurement.model,
        api=config.api,
        stream=config.is_streamed,
        lengths=config.lengths,
        prompts=config.prompt_kind,
        arrivals=config.arrivals,
        rate_scale=config.rate_scale,
        concurrency=measurement.concurrency,
        warmup_s=config.warmup_s,
        duration_s=config.duration_s,
        timeout_s=config.timeout_s,
        ranks=measurement.records.num_ranks if is_known else None,
    )
