"""How many attention workers one FFN worker should serve, why, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from balanceroute.afd.answer import (
    Choice,
    Interval,
    Plan,
    Point,
    Rules,
)
from balanceroute.afd.cycle import Bundle, barrier_s, gaussian_s, mean_field_s, pipeline_s
from balanceroute.afd.hours import Schedule, schedule
from balanceroute.afd.limits import (
    check_memory,
    cost_per_million,
    kv_tokens_needed,
    slots_within,
    workers_within,
)
from balanceroute.afd.loads import WorkerLoad, worker_load
from balanceroute.afd.optimum import (
    Weights,
    best_integer,
    best_real,
    closed_rule,
    mean_field_best,
    throughput,
)
from balanceroute.afd.routing import barrier_ratio
from balanceroute.afd.sensitivity import (
    best_near,
    interval_of,
    sensitivity_of,
    stages_of,
)
from balanceroute.afd.slots import SlotLoad, slot_load
from balanceroute.afd.sweep import SweepPoint, sweep
from balanceroute.errors import ConfigError
from balanceroute.types import Workload

MAX_WORKERS = 128
MOST_WORKERS = 10_000
FLAT_RATIO = 0.99  # of the best throughput: as good, for most purposes
OTHER_SLOTS = (16, 32, 64, 128, 256, 512)
OTHER_FFN_WORKERS = (1, 2, 3, 4)
CHECKED_SHARES = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)  # of r*, simulated
ROUGHLY = 0.3  # of a real r whose whole neighbours are tried
FEW_REQUESTS = 1000


def device_weights(bundle: Bundle) -> Weights:
    """Return the devices of one attention worker and of one FFN worker."""
    profile = bundle.profile
    return Weights(attention=profile.attention.num_devices, ffn=profile.ffn.num_devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """What a plan is asked for.

    Attributes
    ----------
    bundle : Bundle
        Stage costs, slots, microbatches and FFN workers.
    attention_price, ffn_price : float or None
        Per device and hour, both or neither. With prices r* is the one of the cheapest tokens, else
        the one of the most tokens per device.
    tpot_target_s : float or None
        TPOT that must not be exceeded.
    max_workers : int
        Largest r that is considered.
    policy : str or None
        Routing policy inside the bundle; a short simulation tells what it leaves of the barrier
        (`balanceroute.afd.routing.barrier_ratio`). None: each freed slot gets the next request.
    window_s, resize_s : float or None, float
        Plan windows of this length too (`balanceroute.afd.hours.schedule`).
    num_check_cycles : int
        Cycles of simulated bundles around r*, 0 for none.
    seed : int
        Of the simulations.
    """

    bundle: Bundle
    attention_price: float | None = None
    ffn_price: float | None = None
    tpot_target_s: float | None = None
    max_workers: int = MAX_WORKERS
    policy: str | None = None
    window_s: float | None = None
    resize_s: float = 300.0
    num_check_cycles: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.max_workers <= MOST_WORKERS:
            raise ConfigError(
                f"--max-workers must be 1 to {MOST_WORKERS:,}, got {self.max_workers}"
            )
        if (self.attention_price is None) != (self.ffn_price is None):
            raise ConfigError(
                "--attention-price and --ffn-price go together; give both, per device and hour"
            )
        for name, value in (
            ("attention-price", self.attention_price),
            ("ffn-price", self.ffn_price),
            ("tpot-target-ms", self.tpot_target_s),
        ):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name} must be a number above 0, got {value:g}")

    @property
    def weights(self) -> Weights:
        """Return what throughput is counted per: money if prices are known, else devices."""
        devices = device_weights(self.bundle)
        return Weights(
            attention=devices.attention * (self.attention_price or 1.0),
            ffn=devices.ffn * (self.ffn_price or 1.0),
        )

    def plan(self, workload: Workload) -> Plan:
        """Answer for a workload.

        Raises
        ------
        ConfigError
            If the batch does not fit the memory, no r meets the TPOT target, or windows are asked
            for that the trace does not have.
        TraceError
            If the workload has one request only.
        """
        bundle, slot = self.bundle, slot_load(workload)
        most_slots = check_memory(slot, bundle)
        left = 1.0
        if self.policy is not None:
            left = barrier_ratio(workload, bundle, self.policy, seed=self.seed)
        load = worker_load(slot, bundle.num_slots).squeezed(left)
        points = [self._point(slot, load, r) for r in range(1, self.max_workers + 1)]
        allowed = self._allowed(load)
        best = max((points[r - 1] for r in allowed), key=lambda each: (each.value, -each.r))
        flat = [r for r in allowed if points[r - 1].value >= FLAT_RATIO * best.value]
        sensitivity = sensitivity_of(bundle, self.weights, slot, load, best.r)
        stages = stages_of(bundle, load, best.r)
        return Plan(
            **self._question(workload, slot),
            barrier_ratio=left,
            r_star=best.r,
            r_star_real=best_near(bundle, self.weights, load, best.r),
            r_interval=interval_of(best.r, sensitivity, allowed),
            r_flat=Interval(low=min(flat), high=max(flat)),
            regime=stages.longest,
            stages=stages,
            best=best,
            rules=self._rules(slot),
            sensitivity=sensitivity,
            by_slots=tuple(self._by_slots(slot, left)),
            by_ffn_workers=tuple(self._by_ffn_workers(slot, left)),
            max_r_within_tpot=max(allowed) if self.tpot_target_s else None,
            max_slots_within_tpot=slots_within(slot, bundle, best.r, left, self.tpot_target_s)
            if self.tpot_target_s
            else None,
            kv_tokens_needed=kv_tokens_needed(slot, bundle),
            max_slots_by_memory=most_slots,
            curve=tuple(points),
            simulated=self._simulated(workload, best.r),
            schedule=self._schedule(workload, left),
            notes=tuple(_notes(workload, best.r, self)),
        )

    def _question(self, workload: Workload, slot: SlotLoad) -> dict[str, Any]:
        """Return the fields of a plan that say what was asked, and of what."""
        bundle, theta, nu = self.bundle, slot.theta_tokens, slot.nu_tokens
        return {
            "workload": workload.name,
            "num_requests": workload.num_requests,
            "profile": bundle.profile,
            "num_slots": bundle.num_slots,
            "num_microbatches": bundle.num_microbatches,
            "num_ffn_workers": bundle.num_ffn_workers,
            "policy": self.policy,
            "theta_tokens": theta.value,
            "theta_interval": (theta.low, theta.high),
            "nu_tokens": nu.value,
            "nu_interval": (nu.low, nu.high),
            "tpot_target_s": self.tpot_target_s,
            "attention_price": self.attention_price,
            "ffn_price": self.ffn_price,
        }

    def _simulated(self, workload: Workload, best: int) -> tuple[SweepPoint, ...]:
        if self.num_check_cycles == 0:
            return ()
        checked = {round(best * share) for share in CHECKED_SHARES} | {best - 1, best + 1}
        return sweep(
            workload, self.bundle, self.weights, [r for r in checked if r >= 1],
            num_cycles=self.num_check_cycles, seed=self.seed,
        )  # fmt: skip

    def _schedule(self, workload: Workload, left: float) -> Schedule | None:
        if self.window_s is None:
            return None
        return schedule(
            workload, self.bundle, self.weights,
            window_s=self.window_s, resize_s=self.resize_s, max_workers=self.max_workers,
            barrier_ratio=left,
        )  # fmt: skip

    def _allowed(self, load: WorkerLoad) -> list[int]:
        choices = range(1, self.max_workers + 1)
        if self.tpot_target_s is None:
            return list(choices)
        cycle_time = _cycle_time(self.bundle, load)
        return workers_within(self.bundle, cycle_time, self.tpot_target_s, choices)

    def _point(self, slot: SlotLoad, load: WorkerLoad, num_workers: int) -> Point:
        bundle, theta = self.bundle, slot.theta_tokens.value
        cycle_s = pipeline_s(bundle, load, num_workers)
        has_prices = self.attention_price is not None
        gauss_s = gaussian_s(bundle, theta, slot.nu_tokens.value, num_workers)
        return Point(
            r=num_workers,
            cycle_s=cycle_s,
            tpot_s=cycle_s * bundle.num_microbatches,
            tokens_per_s=num_workers * bundle.num_slots / cycle_s,
            tokens_per_s_per_device=throughput(
                bundle, device_weights(bundle), num_workers, cycle_s
            ),
            cost_per_million=cost_per_million(bundle, self.weights, num_workers, cycle_s)
            if has_prices
            else None,
            value=throughput(bundle, self.weights, num_workers, cycle_s),
            attention_s=bundle.attention_s(load.expected_max(num_workers)),
            network_s=bundle.network_s(num_workers),
            ffn_s=bundle.ffn_s(num_workers),
            mean_field_s=mean_field_s(bundle, theta, num_workers),
            gaussian_s=gauss_s,
            barrier_s=barrier_s(bundle, load, num_workers),
        )

    def _rules(self, slot: SlotLoad) -> Rules:
        bundle, weights = self.bundle, self.weights
        theta, nu = slot.theta_tokens.value, slot.nu_tokens.value
        choices = range(1, self.max_workers + 1)
        closed = closed_rule(bundle, weights, theta)
        return Rules(
            closed_attention=closed.attention,
            closed_network=closed.network,
            closed_peak=closed.peak,
            mean_field=mean_field_best(bundle, weights, theta, 1, self.max_workers),
            gaussian=best_integer(
                bundle, weights, lambda r: gaussian_s(bundle, theta, nu, r), choices
            ),
        )

    def _by_slots(self, slot: SlotLoad, left: float) -> list[Choice]:
        bundles = [replace(self.bundle, num_slots=number) for number in OTHER_SLOTS]
        return [self._choice(slot, bundle, left) for bundle in bundles]

    def _by_ffn_workers(self, slot: SlotLoad, left: float) -> list[Choice]:
        bundles = [replace(self.bundle, num_ffn_workers=number) for number in OTHER_FFN_WORKERS]
        return [self._choice(slot, bundle, left) for bundle in bundles]

    def _choice(self, slot: SlotLoad, bundle: Bundle, left: float) -> Choice:
        load = worker_load(slot, bundle.num_slots).squeezed(left)
        cycle_time = _cycle_time(bundle, load)
        real = best_real(bundle, self.weights, cycle_time, 1, self.max_workers, tolerance=ROUGHLY)
        near = range(max(1, int(real) - 1), min(self.max_workers, int(real) + 2) + 1)
        best = best_integer(bundle, self.weights, cycle_time, near)
        cycle_s, kv_tokens = cycle_time(best), bundle.profile.attention.kv_tokens
        needed = kv_tokens_needed(slot, bundle)
        return Choice(
            num_slots=bundle.num_slots,
            num_ffn_workers=bundle.num_ffn_workers,
            r=best,
            tpot_s=cycle_s * bundle.num_microbatches,
            value=throughput(bundle, self.weights, best, cycle_s),
            fits_memory=kv_tokens is None or needed <= kv_tokens,
        )


def _cycle_time(bundle: Bundle, load: WorkerLoad) -> Callable[[float], float]:
    return lambda num_workers: pipeline_s(bundle, load, num_workers)


def _notes(workload: Workload, best: int, planner: Planner) -> list[str]:
    notes = list(planner.bundle.profile.notes)
    if workload.num_requests < FEW_REQUESTS:
        notes.append(
            f"Only {workload.num_requests} requests: the intervals are rough themselves; some "
            "thousands give better ones."
        )
    if best == planner.max_workers:
        notes.append(f"r* is the largest r considered; raise --max-workers {best}.")
    return notes
