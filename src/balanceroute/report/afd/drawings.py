"""The drawings of a plan, as Plotly takes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from balanceroute.afd.answer import Plan, Point
from balanceroute.report.figures import Figure, Trace, numbers

STAGE_COLOURS = {"attention": "$policy1", "network": "$policy2", "ffn": "$policy3"}
STAGE_LABELS = {"attention": "attention", "network": "network", "ffn": "FFN"}
DRAWN_BEYOND = 3.0  # curves end at so many times r*


def draw_throughput(plan: Plan) -> Figure:
    """Draw throughput per device (or price) over r: rules, simulated bundles, and r*."""
    points = _drawn(plan)
    xs = [point.r for point in points]
    lines = (
        ("this plan", [point.value for point in points], "$policy0", "solid", 2.4),
        ("paper, barrier-aware", _values(points, "gaussian_s"), "$policy1", "dash", 1.4),
        ("paper, mean field", _values(points, "mean_field_s"), "$policy2", "dot", 1.4),
    )
    traces = [_line(name, xs, ys, colour, dash, width) for name, ys, colour, dash, width in lines]
    if plan.simulated:
        simulated_xs = [each.r for each in plan.simulated]
        values = [each.value for each in plan.simulated]
        traces.append(_markers("simulated", simulated_xs, values, "$policy4", "cross"))
    chosen = _markers(
        f"r* = {plan.r_star}", [plan.r_star], [plan.best.value], "$policy0", "diamond"
    )
    traces.append(chosen)
    unit = "device" if plan.attention_price is None else "price per hour"
    layout: Trace = {
        "height": 420,
        "xaxis": {"title": {"text": "attention workers r"}},
        "yaxis": {"title": {"text": f"tokens/s per {unit}"}, "rangemode": "tozero"},
    }
    return Figure(
        key="throughput",
        title="Throughput over r",
        summary=f"Predicted and simulated throughput against r; the largest is at {plan.r_star}.",
        traces=traces,
        layout=layout,
    )


def draw_stages(plan: Plan) -> Figure:
    """Draw what each stage takes over r, and which of them binds."""
    points = _drawn(plan)
    xs = [point.r for point in points]
    traces = [
        _line(STAGE_LABELS[name], xs, [_stage_ms(point, name) for point in points], colour)
        for name, colour in STAGE_COLOURS.items()
    ]
    cycles_ms = [point.cycle_s * 1000 for point in points]
    traces.append(_line("cycle", xs, cycles_ms, "$policy0", "dash", 2.4))
    regimes = regimes_of(plan)
    spoken = ", ".join(f"{name} for r = {low} to {high}" for name, low, high in regimes)
    layout: Trace = {
        "height": 380,
        "xaxis": {"title": {"text": "attention workers r"}},
        "yaxis": {"title": {"text": "ms"}, "rangemode": "tozero"},
    }
    return Figure(
        key="stages",
        title="What binds",
        summary=f"Time of each stage against r. The longest is {spoken}.",
        traces=traces,
        layout=layout,
    )


def regimes_of(plan: Plan) -> list[tuple[str, int, int]]:
    """Return the stretches of r in which one stage takes longest: its name, first and last r."""
    longest = [
        (max(STAGE_COLOURS, key=lambda name: _stage_ms(point, name)), point.r)
        for point in _drawn(plan)
    ]
    stretches = []
    for name, group in groupby(longest, key=lambda each: each[0]):
        places = [r for _, r in group]
        stretches.append((name, places[0], places[-1]))
    return stretches


def _line(
    name: str,
    xs: Sequence[int],
    ys: Sequence[float],
    colour: str,
    dash: str = "solid",
    width: float = 1.8,
) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(xs),
        "y": numbers(ys),
        "line": {"color": colour, "dash": dash, "width": width},
        "hovertemplate": "r = %{x}: %{y}",
    }


def _markers(name: str, xs: Sequence[int], ys: Sequence[float], colour: str, symbol: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(xs),
        "y": numbers(ys),
        "marker": {"color": colour, "symbol": symbol, "size": 10},
        "hovertemplate": "r = %{x}: %{y}",
    }


def _drawn(plan: Plan) -> Sequence[Point]:
    return plan.curve[: max(8, round(DRAWN_BEYOND * plan.r_star))]


def _values(points: Sequence[Point], cycle: str) -> list[float]:
    """Return throughput with another rule's cycle."""
    return [point.value * point.cycle_s / getattr(point, cycle) for point in points]


def _stage_ms(point: Point, stage: str) -> float:
    return float(getattr(point, f"{stage}_s")) * 1000
