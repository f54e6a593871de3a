"""`balanceroute fleet`: what choosing the group costs, where there are many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from balanceroute.cli.options import PrefillBudget, PrefillTime, StepTimeText
from balanceroute.cli.progress import progress_bar
from balanceroute.cli.simulate import option
from balanceroute.errors import ConfigError

if TYPE_CHECKING:
    from balanceroute.fleet.figures import FleetResult

DEFAULT_FRONTS = ("round_robin", "least_requests", "least_tokens", "power_of_two", "br_fleet")


def fleet(
    source: Annotated[str, typer.Argument(help="A trace file, or a preset of `trace list`.")],
    trace_format: Annotated[
        str | None, option("Format of the file; else detected.", "--format")
    ] = None,
    groups: Annotated[int, option("Groups, each with a barrier of its own.")] = 4,
    ranks: Annotated[str, option("Ranks of a group, as 16, or as 16-64 in turn.")] = "16",
    slots: Annotated[int, option("Running requests per rank, B.")] = 72,
    kv_tokens: Annotated[int | None, option("KV tokens per rank; else unlimited.")] = None,
    front: Annotated[
        list[str] | None,
        option("Who chooses the group, as NAME[,key=value…]; may be repeated, else five."),
    ] = None,
    policy: Annotated[str, option("Who chooses the rank within each group.")] = "br_auto",
    arrivals: Annotated[str, option("saturated, trace or poisson.")] = "saturated",
    rate: Annotated[float | None, option("Poisson: requests/s; else the source's mean.")] = None,
    rate_scale: Annotated[float, option("Factor on the arrival rate.")] = 1.0,
    pool: Annotated[
        int | None, option("Saturated: requests that wait for each group; else 4 per rank.")
    ] = None,
    requests: Annotated[
        int | None, option("Requests; more than the file has are drawn with replacement.")
    ] = None,
    seed: Annotated[int, option("Seed of all chance.")] = 0,
    report_interval: Annotated[
        float, option("Seconds between two looks of the front at the groups.")
    ] = 0.1,
    warmup_time: Annotated[
        float | None,
        option("Seconds left out; else until each slot has had a request if saturated."),
    ] = None,
    step_time: StepTimeText = "paper",
    prefill_budget: PrefillBudget = None,
    prefill_time: PrefillTime = 0.0,
    cache_tokens: Annotated[
        int, option("Prompt tokens per rank that a group keeps cached, if the trace names blocks.")
    ] = 0,
    start: Annotated[
        str | None, option("stationary or empty; else stationary if saturated.")
    ] = None,
    processes: Annotated[int, option("Processes that simulate groups.")] = 1,
    as_json: Annotated[bool, option("Print JSON and nothing else.", "--json")] = False,
) -> None:
    """Simulate many groups behind a front that chooses the group of each request."""
    from balanceroute.fleet.config import FleetConfig
    from balanceroute.fleet.experiment import FleetExperiment
    from balanceroute.sim.config import SimConfig, StepTime

    if cache_tokens > 0 and prefill_budget is None:
        raise ConfigError("--cache-tokens needs --prefill-budget (tokens per step, as 2048)")
    least_ranks, most_ranks = _parse_range(ranks)
    group = SimConfig(
        step_time=StepTime.parse(step_time, num_slots=slots),
        num_slots=slots,
        kv_tokens=kv_tokens,
        prefill_budget_tokens=prefill_budget,
        prefill_s_per_token=prefill_time,
        prefix_cache=cache_tokens > 0,
        arrivals="trace",
        start=start,  # type: ignore[arg-type]  # SimConfig checks the choices
    )
    config = FleetConfig(
        group=group,
        num_groups=groups,
        least_ranks=least_ranks,
        most_ranks=most_ranks,
        policy=policy,
        arrivals=arrivals,  # type: ignore[arg-type]
        pool_size=pool,
        report_s=report_interval,
        warmup_s=warmup_time,
        cache_tokens=cache_tokens,
    )
    experiment = FleetExperiment(
        source=source,
        config=config,
        fronts=tuple(front or DEFAULT_FRONTS),
        format_name=trace_format,
        num_requests=requests,
        rate_scale=rate_scale,
        rate_per_s=rate,
        seed=seed,
        num_processes=processes,
    )
    with progress_bar() as show:
        result = experiment.run(show)
    _publish(result, as_json=as_json)


def _parse_range(text: str) -> tuple[int, int]:
    least, dash, most = text.partition("-")
    try:
        return int(least), int(most if dash else least)
    except ValueError:
        raise ConfigError(f"--ranks must be a number, or a range as 16-64, got {text!r}") from None


def _publish(result: FleetResult, *, as_json: bool) -> None:
    """Print the figures of all fronts."""
    import msgspec

    from balanceroute.cli.output import print_bytes, print_rich

    if as_json:
        print_bytes(msgspec.json.format(msgspec.json.encode(result)))
        return
    from rich import box
    from rich.table import Table

    title = (
        f"{result.workload}: {result.num_requests:,} requests, {result.arrivals}\n{result.groups} "
        f"groups, {result.ranks:,} ranks × {result.slots} slots, {result.policy} in each"
    )
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0
    )
    table.add_column("front", overflow="fold")
    for heading in ("tok/s", "η", "busy", "TTFT\np50 s", "TTFT\np99 s", "hits", "uneven", "µs p99"):
        table.add_column(heading, justify="right")
    for each in result.runs:
        hits = each.prefix_hit_ratio
        table.add_row(
            each.front,
            f"{each.throughput_tok_per_s:,.0f}",
            f"{each.efficiency:.4f}",
            f"{each.busy_ratio:.3f}",
            _seconds(each.ttft_s.p50),
            _seconds(each.ttft_s.p99),
            "–" if hits is None else f"{hits:.3f}",
            f"{each.group_spread_ratio:.2f}",
            _seconds(each.front_us.p99, digits=0),
        )
    first = result.runs[0]
    took_s = sum(each.wall_s for each in result.runs)
    memory_gib = max(each.memory_bytes for each in result.runs) / 2**30
    rank_us = max((each.rank_us.p99 or 0.0 for each in result.runs), default=0.0)
    window_s = first.window_s[1] - first.window_s[0]
    print_rich(
        table,
        f"\nof {window_s:.1f} s, with {first.num_requests:,} requests that ended under "
        f"{first.front}. Choosing the rank: {rank_us:,.0f} µs p99. Took {took_s:.0f} s and "
        f"{memory_gib:.2f} GiB.",
    )


def _seconds(value: float | None, *, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
