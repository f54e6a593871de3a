"""The result document ``balanceroute.simulation.v1``; `docs/metrics.md` describes every field.

Fields may be added within version 1, so readers skip those that they do not know; none is renamed,
removed or given another meaning.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from balanceroute.files import indented_json
from balanceroute.metrics import Metrics
from balanceroute.report.documents import read_document
from balanceroute.report.measurement import EndpointInfo, MeasuredRun
from balanceroute.report.workload import WorkloadInfo

SCHEMA: Literal["balanceroute.simulation.v1"] = "balanceroute.simulation.v1"

Binding = Literal["pooled", "immediate"]


class StepTimeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Step time ``constant_s + seconds_per_token·(kappa0_tokens·requests + tokens)``.

    Attributes
    ----------
    name : str
        Preset, or ``"custom"``.
    constant_s : float
        C, seconds.
    seconds_per_token : float
        Slope in resident tokens of the slowest rank.
    kappa0_tokens : float
        What one running request costs, in tokens.
    """

    name: str
    constant_s: float
    seconds_per_token: float
    kappa0_tokens: float = 0.0


class GroupInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The group of ranks and how requests reach it.

    Attributes
    ----------
    ranks, slots : int
        G, and running requests per rank.
    kv_tokens : int or None
        KV capacity of a rank; None is unlimited.
    step_time : StepTimeInfo
        Model of the step time.
    arrivals : str
        ``"trace"``, ``"poisson"`` or ``"saturated"``.
    rate_scale : float
        Factor on the arrival rate.
    pool : int or None
        Requests kept waiting in a saturated pool; None otherwise.
    binding : str or None
        ``"pooled"`` or ``"immediate"`` if forced on every policy; None leaves each its own.
    start : str
        ``"stationary"`` or ``"empty"``.
    staleness_s : float
        Age of what the policy sees, seconds.
    delivery_s, delivery_jitter_s : float
        Time that a request is on its way to its rank, and the most that chance adds, seconds.
    prefill_budget_tokens : int or None
        Prompt tokens that a rank may prefill in a step; None for decode-only ranks.
    prefill_s_per_token : float or None
        Time of one prompt token; None for decode-only ranks.
    prefill_shared : float or None
        Part of that time that falls to all ranks alike; None for decode-only ranks.
    mixed_step_s : float or None
        What a rank's step takes longer because it prefills; None for decode-only ranks.
    prefix_cache : bool
        Whether cached prompt tokens need not be computed.
    prefill_gate : str or None
        Rule by which the ranks wait before they prefill, as the user wrote it; None: none.
    warmup_steps : int or None
        Steps left out at the start; None: until G·B requests had been admitted.
    rank_speeds : tuple of float or None
        Relative speed of each rank; None: all equal.
    barrier : bool
        Whether a step waits for the slowest rank.
    groups : int
        Into which the ranks are divided, each with a barrier of its own.
    """

    ranks: int
    slots: int
    kv_tokens: int | None
    step_time: StepTimeInfo
    arrivals: Literal["trace", "poisson", "saturated"]
    rate_scale: float = 1.0
    pool: int | None = None
    binding: Binding | None = None
    start: Literal["stationary", "empty"] = "stationary"
    staleness_s: float = 0.0
    delivery_s: float = 0.0
    delivery_jitter_s: float = 0.0
    prefill_budget_tokens: int | None = None
    prefill_s_per_token: float | None = None
    prefill_shared: float | None = None
    mixed_step_s: float | None = None
    prefix_cache: bool = False
    prefill_gate: str | None = None
    warmup_steps: int | None = None
    rank_speeds: tuple[float, ...] | None = None
    barrier: bool = True
    groups: int = 1


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """One policy under one seed.

    Attributes
    ----------
    policy : str
        As the user wrote it, parameters included.
    seed : int
        Seed of the run.
    binding : str
        ``"pooled"`` or ``"immediate"``, as it was used.
    metrics : Metrics
        The figures.
    window_s : tuple of float or None
        What they cover, seconds of the run; None in documents of before it was kept.
    """

    policy: str
    seed: int
    binding: Binding
    metrics: Metrics
    window_s: tuple[float, float] | None = None


class MeasuredResult(msgspec.Struct, frozen=True, kw_only=True):
    """A run against a server, beside the simulated policy that it is called after.

    Attributes
    ----------
    folder : str
        Where it was read from.
    workload, endpoint, run :
        As in the measurement's own document.
    simulated_policy : str or None
        The policy of the simulation that the run is labelled with; None if there is none.
    simulated_seeds : tuple of int
        The repeats that `ratios` relate to: those of the same requests, or else all.
    ratios : dict of str to float
        Measured figure over the mean of the simulated ones, by its path, where both exist.
    notes : tuple of str
        What besides the policy differs between measurement and simulation.
    """

    folder: str
    workload: WorkloadInfo
    endpoint: EndpointInfo
    run: MeasuredRun
    simulated_policy: str | None
    simulated_seeds: tuple[int, ...]
    ratios: dict[str, float]
    notes: tuple[str, ...]


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """All runs of one comparison; the first policy is the baseline.

    Attributes
    ----------
    schema : str
        Name and version of this document.
    workload, group :
        What was simulated, and on what.
    runs : tuple of RunResult
        In the order in which they ran: all policies under one seed, then under the next.
    measured : tuple of MeasuredResult
        Runs against servers that are shown beside the simulation.
    """

    schema: Literal["balanceroute.simulation.v1"] = SCHEMA
    workload: WorkloadInfo
    group: GroupInfo
    runs: tuple[RunResult, ...]
    measured: tuple[MeasuredResult, ...] = ()


def to_json(result: SimulationResult) -> bytes:
    """Encode a result as indented JSON that ends in a line feed, fields in the order above."""
    return indented_json(result)


def from_json(data: bytes | str) -> SimulationResult:
    """Decode a result, skipping fields that this version does not know.

    Raises
    ------
    ConfigError
        If the text is not a result of schema ``balanceroute.simulation.v1``.
    """
    return read_document(
        data, SimulationResult, schema=SCHEMA, command="balanceroute simulate --json"
    )
