"""Plans, sweeps and runs for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from balanceroute.afd.answer import Choice, Plan
from balanceroute.afd.hours import Schedule
from balanceroute.afd.profile import DeviceProfile, FitQuality
from balanceroute.afd.sweep import SweepPoint, simulated_best
from balanceroute.report.afd.run import RunResult
from balanceroute.report.afd.verdict import judge

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

MOST_WINDOWS = 24


def describe(plan: Plan) -> str:
    """Say what was planned for."""
    routing = "" if plan.policy is None else f", {plan.policy} (leaves {plan.barrier_ratio:.2f})"
    return (
        f"{plan.profile.name}: B = {plan.num_slots}, {plan.num_microbatches} "
        f"microbatch{'' if plan.num_microbatches == 1 else 'es'}{routing}; "
        f"{plan.num_requests:,} requests, θ = {plan.theta_tokens:,.0f} tokens "
        f"({plan.theta_interval[0]:,.0f} to {plan.theta_interval[1]:,.0f}), "
        f"ν = {plan.nu_tokens:,.0f} ({plan.nu_interval[0]:,.0f} to {plan.nu_interval[1]:,.0f})"
    )


def render_plan(plan: Plan) -> tuple[RenderableType, ...]:
    """Lay out a plan."""
    parts: list[RenderableType] = [plan.workload, describe(plan), "", *judge(plan), ""]
    parts += ["Rules of the paper:", _rules(plan), "", "What r* would be for other B:"]
    parts += [_choices(plan.by_slots, "B"), "", "and for more FFN workers per bundle:"]
    parts += [_choices(plan.by_ffn_workers, "f"), "", "What moves it:", _sensitivity(plan)]
    if plan.schedule is not None:
        parts += ["", _windows(plan.schedule)]
    return (*parts, *(f"note: {note}" for note in plan.notes))


def render_sweep(points: Sequence[SweepPoint]) -> tuple[RenderableType, ...]:
    """Lay out a sweep."""
    table = _table("r", "cycle ms", "±", "predicted", "paper", "mean field", "tok/s·device")
    best = simulated_best(points)
    for each in points:
        table.add_row(
            f"{each.r}{' *' if each is best else ''}",
            f"{each.cycle_s * 1000:.3f}",
            f"{each.cycle_error_s * 1000:.3f}",
            _off(each.pipeline_s, each.cycle_s),
            _off(each.gaussian_s, each.cycle_s),
            _off(each.mean_field_s, each.cycle_s),
            f"{each.value:,.1f}",
        )
    return (table, "* most tokens per device; predictions relative to the simulated cycle")


def render_run(result: RunResult) -> tuple[RenderableType, ...]:
    """Lay out one simulated bundle."""
    idle = result.idle
    head = (
        f"{result.workload} on {result.profile}: r = {result.num_workers}, B = {result.num_slots}, "
        f"{result.num_microbatches} microbatches, {result.num_cycles:,} cycles"
    )
    lines = [
        head,
        f"cycle {result.cycle_s * 1000:.3f} ± {result.cycle_error_s * 1000:.3f} ms "
        f"(predicted {result.predicted_cycle_s * 1000:.3f}), TPOT {result.tpot_s * 1000:.2f} ms, "
        f"{result.tokens_per_s:,.0f} tok/s, {result.tokens_per_s_per_device:,.1f} per device",
        f"largest load {result.max_load_tokens:,.0f} tokens (predicted "
        f"{result.predicted_max_load_tokens:,.0f}), mean {result.mean_load_tokens:,.0f}",
        f"attention idle: barrier {idle.attention_barrier_ratio:.1%}, FFN "
        f"{idle.attention_ffn_ratio:.1%}, network {idle.attention_network_ratio:.1%}",
        f"FFN idle: attention {idle.ffn_attention_ratio:.1%}, its barrier "
        f"{idle.ffn_barrier_ratio:.1%}, network {idle.ffn_network_ratio:.1%}",
    ]
    for place, metrics in enumerate(result.metrics):
        tpot, wait = metrics.tpot_s, metrics.longest_wait_ratio
        lines.append(
            f"microbatch {place} under {result.policy}: η {metrics.efficiency:.4f}, TPOT p50/p99 "
            f"{_ms(tpot.p50)}/{_ms(tpot.p99)}, longest wait {wait or 0:.1f} × mean"
        )
    return tuple(lines)


def profile_table(profiles: Sequence[DeviceProfile]) -> Table:
    """Lay out profiles: costs in µs, and how far the fits are off."""
    table = _table(
        "profile and stage", "µs/token", "µs/request", "constant", "error p50/max", left=1
    )
    for each in profiles:
        attention, ffn, network = each.attention, each.ffn, each.network
        table.add_row(f"[bold]{each.name}[/bold]")
        table.add_row(
            f"  attention, {_devices(attention.num_devices)}",
            f"{attention.s_per_token * 1e6:.3g}",
            f"{attention.s_per_request * 1e6:.3g}",
            f"{attention.constant_s * 1e3:.3g} ms",
            _error(attention.fit),
        )
        for name, cost in ((f"ffn, {_devices(ffn.num_devices)}", ffn), ("network", network)):
            table.add_row(
                f"  {name}", "", f"{cost.s_per_request * 1e6:.3g}",
                f"{cost.constant_s * 1e3:.3g} ms", _error(cost.fit),
            )  # fmt: skip
    return table


def _devices(number: int) -> str:
    return f"{number} device{'' if number == 1 else 's'}"


def _rules(plan: Plan) -> Table:
    rules = plan.rules
    table = _table("rule", "r*", left=1)
    closed = (rules.closed_attention, rules.closed_network, rules.closed_peak)
    terms = ", ".join(
        f"{name} {value:.2f}" for name, value in zip(("r_A", "r_C", "r_peak"), closed, strict=True)
    )
    table.add_row(f"version 1, largest of {terms}", f"{max(closed):.2f}")
    table.add_row("mean field", f"{rules.mean_field:.2f}")
    table.add_row("barrier-aware, normal loads", f"{rules.gaussian}")
    table.add_row("this plan: loads as they are, m in flight", f"{plan.r_star_real:.2f}")
    return table


def _choices(choices: Sequence[Choice], axis: str) -> Table:
    table = _table(axis, "r*", "TPOT ms", "value", "fits memory")
    for each in choices:
        table.add_row(
            f"{each.num_slots if axis == 'B' else each.num_ffn_workers}",
            f"{each.r}",
            f"{each.tpot_s * 1000:.1f}",
            f"{each.value:,.1f}",
            "yes" if each.fits_memory else "no",
        )
    return table


def _sensitivity(plan: Plan) -> Table:
    table = _table("error of", "r* from", "to", left=1)
    for each in plan.sensitivity:
        table.add_row(each.source, f"{each.low:.2f}", f"{each.high:.2f}")
    return table


def _windows(schedule: Schedule) -> Table:
    table = _table("from s", "requests", "θ", "tok/s", "best r", "r", "bundles", "cost")
    for each in schedule.windows[:MOST_WINDOWS]:
        table.add_row(
            f"{each.start_s:,.0f}", f"{each.num_requests:,}", f"{each.theta_tokens:,.0f}",
            f"{each.tokens_per_s:,.0f}", f"{each.r_best}", f"{each.r}",
            f"{each.num_bundles:.2f}", f"{each.cost:,.1f}",
        )  # fmt: skip
    if len(schedule.windows) > MOST_WINDOWS:
        table.caption = f"first {MOST_WINDOWS} of {len(schedule.windows)}; --json has all"
    return table


def _table(*headings: str, left: int = 0) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < left else "right")
    return table


def _off(predicted: float, simulated: float) -> str:
    return f"{(predicted / simulated - 1) * 100:+.2f} %"


def _error(fit: FitQuality | None) -> str:
    if fit is None:
        return "given"
    return f"{fit.median_error_ratio * 100:.1f} / {fit.max_error_ratio * 100:.0f} %"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.2f} ms"
