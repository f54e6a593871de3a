"""The result document ``balanceroute.afd-plan.v1``; `docs/afd.md` describes it.

Fields may be added within version 1, so readers skip those that they do not know; none is renamed,
removed or given another meaning. Times are seconds, r counts attention workers per bundle.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from balanceroute.afd.hours import Schedule
from balanceroute.afd.profile import DeviceProfile
from balanceroute.afd.sweep import SweepPoint

SCHEMA: Literal["balanceroute.afd-plan.v1"] = "balanceroute.afd-plan.v1"


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """What one cycle's stages take at r*.

    Attributes
    ----------
    attention_mean_s, attention_max_s : float
        Attention of the mean worker, and of the slowest on average over cycles.
    ffn_s, network_s : float
        FFN, and both ways on the network.
    trip_s : float
        All stages of a cycle over m. Where it exceeds the longest stage, microbatches are too few
        to keep that stage busy.
    longest : {"attention", "ffn", "network"}
        The stage that binds.
    slack_ratio : float
        How much shorter the next one is, in [0, 1].
    """

    attention_mean_s: float
    attention_max_s: float
    ffn_s: float
    network_s: float
    trip_s: float
    longest: str
    slack_ratio: float


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One r.

    Attributes
    ----------
    r : int
        Attention workers per bundle.
    cycle_s, tpot_s : float
        Predicted time per microbatch and cycle; between two tokens of a request.
    tokens_per_s, tokens_per_s_per_device : float
        Output tokens of the bundle, and per device of it.
    cost_per_million : float or None
        Of a million output tokens, in the prices' currency; None without prices.
    value : float
        What r* is the largest of: tokens per second and device, or and price.
    attention_s, network_s, ffn_s : float
        What each stage takes; attention of the slowest worker, on average.
    mean_field_s, gaussian_s, barrier_s : float
        The cycle by the paper's mean-field and barrier-aware rules, and by the latter with the
        loads' own distribution.
    """

    r: int
    cycle_s: float
    tpot_s: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    cost_per_million: float | None
    value: float
    attention_s: float
    network_s: float
    ffn_s: float
    mean_field_s: float
    gaussian_s: float
    barrier_s: float


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the paper's own rules say; infinite terms are null.

    Attributes
    ----------
    closed_attention, closed_network, closed_peak : float
        r_A, r_C and r_peak of version 1; its r* is the largest.
    mean_field : float
        Best real r of the mean-field cycle.
    gaussian : int
        Best r of the barrier-aware cycle with normal loads.
    """

    closed_attention: float
    closed_network: float
    closed_peak: float
    mean_field: float
    gaussian: int


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """Best real r at both ends of what is known of one thing, the others as estimated."""

    source: str
    low: float
    high: float


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The best r for another batch size or number of FFN workers.

    Attributes
    ----------
    num_slots, num_ffn_workers : int
        B and f.
    r : int
        Best number of attention workers for them.
    tpot_s, value : float
        As of `Point`.
    fits_memory : bool
        Whether m·B requests fit a worker's KV memory; true where that is not known.
    """

    num_slots: int
    num_ffn_workers: int
    r: int
    tpot_s: float
    value: float
    fits_memory: bool


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `afd plan`.

    Attributes
    ----------
    workload, num_requests
        The trace.
    profile : DeviceProfile
        The profile used.
    num_slots, num_microbatches, num_ffn_workers : int
        B per worker and microbatch, m and f.
    policy : str or None
        Routing inside the bundle; None: each freed slot gets the next request.
    barrier_ratio : float
        Part of the barrier's cost that the policy leaves; 1 without one.
    theta_tokens, nu_tokens : float
        θ and ν; `theta_interval` and `nu_interval` cover them in 95 of 100 traces.
    r_star, r_star_real : int, float
        Best whole and best real r.
    r_interval : Interval
        Where r* lies, given the intervals of θ and ν and the median errors of the profile's fits.
    r_flat : Interval
        Where throughput is within 1 % of the best.
    regime : {"attention", "ffn", "network"}
        The stage that binds at r*.
    max_r_within_tpot, max_slots_within_tpot : int or None
        Largest r that meets the TPOT target, and largest B that meets it at r*; None without one.
    max_slots_by_memory : int or None
        Largest B that fits; None where the profile does not say how much memory there is.
    simulated : tuple of SweepPoint
        Simulated bundles, if any were asked for; without the policy.
    schedule : Schedule or None
        The plan over windows of time, if it was asked for.
    """

    schema: Literal["balanceroute.afd-plan.v1"] = SCHEMA
    workload: str
    num_requests: int
    profile: DeviceProfile
    num_slots: int
    num_microbatches: int
    num_ffn_workers: int
    policy: str | None = None
    barrier_ratio: float
    theta_tokens: float
    theta_interval: tuple[float, float]
    nu_tokens: float
    nu_interval: tuple[float, float]
    r_star: int
    r_star_real: float
    r_interval: Interval
    r_flat: Interval
    regime: str
    stages: Stages
    best: Point
    rules: Rules
    sensitivity: tuple[Sensitivity, ...]
    by_slots: tuple[Choice, ...]
    by_ffn_workers: tuple[Choice, ...]
    tpot_target_s: float | None
    max_r_within_tpot: int | None
    max_slots_within_tpot: int | None
    kv_tokens_needed: float
    max_slots_by_memory: int | None
    attention_price: float | None
    ffn_price: float | None
    curve: tuple[Point, ...]
    simulated: tuple[SweepPoint, ...] = ()
    schedule: Schedule | None = None
    notes: tuple[str, ...]
