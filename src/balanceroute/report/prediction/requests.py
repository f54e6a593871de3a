"""The requests that classifiers are fitted on and asked about."""

from __future__ import annotations

from collections.abc import Callable

from balanceroute.errors import ConfigError
from balanceroute.report.workload import WorkloadInfo, workload_info
from balanceroute.types import Workload
from balanceroute.workload import PRESETS, head, load


def read_requests(
    source: str,
    *,
    format_name: str | None = None,
    num_requests: int | None = None,
    default_requests: int | None = None,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[Workload, WorkloadInfo]:
    """Return the first requests of a file, or a preset's, and how they are described in a result.

    Unlike `load`, it never draws from a file: a classifier would be asked about requests that it
    has learnt.

    Parameters
    ----------
    source : str
        Preset or trace file.
    format_name : str or None
        Format of the file; None detects it.
    num_requests : int or None
        How many, at most as many as the file has; None takes `default_requests`.
    default_requests : int or None
        How many of a file, if it has more; None takes all.
    seed : int
        For presets.
    on_progress : callable or None
        For files: called with the part that has been read, in [0, 1].

    Raises
    ------
    ConfigError, TraceError
        As `load`, and if the file has fewer requests than were asked for.
    """
    if source in PRESETS:
        if format_name is not None:
            raise ConfigError(f"--format is for files, but {source} is a preset; leave it out")
        drawn = load(source, num_requests=num_requests, seed=seed, with_arrivals=False)
        return drawn, workload_info(drawn, None)
    if num_requests is not None and num_requests < 1:
        raise ConfigError(f"--requests must be at least 1, got {num_requests}")
    workload = load(source, format_name=format_name, on_progress=on_progress)
    wanted = default_requests or workload.num_requests if num_requests is None else num_requests
    if num_requests is not None and num_requests > workload.num_requests:
        raise ConfigError(
            f"--requests must be at most the {workload.num_requests:,} of {workload.name}, "
            f"got {num_requests:,}"
        )
    first = head(workload, wanted)
    return first, workload_info(first, workload.num_requests)
