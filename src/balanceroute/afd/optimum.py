"""Which number of attention workers is best, by scan, by candidates and by the closed rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from balanceroute.afd.cycle import Bundle, mean_field_s

GOLDEN = (math.sqrt(5) - 1) / 2
TOLERANCE = 1e-4  # of a real r
CycleTime = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What one attention worker and one FFN worker cost, in the same unit: devices, or money.

    Throughput is counted per unit of it. Version 1 of the paper has 1 and 1.
    """

    attention: float = 1.0
    ffn: float = 1.0

    def of(self, num_workers: float, num_ffn_workers: int) -> float:
        """Return what a bundle costs."""
        return num_workers * self.attention + num_ffn_workers * self.ffn


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedRule:
    """The rule of version 1: r* is the largest of the three.

    Attributes
    ----------
    attention, network, peak : float
        r_A and r_C, where FFN takes as long as attention and as the network; r_peak, where
        throughput of a bundle bound by FFN is largest.
    """

    attention: float
    network: float
    peak: float

    @property
    def best(self) -> float:
        """Return r*."""
        return max(self.attention, self.network, self.peak)


def throughput(bundle: Bundle, weights: Weights, num_workers: float, cycle_s: float) -> float:
    """Return output tokens per second and unit of `weights`, rB / ((r·w_A + f·w_F)·τ)."""
    cost = weights.of(num_workers, bundle.num_ffn_workers)
    return num_workers * bundle.num_slots / (cost * cycle_s)


def best_integer(
    bundle: Bundle, weights: Weights, cycle_time: CycleTime, choices: Sequence[int]
) -> int:
    """Return the choice of r with the largest throughput, the smallest of equals."""
    return max(choices, key=lambda r: (throughput(bundle, weights, r, cycle_time(r)), -r))


def best_real(
    bundle: Bundle,
    weights: Weights,
    cycle_time: CycleTime,
    low: float,
    high: float,
    *,
    tolerance: float = TOLERANCE,
) -> float:
    """Return the real r in [low, high] with the largest throughput, by golden-section search.

    Throughput must have one peak there, as it has next to the best integer.
    """

    def value(num_workers: float) -> float:
        return throughput(bundle, weights, num_workers, cycle_time(num_workers))

    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    while high - low > tolerance:
        if at_left > at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = value(right)
    return (low + high) / 2


def closed_rule(bundle: Bundle, weights: Weights, theta_tokens: float) -> ClosedRule:
    """Return the rule of version 1, Theorem 4.4 of [1]_, for a network that does not grow with r.

    Implements r_A = (t_A − β_F)/(α_F·B), r_C = (t_C − β_F)/(α_F·B) and r_peak = √(β_F/(α_F·B)),
    each for f FFN workers and unequal weights: B becomes B/f, and r_peak gains √(f·w_F/w_A).
    Infinite where FFN does not grow with its requests.

    References
    ----------
    .. [1] arXiv 2601.21351v1.

    Examples
    --------
    >>> from balanceroute.afd.profile import *
    >>> profile = DeviceProfile(
    ...     model="m", device="d", attention=AttentionCost(s_per_token=1e-8, constant_s=1e-3),
    ...     ffn=FfnCost(s_per_request=1e-6, constant_s=5e-4),
    ...     network=NetworkCost(s_per_request=1e-6, constant_s=1e-4, carries="worker"))
    >>> rule = closed_rule(Bundle(profile=profile, num_slots=100), Weights(), 1000.0)
    >>> round(rule.attention, 9), round(rule.network, 9), round(rule.peak, 9)
    (15.0, -3.0, 2.236067977)
    """
    ffn, slots = bundle.profile.ffn, bundle.num_slots / bundle.num_ffn_workers
    slope_s = ffn.s_per_request * slots
    if slope_s == 0:
        return ClosedRule(attention=math.inf, network=math.inf, peak=math.inf)
    attention_s = bundle.attention_s(bundle.num_slots * theta_tokens)
    ratio = bundle.num_ffn_workers * weights.ffn / weights.attention
    return ClosedRule(
        attention=(attention_s - ffn.constant_s) / slope_s,
        network=(bundle.network_s(1) - ffn.constant_s) / slope_s,
        peak=math.sqrt(ratio * ffn.constant_s / slope_s),
    )


def mean_field_candidates(
    bundle: Bundle, weights: Weights, theta_tokens: float, low: float, high: float
) -> dict[str, float]:
    """Return every r in [low, high] at which mean-field throughput can be largest.

    τ is the largest of three lines in r, so r/((r·w_A + f·w_F)·τ) is largest where two of them
    cross, at the stationary point √(f·w_F·c/(w_A·a)) of a line a·r + c, or at an end of the range.

    Examples
    --------
    >>> from balanceroute.afd.profile import *
    >>> profile = DeviceProfile(
    ...     model="m", device="d", attention=AttentionCost(s_per_token=1e-8, constant_s=1e-3),
    ...     ffn=FfnCost(s_per_request=1e-6, constant_s=5e-4))
    >>> bundle = Bundle(profile=profile, num_slots=100)
    >>> found = mean_field_candidates(bundle, Weights(), 1000.0, 1, 64)
    >>> {name: round(r, 3) for name, r in found.items()}
    {'low': 1, 'high': 64, 'attention = ffn': 15.0, 'peak of ffn': 2.236}
    """
    lines = {
        "attention": (0.0, bundle.attention_s(bundle.num_slots * theta_tokens)),
        "network": _line(bundle.network_s),
        "ffn": _line(bundle.ffn_s),
    }
    found = {"low": low, "high": high}
    names = list(lines)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            slope = lines[second][0] - lines[first][0]
            if slope != 0:
                found[f"{first} = {second}"] = (lines[first][1] - lines[second][1]) / slope
    ratio = bundle.num_ffn_workers * weights.ffn / weights.attention
    for name, (slope, constant) in lines.items():
        if slope > 0:
            found[f"peak of {name}"] = math.sqrt(ratio * constant / slope)
    return {name: r for name, r in found.items() if low <= r <= high}


def mean_field_best(
    bundle: Bundle, weights: Weights, theta_tokens: float, low: float, high: float
) -> float:
    """Return the real r in [low, high] with the largest mean-field throughput."""
    candidates = mean_field_candidates(bundle, weights, theta_tokens, low, high)
    return max(
        candidates.values(),
        key=lambda r: throughput(bundle, weights, r, mean_field_s(bundle, theta_tokens, r)),
    )


def _line(stage_s: CycleTime) -> tuple[float, float]:
    constant_s = stage_s(0.0)
    return stage_s(1.0) - constant_s, constant_s
