"""Run several policies on one workload and gather the result: what ``simulate`` does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import numpy as np

from balanceroute.errors import ConfigError
from balanceroute.policies.registry import make_policy
from balanceroute.report.digest import RunDigest, digest
from balanceroute.report.measured.compare import compare_measured
from balanceroute.report.measured.folder import MeasuredFolder
from balanceroute.report.result import RunResult, SimulationResult
from balanceroute.report.runs import group_info, run_policy
from balanceroute.report.workload import workload_info
from balanceroute.sim.config import SimConfig
from balanceroute.sim.warm import warm
from balanceroute.types import Workload
from balanceroute.workload import PRESETS, fingerprint, load, poisson_arrivals, resize

ARRIVAL_STREAM = 3  # which random numbers of a seed the Poisson process uses

# A saturated run admits G * B requests before it measures and leaves up to G * B unfinished.
FEWEST_SLOT_FILLS, SLOT_FILLS = 4, 8

#: What is being done, and how much of it is done, in [0, 1].
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Policies to compare on one source of requests.

    Attributes
    ----------
    source : str
        Preset or trace file.
    config : SimConfig
        The group and how requests come.
    policies : tuple of str
        Policies, the baseline first.
    format_name : str or None
        Format of the file; None detects it.
    num_requests : int or None
        Requests to simulate; None takes the file (20,000 of a preset), or more, drawn with
        replacement, where that would hardly fill the slots.
    rate_scale : float
        Factor on the arrival rate of a trace or Poisson process, above 0.
    rate_per_s : float or None
        Poisson: requests per second before scaling; None takes the source's mean rate.
    seed, num_repeats : int
        The first seed, and how many seeds from there on.
    measured : tuple of MeasuredFolder
        Runs against servers to show beside the simulation.
    """

    source: str
    config: SimConfig
    policies: tuple[str, ...]
    format_name: str | None = None
    num_requests: int | None = None
    rate_scale: float = 1.0
    rate_per_s: float | None = None
    seed: int = 0
    num_repeats: int = 1
    measured: tuple[MeasuredFolder, ...] = ()

    def __post_init__(self) -> None:
        if self.num_repeats < 1:
            raise ConfigError(f"--repeats must be at least 1, got {self.num_repeats}")
        if self.seed < 0:
            raise ConfigError(f"--seed must be at least 0, got {self.seed}")
        if not self.policies:
            raise ConfigError("at least one --policy is needed")
        self._check_arrivals()
        if self.format_name is not None and self.source in PRESETS:
            raise ConfigError(f"--format is for files, but {self.source} is a preset; leave it out")
        for spec in self.policies:
            make_policy(spec, rng=np.random.default_rng(0), output_tokens=np.zeros(0, np.int32))
        if len(set(self.policies)) < len(self.policies):
            raise ConfigError(f"a policy is named twice: {', '.join(self.policies)}")

    def run(
        self, on_progress: Progress | None = None
    ) -> tuple[SimulationResult, Sequence[RunDigest]]:
        """Simulate every policy under every seed.

        Returns
        -------
        tuple
            The result document, and per simulated run what the report draws.
        """
        say = on_progress or (lambda _what, _done: None)
        source = self._load(lambda done: say(f"reading {self.source}", done))
        runs: list[RunResult] = []
        digests: list[RunDigest] = []
        first: Workload | None = None
        same_seeds: list[list[int]] = [[] for _ in self.measured]
        for seed in range(self.seed, self.seed + self.num_repeats):
            drawn = self._drawn(source, seed)
            workload = self._timed(drawn, seed, self.rate_scale)
            first = first or workload
            for run, seeds in zip(self.measured, same_seeds, strict=True):
                seeds += [seed] if self._was_sent(drawn, seed, run) else []
            for spec in self.policies:
                say(f"compiling {spec}", 0.0)
                warm(spec, self.config)
                result, records = run_policy(
                    spec,
                    workload,
                    self.config,
                    seed=seed,
                    on_progress=partial(say, f"{spec}, seed {seed}"),
                )
                runs.append(result)
                digests.append(digest(records))
        assert first is not None
        simulated = self._result(source, first, runs)
        measured = [
            compare_measured(simulated, run, same_seeds=seeds)
            for run, seeds in zip(self.measured, same_seeds, strict=True)
        ]
        return msgspec.structs.replace(simulated, measured=tuple(measured)), digests

    def requests(self, seed: int) -> tuple[Workload | None, Workload]:
        """Return the source, None for a preset, and the requests of one seed, for a run apart."""
        source = self._load(lambda _done: None)
        return source, self._timed(self._drawn(source, seed), seed, self.rate_scale)

    def _check_arrivals(self) -> None:
        for name, value in (("rate", self.rate_per_s), ("rate-scale", self.rate_scale)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"--{name} must be a number above 0, got {value}")
        if self.rate_per_s is not None and self.config.arrivals != "poisson":
            raise ConfigError("--rate is for --arrivals poisson; leave it out")
        if self.config.pool_size is not None and not self.config.is_saturated:
            raise ConfigError("--pool is for --arrivals saturated; leave it out")
        if self.rate_scale != 1 and self.config.is_saturated:
            raise ConfigError("--rate-scale is for --arrivals trace or poisson; leave it out")

    def _load(self, on_progress: Callable[[float], None]) -> Workload | None:
        """Return the file's requests; None for a preset, which is drawn anew for each seed."""
        if self.source in PRESETS:
            return None
        return load(self.source, format_name=self.format_name, on_progress=on_progress)

    def _was_sent(self, drawn: Workload, seed: int, run: MeasuredFolder) -> bool:
        """Tell whether a measured run had these requests, at the same times of the group."""
        speedup = 1.0 if self.config.is_saturated else run.run.speedup
        sent = self._timed(drawn, seed, self.rate_scale * speedup)
        return fingerprint(sent) == run.workload.fingerprint

    def _drawn(self, source: Workload | None, seed: int) -> Workload:
        """Return the requests of a seed, with the source's own times."""
        config = self.config
        num_slots = config.num_ranks * config.num_slots
        wanted = self.num_requests
        if source is None:
            least = SLOT_FILLS * num_slots if config.is_saturated else 0
            if wanted is None:
                wanted = max(20_000, least)
            return load(
                self.source,
                num_requests=wanted,
                seed=seed,
                with_arrivals=config.arrivals == "trace",
            )
        is_short = source.num_requests < FEWEST_SLOT_FILLS * num_slots
        if wanted is None and config.is_saturated and is_short:
            wanted = SLOT_FILLS * num_slots
        return source if wanted is None else resize(source, wanted, seed=seed)

    def _timed(self, workload: Workload, seed: int, rate_scale: float) -> Workload:
        """Give the requests the arrival times that were asked for."""
        config = self.config
        if config.is_saturated:
            return replace(workload, arrival_s=None)
        if config.arrivals == "trace":
            if workload.arrival_s is None:
                return workload  # the simulator says what is missing
            return replace(workload, arrival_s=workload.arrival_s / rate_scale)
        rate_per_s = self.rate_per_s or self._mean_rate_per_s(workload)
        rng = np.random.default_rng((seed, ARRIVAL_STREAM))
        arrival_s = poisson_arrivals(workload.num_requests, rate_per_s * rate_scale, rng)
        return replace(workload, arrival_s=arrival_s)

    def _mean_rate_per_s(self, workload: Workload) -> float:
        if self.source in PRESETS:
            rate_per_s = PRESETS[self.source].rate_per_s
        elif workload.arrival_s is None or workload.arrival_s[-1] == 0:
            rate_per_s = None
        else:
            rate_per_s = (workload.num_requests - 1) / float(workload.arrival_s[-1])
        if rate_per_s is None:
            raise ConfigError(
                f"{workload.name} has no request rate; give one with --rate (requests per second)"
            )
        return rate_per_s

    def _result(
        self, source: Workload | None, workload: Workload, runs: list[RunResult]
    ) -> SimulationResult:
        return SimulationResult(
            workload=workload_info(workload, None if source is None else source.num_requests),
            group=group_info(self.config, rate_scale=self.rate_scale),
            runs=tuple(runs),
        )
