"""Which requests there are, and when each is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from balanceroute.errors import ConfigError
from balanceroute.loadgen.config import LoadConfig
from balanceroute.types import Workload
from balanceroute.workload import PRESETS, load, poisson_arrivals, resize

ARRIVAL_STREAM = 3  # which random numbers of a seed the Poisson process uses, as in `simulate`
DEFAULT_PRESET_REQUESTS = 1_000  # in real time, unlike in the simulator


def read_requests(
    source: str,
    config: LoadConfig,
    *,
    format_name: str | None = None,
    num_requests: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[Workload, int | None]:
    """Return a preset's or file's requests with the arrival times that `config` asks for.

    Parameters
    ----------
    source, format_name, num_requests, on_progress
        As for `workload.load`, but for the requests of a preset: None takes 1,000, or 20,000 if
        `config` says how long they are sent.
    config : LoadConfig
        Arrivals, rate and seed.

    Returns
    -------
    workload : Workload
        Its `arrival_s` is None in a closed loop.
    num_source_requests : int or None
        Requests in the file; None for a preset.

    Raises
    ------
    ConfigError
        If there are no times, or no rate, to go by.
    TraceError
        If the file cannot be read.

    Examples
    --------
    >>> config = LoadConfig(url="http://h:1", arrivals="poisson", rate_per_s=4.0)
    >>> workload, _ = read_requests("azure-2024-conv", config, num_requests=3)
    >>> workload.arrival_s.round(2)
    array([0.  , 0.34, 0.7 ])
    """
    if num_requests is not None and num_requests < 1:
        raise ConfigError(f"--requests must be at least 1, got {num_requests}")
    if source not in PRESETS:
        found = load(source, format_name=format_name, on_progress=on_progress)
        if num_requests is None:
            return timed(found, config), found.num_requests
        chosen = resize(found, num_requests, seed=config.seed)
        return timed(chosen, config), found.num_requests
    if format_name is not None:
        raise ConfigError(f"--format is for files, but {source} is a preset; leave it out")
    if num_requests is None and config.duration_s is None:
        num_requests = DEFAULT_PRESET_REQUESTS
    has_times = config.arrivals == "trace"
    drawn = load(source, num_requests=num_requests, seed=config.seed, with_arrivals=has_times)
    return timed(drawn, config), None


def timed(workload: Workload, config: LoadConfig) -> Workload:
    """Give requests the arrival times that were asked for.

    Raises
    ------
    ConfigError
        If the requests have no times, or no rate, to go by.
    """
    if config.is_saturated:
        return replace(workload, arrival_s=None)
    if config.arrivals == "trace":
        if workload.arrival_s is None:
            raise ConfigError(
                f"{workload.name} has no arrival times; use --arrivals poisson or saturated"
            )
        return replace(workload, arrival_s=workload.arrival_s / config.rate_scale)
    rate_per_s = config.rate_per_s or mean_rate_per_s(workload)
    rng = np.random.default_rng((config.seed, ARRIVAL_STREAM))
    arrival_s = poisson_arrivals(workload.num_requests, rate_per_s * config.rate_scale, rng)
    return replace(workload, arrival_s=arrival_s)


def mean_rate_per_s(workload: Workload) -> float:
    """Return the mean rate of a preset, or of the requests themselves.

    Raises
    ------
    ConfigError
        If there is none.
    """
    rate_per_s = None
    if workload.name in PRESETS:
        rate_per_s = PRESETS[workload.name].rate_per_s
    elif workload.arrival_s is not None and workload.arrival_s[-1] > 0:
        rate_per_s = (workload.num_requests - 1) / float(workload.arrival_s[-1])
    if rate_per_s is None:
        raise ConfigError(
            f"{workload.name} has no request rate; give one with --rate (requests per second)"
        )
    return rate_per_s
