"""The drawings of a plan, as Plotly takes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from balanceroute.afd.answer import Plan, Point
from balanceroute.report.figures import Figure, Trace, numbers

STAGE_COLOURS = {"attention": "$policy1", "network": "$policy2", "ffn": "$policy3"}
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
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": xs,
            "y": numbers(values),
            "line": {"color": colour, "dash": dash, "width": width},
            "hovertemplate": "r = %{x}: %{y}",
        }
        for name, values, colour, dash, width in lines
    ]
    if plan.simulated:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "simulated",
                "x": [each.r for each in plan.simulated],
                "y": numbers([each.value for each in plan.simulated]),
                "marker": {"color": "$policy4", "symbol": "cross", "size": 9},
                "hovertemplate": "r = %{x}: %{y}",
            }
        )
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"r* = {plan.r_star}",
            "x": [plan.r_star],
            "y": numbers([plan.best.value]),
            "marker": {"color": "$policy0", "symbol": "diamond", "size": 13},
            "hovertemplate": "r* = %{x}: %{y}",
        }
    )
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
    times = {
        "attention": [_stage_ms(point, "attention") for point in points],
        "network": [_stage_ms(point, "network") for point in points],
        "ffn": [_stage_ms(point, "ffn") for point in points],
    }
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": {"ffn": "FFN"}.get(name, name),
            "x": [point.r for point in points],
            "y": numbers(values),
            "line": {"color": STAGE_COLOURS[name], "width": 1.8},
            "hovertemplate": "r = %{x}: %{y} ms",
        }
        for name, values in times.items()
    ]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "cycle",
            "x": [point.r for point in points],
            "y": numbers([point.cycle_s * 1000 for point in points]),
            "line": {"color": "$policy0", "width": 2.4, "dash": "dash"},
            "hovertemplate": "r = %{x}: %{y} ms",
        }
    )
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


def _drawn(plan: Plan) -> Sequence[Point]:
    return plan.curve[: max(8, round(DRAWN_BEYOND * plan.r_star))]


def _values(points: Sequence[Point], cycle: str) -> list[float]:
    """Return throughput with another rule's cycle."""
    return [point.value * point.cycle_s / getattr(point, cycle) for point in points]


def _stage_ms(point: Point, stage: str) -> float:
    return float(getattr(point, f"{stage}_s")) * 1000
