"""One simulated bundle as a document."""

from __future__ import annotations

import msgspec

from balanceroute.afd.cycle import Bundle, pipeline_s
from balanceroute.afd.loads import worker_load
from balanceroute.afd.optimum import throughput
from balanceroute.afd.plan import device_weights
from balanceroute.afd.routing import simulate_routed
from balanceroute.afd.simulate import BundleRun, Idle, Order, simulate_bundle
from balanceroute.afd.slots import slot_load
from balanceroute.errors import ConfigError
from balanceroute.metrics import Metrics, summarize
from balanceroute.sim.config import Start
from balanceroute.types import Workload


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one simulated bundle; `balanceroute.afd.simulate.BundleRun` has the fields.

    Attributes
    ----------
    predicted_cycle_s : float
        Without a policy's effect.
    tokens_per_s_per_device : float
        Output tokens.
    metrics : tuple of Metrics
        With a policy: the figures of each microbatch as a group of its own, in the pipeline's time.
    """

    schema: str = "balanceroute.afd-run.v1"
    workload: str
    profile: str
    policy: str | None
    num_workers: int
    num_slots: int
    num_microbatches: int
    num_ffn_workers: int
    num_cycles: int
    cycle_s: float
    cycle_error_s: float
    predicted_cycle_s: float
    tpot_s: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    max_load_tokens: float
    mean_load_tokens: float
    predicted_max_load_tokens: float
    idle: Idle
    metrics: tuple[Metrics, ...]


def run_bundle(
    workload: Workload,
    bundle: Bundle,
    num_workers: int,
    *,
    policy: str | None,
    num_cycles: int,
    start: Start,
    order: Order,
    seed: int,
) -> RunResult:
    """Simulate one bundle, with a routing policy or with slots that refill at once."""
    run, metrics = _simulated(
        workload, bundle, num_workers,
        policy=policy, num_cycles=num_cycles, start=start, order=order, seed=seed,
    )  # fmt: skip
    load = worker_load(slot_load(workload), bundle.num_slots)
    return RunResult(
        workload=workload.name,
        profile=bundle.profile.name,
        policy=policy,
        num_workers=num_workers,
        num_slots=bundle.num_slots,
        num_microbatches=bundle.num_microbatches,
        num_ffn_workers=bundle.num_ffn_workers,
        num_cycles=run.num_cycles,
        cycle_s=run.cycle_s,
        cycle_error_s=run.cycle_error_s,
        predicted_cycle_s=pipeline_s(bundle, load, num_workers),
        tpot_s=run.tpot_s,
        tokens_per_s=run.tokens_per_s,
        tokens_per_s_per_device=throughput(
            bundle, device_weights(bundle), num_workers, run.cycle_s
        ),
        max_load_tokens=run.max_load_tokens,
        mean_load_tokens=run.mean_load_tokens,
        predicted_max_load_tokens=load.expected_max(num_workers),
        idle=run.idle,
        metrics=metrics,
    )


def _simulated(
    workload: Workload,
    bundle: Bundle,
    num_workers: int,
    *,
    policy: str | None,
    num_cycles: int,
    start: Start,
    order: Order,
    seed: int,
) -> tuple[BundleRun, tuple[Metrics, ...]]:
    if policy is None:
        run = simulate_bundle(
            workload, bundle, num_workers,
            num_cycles=num_cycles, seed=seed, start=start, order=order,
        )  # fmt: skip
        return run, ()
    if order != "shuffled":
        raise ConfigError("--order trace is for bundles without --policy")
    routed = simulate_routed(
        workload, bundle, num_workers, policy, num_cycles=num_cycles, seed=seed, start=start
    )
    return routed.run, tuple(summarize(records) for records in routed.records)
