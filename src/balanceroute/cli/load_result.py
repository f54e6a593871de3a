"""The result document ``balanceroute.measurement.v1``: that of a simulation, as far as it applies.

`docs/load.md` describes its fields. Those that a simulation's result has too mean the same.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.loadgen import LoadConfig, Measurement
from balanceroute.metrics import BalanceMeans, Distribution, summarize, tpot_values, ttft_values
from balanceroute.metrics.requests import describe, num_finished
from balanceroute.report.result import WorkloadInfo
from balanceroute.types import Workload
from balanceroute.workload import fingerprint

SCHEMA: Literal["balanceroute.measurement.v1"] = "balanceroute.measurement.v1"
NOTHING = Distribution(mean=None, p50=None, p95=None, p99=None)


class MeasuredMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a run against a server, under the names that a simulation's have.

    None stands for what cannot be told: without the steps of an emulated group, all that is about
    balance, waits, energy and preemptions. `itl_s` is the time from one piece of a stream to the
    next.
    """

    efficiency: float | None = None
    mean_imbalance_tokens: float | None = None
    mean_imbalance_before_refill_tokens: float | None = None
    mean_spread_tokens: float | None = None
    idle_ratio: float | None = None
    balance_ratio: float | None = None
    throughput_tok_per_s: float | None
    tpot_s: Distribution
    ttft_s: Distribution
    itl_s: Distribution
    wait_s: Distribution = NOTHING
    longest_wait_ratio: float | None = None
    longest_ttft_s: float | None
    preemptions: int | None = None
    energy_j: float | None = None
    num_steps: int = 0
    num_requests: int
    num_tokens: int
    wall_s: float
    time_weighted: BalanceMeans | None = None
    mean_step_s: float | None = None
    constant_ratio: float | None = None
    mean_running_requests: float | None = None
    num_waiting_at_end: int | None = None
    energy_per_token_j: float | None = None


class FailureInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that failed for one cause, and what was said of the first."""

    cause: str
    num_requests: int
    example: str


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the requests; `unfinished` ones were cut off by Ctrl-C."""

    sent: int
    answered: int
    failed: int
    unfinished: int
    wrong_lengths: int


class MeasuredRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes
    ----------
    policy : str
        What was measured: the label, or the URL.
    seed : int
        Of prompts and Poisson times.
    window_s : tuple of float
        What the figures cover, from the start of the run.
    speedup : float
        Seconds of the figures per second of the wall.
    is_interrupted : bool
        Whether Ctrl-C ended it.
    metrics, requests, failures :
        The figures, the counts, and the causes of failures.
    late_s : Distribution
        How late requests were sent, wall seconds; of None in a closed loop.
    lag_s : Distribution
        How late the generator's own timers were, wall seconds.
    notes : tuple of str
        What a reader of the figures should know.
    """

    policy: str
    seed: int
    window_s: tuple[float, float]
    speedup: float
    is_interrupted: bool
    metrics: MeasuredMetrics
    requests: RequestCounts
    failures: tuple[FailureInfo, ...]
    late_s: Distribution
    lag_s: Distribution
    notes: tuple[str, ...]


class EndpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured and how requests were sent; see `LoadConfig`."""

    url: str
    model: str
    api: str
    stream: bool
    lengths: str
    prompts: str
    arrivals: str
    rate_scale: float
    concurrency: int | None
    warmup_s: float
    duration_s: float | None
    timeout_s: float
    ranks: int | None


class MeasurementResult(msgspec.Struct, frozen=True, kw_only=True):
    """A run against a server."""

    schema: Literal["balanceroute.measurement.v1"] = SCHEMA
    source: Literal["measured"] = "measured"
    workload: WorkloadInfo
    endpoint: EndpointInfo
    runs: tuple[MeasuredRun, ...]


def to_json(result: MeasurementResult) -> bytes:
    """Encode a result as indented JSON that ends in a line feed, fields in the order above."""
    return msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"


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
        workload=_workload_info(workload, num_source_requests),
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
            "itl_s": _describe_gaps(measurement.gap_s),
            "num_requests": num_finished(records),
            "wall_s": records.wall_s,
        }
    )


def load_result(data: bytes | str) -> MeasurementResult:
    """Decode a result, skipping fields that this version does not know.

    Raises
    ------
    ConfigError
        If the text is not a result of schema ``balanceroute.measurement.v1``.
    """
    try:
        return msgspec.json.decode(data, type=MeasurementResult)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"not a result of schema {SCHEMA}: {error}; give the JSON that "
            "`balanceroute load --json` prints"
        ) from error


def _describe_gaps(gap_s: NDArray[np.float32]) -> Distribution:
    return describe(gap_s.astype(np.float64))


def _workload_info(workload: Workload, num_source_requests: int | None) -> WorkloadInfo:
    sampling: Literal["preset", "with_replacement", "file_order"] = "preset"
    if num_source_requests is not None:
        is_drawn = workload.num_requests > num_source_requests
        sampling = "with_replacement" if is_drawn else "file_order"
    return WorkloadInfo(
        name=workload.name,
        num_requests=workload.num_requests,
        num_source_requests=num_source_requests,
        sampling=sampling,
        fingerprint=fingerprint(workload),
        prompt_tokens_mean=float(workload.prompt_tokens.mean()),
        output_tokens_mean=float(workload.output_tokens.mean()),
        notes=workload.notes,
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
