"""Measured runs made by hand, for the tests of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from balanceroute.metrics import Distribution
from balanceroute.records import save_records
from balanceroute.report.digest import digest
from balanceroute.report.measured.folder import MeasuredFolder
from balanceroute.report.measurement import (
    NOTHING,
    EndpointInfo,
    MeasuredMetrics,
    MeasuredRun,
    MeasurementResult,
    RequestCounts,
    to_json,
)
from balanceroute.types import RunRecords
from tests.report.results import WORKLOAD, random_run

ENDPOINT = EndpointInfo(
    url="http://127.0.0.1:30000",
    model="emulated",
    api="completions",
    stream=True,
    lengths="header",
    prompts="ids",
    arrivals="saturated",
    rate_scale=1.0,
    concurrency=4 * 72 + 16,
    warmup_s=5.0,
    duration_s=None,
    timeout_s=60.0,
    ranks=4,
)
COUNTS = RequestCounts(sent=500, answered=500, failed=0, unfinished=0, wrong_lengths=0)
#: Of a server whose steps are not known.
CLIENT_METRICS = MeasuredMetrics(
    throughput_tok_per_s=900.0,
    tpot_s=Distribution(mean=0.02, p50=0.02, p95=0.03, p99=0.04),
    ttft_s=NOTHING,
    itl_s=Distribution(mean=0.02, p50=0.021, p95=0.03, p99=0.04),
    longest_ttft_s=1.5,
    num_requests=480,
    num_tokens=9000,
    wall_s=10.0,
)


def make_measured(
    policy: str = "br_0",
    *,
    metrics: MeasuredMetrics = CLIENT_METRICS,
    endpoint: EndpointInfo = ENDPOINT,
    records: RunRecords | None = None,
    **changes: Any,
) -> MeasuredFolder:
    """Return a measured run with some of what is said of it replaced."""
    records = records or random_run(policy, spread=0.1)
    run = MeasuredRun(
        policy=policy,
        seed=0,
        window_s=records.window_s,
        speedup=1.0,
        is_interrupted=False,
        metrics=metrics,
        requests=COUNTS,
        failures=(),
        late_s=NOTHING,
        lag_s=NOTHING,
        notes=(),
    )
    return MeasuredFolder(
        folder="measured",
        workload=WORKLOAD,
        endpoint=endpoint,
        run=msgspec.structs.replace(run, **changes),
        digest=digest(records),
    )


def write_folder(measured: MeasuredFolder, records: RunRecords, path: Path) -> Path:
    """Write a run as `balanceroute load --out` does."""
    result = MeasurementResult(
        workload=measured.workload, endpoint=measured.endpoint, runs=(measured.run,)
    )
    path.mkdir(exist_ok=True)
    (path / "result.json").write_bytes(to_json(result))
    save_records(records, path / "records.npz")
    return path
