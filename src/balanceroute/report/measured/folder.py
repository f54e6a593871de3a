"""What `balanceroute load --out` has left in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from balanceroute.errors import ConfigError
from balanceroute.records import load_records
from balanceroute.report.digest import RunDigest, digest
from balanceroute.report.measurement import EndpointInfo, MeasuredRun, MeasurementResult, from_json
from balanceroute.report.workload import WorkloadInfo
from balanceroute.types import RunRecords

CURE = "give the folder that `balanceroute load --out` wrote"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredFolder:
    """A run against a server: its document, and what the page draws of its records."""

    folder: str
    workload: WorkloadInfo
    endpoint: EndpointInfo
    run: MeasuredRun
    digest: RunDigest


def read_folder(path: Path) -> MeasuredFolder:
    """Read a run's `result.json` and `records.npz`.

    Raises
    ------
    ConfigError
        If one of them is not there, is something else, or is of another run than the other.
    """
    if not path.is_dir():
        raise ConfigError(f"--measured {path}: there is no such folder; {CURE}")
    result = _read_result(path / "result.json")
    (run,) = result.runs
    records = load_records(path / "records.npz")
    if _identity(records) != _identity(run):
        raise ConfigError(
            f"--measured {path}: result.json is of {run.policy!r} under seed {run.seed} and "
            f"records.npz of {records.policy!r} under seed {records.seed}, or their windows "
            f"differ; {CURE}, as it was written"
        )
    return MeasuredFolder(
        folder=str(path),
        workload=result.workload,
        endpoint=result.endpoint,
        run=run,
        digest=digest(records),
    )


def _read_result(path: Path) -> MeasurementResult:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--measured: {path}: {error.strerror}; {CURE}") from error
    try:
        result = from_json(data)
    except ConfigError as error:
        raise ConfigError(f"--measured: {path}: {error}") from error
    if len(result.runs) != 1:
        raise ConfigError(f"--measured: {path} has {len(result.runs)} runs and not one; {CURE}")
    return result


def _identity(run: MeasuredRun | RunRecords) -> tuple[str, int, tuple[float, float]]:
    return run.policy, run.seed, run.window_s
