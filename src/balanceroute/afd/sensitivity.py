"""What binds at the best r, and how far that r moves with what is not known exactly."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from balanceroute.afd.answer import Interval, Sensitivity, Stages
from balanceroute.afd.cycle import Bundle, pipeline_s
from balanceroute.afd.loads import WorkerLoad
from balanceroute.afd.optimum import Weights, best_real
from balanceroute.afd.profile import DeviceProfile
from balanceroute.afd.slots import SlotLoad

STAGES = ("attention", "ffn", "network")
SLOPES, CONSTANTS = ("s_per_token", "s_per_request"), ("constant_s",)
REAL_TOLERANCE = 0.02  # of a real r


def stages_of(bundle: Bundle, load: WorkerLoad, num_workers: int) -> Stages:
    """Return what each stage takes at r, which is longest, and by how much."""
    times = {
        "attention": bundle.attention_s(load.expected_max(num_workers)),
        "ffn": bundle.ffn_s(num_workers),
        "network": bundle.network_s(num_workers),
    }
    longest, second = sorted(times.values(), reverse=True)[:2]
    return Stages(
        attention_mean_s=bundle.attention_s(load.mean_tokens),
        attention_max_s=times["attention"],
        ffn_s=times["ffn"],
        network_s=times["network"],
        trip_s=sum(times.values()) / bundle.num_microbatches,
        longest=max(STAGES, key=lambda name: times[name]),
        slack_ratio=1 - second / longest,
    )


def best_near(bundle: Bundle, weights: Weights, load: WorkerLoad, near: int) -> float:
    """Return the best real r between half and double of `near`."""
    low = max(1.0, near / 2)
    return best_real(
        bundle, weights, lambda r: pipeline_s(bundle, load, r), low, 2.0 * near,
        tolerance=REAL_TOLERANCE,
    )  # fmt: skip


def sensitivity_of(
    bundle: Bundle, weights: Weights, slot: SlotLoad, load: WorkerLoad, best: int
) -> tuple[Sensitivity, ...]:
    """Return how the best real r moves with each thing that is not known exactly."""
    theta, nu, profile = slot.theta_tokens, slot.nu_tokens, bundle.profile
    rows = []
    if theta.value > 0:
        scaled = [load.scaled(end / theta.value) for end in (theta.low, theta.high)]
        rows.append(("theta of the trace", [(bundle, each) for each in scaled]))
    if nu.value > 0:
        squeezed = [load.squeezed(end / nu.value) for end in (nu.low, nu.high)]
        rows.append(("nu of the trace", [(bundle, each) for each in squeezed]))
    for stage in STAGES:
        fit = getattr(profile, stage).fit
        if fit is not None:
            factors = (1 - fit.median_error_ratio, 1 + fit.median_error_ratio)
            bundles = [
                replace(bundle, profile=_scaled_stage(profile, stage, names, factor))
                for names in (SLOPES, CONSTANTS, SLOPES + CONSTANTS)
                for factor in factors
            ]
            rows.append((f"fit of {stage}", [(each, load) for each in bundles]))
    found = []
    for source, cases in rows:
        ends = [best_near(each, weights, case, best) for each, case in cases]
        found.append(Sensitivity(source=source, low=min(ends), high=max(ends)))
    return tuple(found)


def _scaled_stage(
    profile: DeviceProfile, stage: str, names: tuple[str, ...], factor: float
) -> DeviceProfile:
    """Return a profile with some costs of a stage multiplied by `factor`."""
    cost = getattr(profile, stage)
    scaled = {name: getattr(cost, name) * factor for name in names if hasattr(cost, name)}
    return msgspec.structs.replace(profile, **{stage: msgspec.structs.replace(cost, **scaled)})


def interval_of(best: int, sensitivity: tuple[Sensitivity, ...], allowed: list[int]) -> Interval:
    """Return the integers within which r* lies, errors taken as independent."""
    below = sum(max(0.0, best - each.low) ** 2 for each in sensitivity) ** 0.5
    above = sum(max(0.0, each.high - best) ** 2 for each in sensitivity) ** 0.5
    low, high = round(best - below), round(best + above)
    return Interval(low=min(best, max(low, min(allowed))), high=max(best, min(high, max(allowed))))
