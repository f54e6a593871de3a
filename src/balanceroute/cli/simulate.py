"""`balanceroute simulate`: what the ranks lose at the barrier, policy by policy."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from balanceroute.cli.progress import progress_bar
from balanceroute.errors import ConfigError

if TYPE_CHECKING:
    from balanceroute.report.digest import RunDigest
    from balanceroute.report.result import SimulationResult

DEFAULT_POLICIES = ("vllm", "round_robin", "br_auto")


def option(help_text: str, *names: str, **settings: Any) -> Any:
    """Describe an option; `names` only where the parameter's own name does not do."""
    return typer.Option(*names, help=help_text, **settings)


def simulate(
    source: Annotated[str, typer.Argument(help="A trace file, or a preset of `trace list`.")],
    trace_format: Annotated[
        str | None, option("Format of the file; else detected.", "--format")
    ] = None,
    ranks: Annotated[int, option("Ranks of the group, G.")] = 16,
    groups: Annotated[
        int, option("Into which the ranks are divided, each with a barrier; one brain for all.")
    ] = 1,
    slots: Annotated[int, option("Running requests per rank, B.")] = 72,
    kv_tokens: Annotated[int | None, option("KV tokens per rank; else unlimited.")] = None,
    rank_speeds: Annotated[
        str | None, option("Speed of each rank, as 1,1,0.8,…; else all 1.")
    ] = None,
    barrier: Annotated[
        bool, option("Whether ranks meet at the end of each step.", "--barrier/--no-barrier")
    ] = True,
    policy: Annotated[
        list[str] | None,
        option("NAME[,key=value…] or FILE.py:CLASS; may be repeated, the first is the baseline."),
    ] = None,
    arrivals: Annotated[str, option("saturated, trace or poisson.")] = "saturated",
    rate: Annotated[float | None, option("Poisson: requests/s; else the source's mean.")] = None,
    rate_scale: Annotated[float, option("Factor on the arrival rate.")] = 1.0,
    pool: Annotated[int | None, option("Saturated: requests that wait; else 4 G.")] = None,
    requests: Annotated[
        int | None, option("Requests; more than the file has are drawn with replacement.")
    ] = None,
    seed: Annotated[int, option("Seed of all chance.")] = 0,
    repeats: Annotated[int, option("Runs per policy, each with the next seed.")] = 1,
    warmup_steps: Annotated[
        int | None, option("Steps left out; else until G·B requests are admitted if saturated.")
    ] = None,
    step_time: Annotated[
        str,
        option(
            "paper, bf-io, h200-deepseek-v3, C,T[,KAPPA0] in s, s/token, tokens, or a .json file "
            "that calibrate has written."
        ),
    ] = "paper",
    prefill_budget: Annotated[
        int | None, option("Tokens per rank and step where ranks prefill too; else decode-only.")
    ] = None,
    prefill_time: Annotated[float, option("Seconds per prompt token computed.")] = 0.0,
    prefill_shared: Annotated[
        float, option("Part of --prefill-time, 0 to 1, that falls to all ranks alike.")
    ] = 0.0,
    mixed_step_time: Annotated[
        float, option("Seconds that a step takes longer on a rank that prefills in it.")
    ] = 0.0,
    prefix_cache: Annotated[
        bool,
        option(
            "Whether the workload's cached_tokens need not be computed.",
            "--prefix-cache/--no-prefix-cache",
        ),
    ] = False,
    prefill_gate: Annotated[
        str | None,
        option(
            "Rule by which ranks wait before they prefill: sglang, trtllm or vllm[,key=value…]."
        ),
    ] = None,
    staleness: Annotated[float, option("Seconds between two looks at the ranks.")] = 0.0,
    delivery_time: Annotated[
        float, option("Seconds that a request is on its way to its rank.")
    ] = 0.0,
    delivery_jitter: Annotated[
        float, option("Most seconds that chance adds to --delivery-time, uniformly.")
    ] = 0.0,
    binding: Annotated[
        str | None, option("pooled or immediate; else pooled if saturated, or as each policy does.")
    ] = None,
    start: Annotated[
        str | None, option("stationary or empty; else stationary if saturated.")
    ] = None,
    measured: Annotated[
        list[Path] | None,
        option("Folder of `load --out` to show beside the policy of its label; may be repeated."),
    ] = None,
    out: Annotated[Path | None, option("Folder for result.json and report.html.")] = None,
    as_json: Annotated[bool, option("Print JSON and nothing else.", "--json")] = False,
) -> None:
    """Compare what the ranks lose at the barrier under routing policies, on a trace or preset."""
    from balanceroute.report.experiment import Experiment
    from balanceroute.report.measured.folder import read_folder
    from balanceroute.sim.config import SimConfig, StepTime

    config = SimConfig(
        step_time=StepTime.parse(step_time, num_slots=slots),
        num_ranks=ranks,
        num_slots=slots,
        num_groups=groups,
        kv_tokens=kv_tokens,
        rank_speeds=_parse_speeds(rank_speeds),
        has_barrier=barrier,
        prefill_budget_tokens=prefill_budget,
        prefill_s_per_token=prefill_time,
        prefill_shared=prefill_shared,
        mixed_step_s=mixed_step_time,
        prefix_cache=prefix_cache,
        prefill_gate=prefill_gate,
        arrivals=arrivals,  # type: ignore[arg-type]  # SimConfig checks the choices
        pool_size=pool,
        binding=binding,  # type: ignore[arg-type]
        start=start,  # type: ignore[arg-type]
        warmup_steps=warmup_steps,
        staleness_s=staleness,
        delivery_s=delivery_time,
        delivery_jitter_s=delivery_jitter,
    )
    experiment = Experiment(
        source=source,
        config=config,
        policies=tuple(policy or DEFAULT_POLICIES),
        format_name=trace_format,
        num_requests=requests,
        rate_scale=rate_scale,
        rate_per_s=rate,
        seed=seed,
        num_repeats=repeats,
        measured=tuple(read_folder(path) for path in measured or ()),
    )
    with progress_bar() as show:
        result, digests = experiment.run(show)
    measured_digests = [each.digest for each in experiment.measured]
    publish(result, digests, measured_digests, out=out, as_json=as_json)


def publish(
    result: SimulationResult,
    digests: Sequence[RunDigest],
    measured: Sequence[RunDigest],
    *,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write the result to `out`, if anywhere, and print it."""
    from balanceroute.cli.output import print_bytes, print_rich
    from balanceroute.files import write_atomically
    from balanceroute.report import judge, render_table, to_json
    from balanceroute.report.measured.rows import measured_notes

    if out is not None:
        from balanceroute.report.html import write_report

        command = shlex.join(["balanceroute", *sys.argv[1:]])
        page = out / "report.html"
        write_report(result, digests, page, measured=measured, command=command)
        write_atomically(out / "result.json", to_json(result))
    if as_json:
        print_bytes(to_json(result))
        return
    notes = [f"note: {note}" for note in (*result.workload.notes, *measured_notes(result))]
    written = [] if out is None else [f"\nreport: {out / 'report.html'}"]
    print_rich(*notes, render_table(result), "", judge(result).text, *written)


def _parse_speeds(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--rank-speeds must be numbers like 1,1,0.8, got {text!r}") from None
