"""One case of the validation of AFD plans: a workload and a batch size, on every profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from balanceroute.afd.cycle import Bundle, gaussian_s, pipeline_s
from balanceroute.afd.limits import kv_tokens_needed
from balanceroute.afd.loads import WorkerLoad, worker_load
from balanceroute.afd.normal import expected_max_of_normals
from balanceroute.afd.optimum import best_integer, mean_field_best, throughput
from balanceroute.afd.plan import device_weights
from balanceroute.afd.profile import load_profile, shipped_profiles
from balanceroute.afd.simulate import Loads, run_cycles, simulate_loads
from balanceroute.afd.slots import SlotLoad, slot_load
from balanceroute.types import Workload
from balanceroute.workload import PRESETS, load
from bench.machine import TRACES

MAX_WORKERS = 128
LEAST_CYCLES, MOST_CYCLES, LIVES = 20_000, 100_000, 100  # of a run; mean output lengths in it
NUM_SAMPLES, SAMPLES_PER_LIFE = 20_000, 4  # of the loads, to compare E[max]
NUM_PARTS = 20  # of a run, whose means give standard errors
BEYOND = 1.6  # largest r that is simulated, in units of the largest that is predicted
NUM_MICROBATCHES = 2
SLOTS = (16, 32, 64, 128, 256, 512)
SIZES = (2, 4, 8, 16, 32, 64, 128)  # r at which E[max] is compared
PRESET_REQUESTS = 200_000
ALL = range(1, MAX_WORKERS + 1)
Row = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is simulated: a preset or trace, B, and the order of its requests."""

    source: str
    num_slots: int
    order: str = "shuffled"

    @property
    def name(self) -> str:
        """Return what its file is called."""
        return f"{self.source}-B{self.num_slots}-{self.order}"

    def run(self) -> Row:
        """Simulate, compare, and return the figures."""
        workload = self.workload()
        slot = slot_load(workload)
        load = worker_load(slot, self.num_slots)
        return {
            "source": self.source,
            "num_slots": self.num_slots,
            "order": self.order,
            "theta_tokens": slot.theta_tokens.value,
            "nu_tokens": slot.nu_tokens.value,
            "mean_output_tokens": slot.mean_output_tokens,
            "largest": self._largest(workload, slot, load),
            "optima": list(self._optima(workload, slot, load)),
        }

    def workload(self) -> Workload:
        """Return the requests."""
        if self.source in PRESETS:
            return load(self.source, num_requests=PRESET_REQUESTS)
        return load(str(TRACES / f"{self.source}.csv.gz"))

    def _largest(self, workload: Workload, slot: SlotLoad, load: WorkerLoad) -> list[Row]:
        """Compare E[max load] with the normal and the exact prediction."""
        stride = max(1, round(slot.mean_output_tokens / SAMPLES_PER_LIFE))
        loads = self._loads(workload, NUM_SAMPLES, MAX_WORKERS, seed=1, stride=stride)
        theta, nu = slot.theta_tokens.value, slot.nu_tokens.value
        rows: list[Row] = []
        for r in SIZES:
            groups = loads.reshape(len(loads), MAX_WORKERS // r, r).max(axis=2).mean(axis=1)
            parts = np.array([part.mean() for part in np.array_split(groups, NUM_PARTS)])
            simulated = float(groups.mean())
            normal = self.num_slots * theta
            normal += np.sqrt(self.num_slots) * nu * expected_max_of_normals(r)
            rows.append(
                {
                    "r": r,
                    "simulated_tokens": simulated,
                    "error_ratio": float(parts.std(ddof=1) / np.sqrt(NUM_PARTS)) / simulated,
                    "normal_off_ratio": float(normal) / simulated - 1,
                    "exact_off_ratio": load.expected_max(r) / simulated - 1,
                }
            )
        return rows

    def _optima(self, workload: Workload, slot: SlotLoad, load: WorkerLoad) -> Iterator[Row]:
        """Compare predicted with simulated optima on every profile."""
        bundles = [
            Bundle(
                profile=load_profile(*name.rsplit(".", 1)),
                num_slots=self.num_slots,
                num_microbatches=NUM_MICROBATCHES,
            )
            for name in shipped_profiles()
        ]
        predicted = [
            best_integer(bundle, device_weights(bundle), partial(pipeline_s, bundle, load), ALL)
            for bundle in bundles
        ]
        num_workers = min(MAX_WORKERS, round(BEYOND * max(predicted)) + 3)
        lives = round(LIVES * slot.mean_output_tokens)
        num_cycles = min(MOST_CYCLES, max(LEAST_CYCLES, lives))
        groups = [
            self._loads(workload, num_cycles, num_workers, seed=2 + j)
            for j in range(NUM_MICROBATCHES)
        ]
        most = [np.maximum.accumulate(group, axis=1) for group in groups]
        sums = [np.cumsum(group, axis=1) for group in groups]
        cycles = [
            [
                Loads(
                    max_tokens=largest[:, r - 1].astype(np.float64), mean_tokens=total[:, r - 1] / r
                )
                for largest, total in zip(most, sums, strict=True)
            ]
            for r in range(1, num_workers + 1)
        ]
        for bundle in bundles:
            yield {"profile": bundle.profile.name, **_optimum(bundle, slot, load, cycles)}

    def _loads(
        self, workload: Workload, num_rows: int, num_workers: int, *, seed: int, stride: int = 1
    ) -> NDArray[np.int64]:
        return simulate_loads(
            workload, self.num_slots, num_workers, num_cycles=num_rows, stride=stride,
            rng=np.random.default_rng(seed), order=self.order,  # type: ignore[arg-type]
        )  # fmt: skip


def all_cases() -> list[Case]:
    """Return the cases: every preset and trace at each B, traces in their own order at B = 64."""
    traces = sorted(path.name.removesuffix(".csv.gz") for path in TRACES.glob("*.csv.gz"))
    cases = [Case(source=name, num_slots=b) for name in (*PRESETS, *traces) for b in SLOTS]
    return cases + [Case(source=name, num_slots=64, order="trace") for name in traces]


def _optimum(bundle: Bundle, slot: SlotLoad, load: WorkerLoad, cycles: list[list[Loads]]) -> Row:
    weights, choices = device_weights(bundle), range(1, len(cycles) + 1)
    theta, nu = slot.theta_tokens.value, slot.nu_tokens.value
    parts_s = {r: _parts_s(bundle, r, cycles[r - 1]) for r in choices}
    simulated_s = {r: float(parts_s[r].mean()) for r in choices}
    predicted_s = {r: pipeline_s(bundle, load, r) for r in choices}
    best = best_integer(bundle, weights, lambda r: simulated_s[int(r)], choices)
    predicted = best_integer(bundle, weights, lambda r: predicted_s[int(r)], choices)
    normal = best_integer(bundle, weights, lambda r: gaussian_s(bundle, theta, nu, r), choices)
    mean_field = mean_field_best(bundle, weights, theta, 1, len(cycles))

    def loss(r: int) -> float:
        """Return what r costs against the best r, in simulated throughput."""
        top = throughput(bundle, weights, best, simulated_s[best])
        return 1 - throughput(bundle, weights, r, simulated_s[r]) / top

    differences = parts_s[predicted] / simulated_s[predicted] - parts_s[best] / simulated_s[best]

    kv_tokens = bundle.profile.attention.kv_tokens
    return {
        "fits_memory": kv_tokens is None or kv_tokens_needed(slot, bundle) <= kv_tokens,
        "simulated": best,
        "predicted": predicted,
        "gaussian": normal,
        "mean_field": mean_field,
        "num_cycles": len(cycles[0][0].max_tokens),
        "predicted_loss_ratio": loss(predicted),
        "loss_error_ratio": float(differences.std(ddof=1) / np.sqrt(NUM_PARTS)),
        "gaussian_loss_ratio": loss(normal),
        "mean_field_loss_ratio": loss(max(1, round(mean_field))),
        "cycle_off_ratio": predicted_s[best] / simulated_s[best] - 1,
        "gaussian_cycle_off_ratio": gaussian_s(bundle, theta, nu, best) / simulated_s[best] - 1,
        "worst_cycle_off_ratio": max(
            (predicted_s[r] / simulated_s[r] - 1 for r in choices if r <= 2 * best), key=abs
        ),
    }


def _parts_s(bundle: Bundle, num_workers: int, loads: list[Loads]) -> NDArray[np.float64]:
    """Return the mean cycle of each part of a simulated run."""
    end_s = run_cycles(bundle, num_workers, loads).end_s[0]
    places = np.linspace(0, len(end_s) - 1, NUM_PARTS + 1).astype(np.int64)
    parts: NDArray[np.float64] = np.diff(end_s[places]) / np.diff(places) / NUM_MICROBATCHES
    return parts
