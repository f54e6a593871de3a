"""`balanceroute afd`: size attention and FFN workers, and check the size by simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from balanceroute.cli import afd_profile
from balanceroute.cli.afd_options import (
    AsJson,
    Cycles,
    Device,
    FfnDevice,
    FfnWorkers,
    Microbatches,
    Model,
    Order,
    Policy,
    ProfileFile,
    Slots,
    Start,
    bundle_of,
    parse_workers,
    read_workload,
)
from balanceroute.cli.simulate import option
from balanceroute.cli.trace import Format, Seed, Source

# NumPy, Numba and Rich are imported inside the commands, so that --help stays instant.

app = typer.Typer(
    no_args_is_help=True, help="Size attention and FFN workers that run on separate devices."
)
app.add_typer(afd_profile.app, name="profile")

CHECK_CYCLES = 5000


@app.command()
def plan(
    source: Source,
    model: Model = "deepseek-v3",
    device: Device = "h200_sxm",
    ffn_device: FfnDevice = None,
    profile: ProfileFile = None,
    slots: Slots = None,
    microbatches: Microbatches = 2,
    ffn_workers: FfnWorkers = 1,
    max_workers: Annotated[int, option("Largest r that is considered.")] = 128,
    tpot_target_ms: Annotated[
        float | None, option("TPOT that must not be exceeded, milliseconds.")
    ] = None,
    attention_price: Annotated[
        float | None, option("Per attention device and hour; then r* has the cheapest tokens.")
    ] = None,
    ffn_price: Annotated[float | None, option("Per FFN device and hour.")] = None,
    policy: Policy = None,
    window_s: Annotated[
        float | None, option("Plan each window of so many seconds, too; needs arrival times.")
    ] = None,
    resize_s: Annotated[
        float, option("Seconds that a bundle is lost when it changes its r.")
    ] = 300.0,
    requests: Annotated[int | None, option("First so many; else all.")] = None,
    out: Annotated[
        Path | None, option("Folder for plan.json and report.html, with simulated points.")
    ] = None,
    as_json: AsJson = False,
    trace_format: Format = None,
    seed: Seed = 0,
) -> None:
    """Say how many attention workers one FFN worker should serve, why, and how sure that is."""
    from balanceroute.afd.plan import Planner
    from balanceroute.cli.afd_output import publish_plan

    workload = read_workload(source, trace_format, requests, seed)
    bundle = bundle_of(
        workload, model, device, ffn_device, profile, slots, microbatches, ffn_workers
    )
    planner = Planner(
        bundle=bundle,
        attention_price=attention_price,
        ffn_price=ffn_price,
        tpot_target_s=None if tpot_target_ms is None else tpot_target_ms / 1000,
        max_workers=max_workers,
        policy=policy,
        window_s=window_s,
        resize_s=resize_s,
        num_check_cycles=0 if out is None else CHECK_CYCLES,
        seed=seed,
    )
    publish_plan(planner.plan(workload), out=out, as_json=as_json)


@app.command()
def simulate(
    source: Source,
    workers: Annotated[int, option("Attention workers of the bundle, r.")],
    model: Model = "deepseek-v3",
    device: Device = "h200_sxm",
    ffn_device: FfnDevice = None,
    profile: ProfileFile = None,
    slots: Slots = None,
    microbatches: Microbatches = 2,
    ffn_workers: FfnWorkers = 1,
    cycles: Cycles = 20_000,
    start: Start = "stationary",
    order: Order = "shuffled",
    policy: Policy = None,
    requests: Annotated[int | None, option("First so many; else all.")] = None,
    as_json: AsJson = False,
    trace_format: Format = None,
    seed: Seed = 0,
) -> None:
    """Simulate one bundle: cycle time, throughput, and who is idle for what."""
    from balanceroute.cli.afd_output import publish_run
    from balanceroute.report.afd.run import run_bundle

    workload = read_workload(source, trace_format, requests, seed)
    bundle = bundle_of(
        workload, model, device, ffn_device, profile, slots, microbatches, ffn_workers
    )
    result = run_bundle(
        workload, bundle, workers,
        policy=policy, num_cycles=cycles, seed=seed,
        start=start,  # type: ignore[arg-type]  # the simulation checks the choices
        order=order,  # type: ignore[arg-type]
    )  # fmt: skip
    publish_run(result, as_json=as_json)


@app.command()
def sweep(
    source: Source,
    workers: Annotated[str, option("Values of r: 1-16 or 2,4,8.")] = "1-32",
    model: Model = "deepseek-v3",
    device: Device = "h200_sxm",
    ffn_device: FfnDevice = None,
    profile: ProfileFile = None,
    slots: Slots = None,
    microbatches: Microbatches = 2,
    ffn_workers: FfnWorkers = 1,
    cycles: Cycles = 20_000,
    start: Start = "stationary",
    order: Order = "shuffled",
    requests: Annotated[int | None, option("First so many; else all.")] = None,
    as_json: AsJson = False,
    trace_format: Format = None,
    seed: Seed = 0,
) -> None:
    """Simulate bundles of several sizes beside what was predicted for them."""
    from balanceroute.afd.plan import device_weights
    from balanceroute.afd.sweep import sweep as run_sweep
    from balanceroute.cli.afd_output import publish_sweep

    choices = parse_workers(workers)
    workload = read_workload(source, trace_format, requests, seed)
    bundle = bundle_of(
        workload, model, device, ffn_device, profile, slots, microbatches, ffn_workers
    )
    points = run_sweep(
        workload, bundle, device_weights(bundle), choices,
        num_cycles=cycles, seed=seed,
        start=start,  # type: ignore[arg-type]  # the simulation checks the choices
        order=order,  # type: ignore[arg-type]
    )  # fmt: skip
    publish_sweep(workload, bundle, points, as_json=as_json)
