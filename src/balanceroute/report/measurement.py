"""The result document ``balanceroute.measurement.v1``: that of a simulation, as far as it applies.

`docs/load.md` describes its fields. Those that a simulation's result has too mean the same.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from balanceroute.files import indented_json
from balanceroute.metrics import BalanceMeans, Distribution
from balanceroute.report.documents import read_document
from balanceroute.report.workload import WorkloadInfo

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
    num_steps: int | None = None
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
    return indented_json(result)


def from_json(data: bytes | str) -> MeasurementResult:
    """Decode a result, skipping fields that this version does not know.

    Raises
    ------
    ConfigError
        If the text is not a result of schema ``balanceroute.measurement.v1``.
    """
    return read_document(data, MeasurementResult, schema=SCHEMA, command="balanceroute load --json")


def figure(metrics: MeasuredMetrics, name: str) -> float | None:
    """Return a figure by its path in the document; None where it cannot be told.

    Figures that only simulations have, such as ``"decision_us.p99"``, cannot be told either.

    Examples
    --------
    >>> metrics = MeasuredMetrics(
    ...     throughput_tok_per_s=None, longest_ttft_s=None, num_requests=0, num_tokens=0,
    ...     tpot_s=Distribution(mean=0.02, p50=None, p95=None, p99=None), ttft_s=NOTHING,
    ...     itl_s=NOTHING, wall_s=0.0)
    >>> figure(metrics, "tpot_s.mean"), figure(metrics, "time_weighted.idle_ratio")
    (0.02, None)
    """
    value: Any = metrics
    for part in name.split("."):
        value = getattr(value, part, None)
    found: float | None = value
    return found
