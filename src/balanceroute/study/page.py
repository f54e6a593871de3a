"""The plots of a study on one self-contained web page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balanceroute.files import write_atomically
from balanceroute.report.extras import render_page
from balanceroute.study.plan import Study
from balanceroute.study.table import Row

#: Figures that are drawn: name, heading, and whether their axis is logarithmic.
DRAWN = (
    ("efficiency", "Efficiency η", False),
    ("mean_imbalance_tokens", "Mean imbalance, tokens", True),
    ("longest_wait_ratio", "Longest wait, mean waits", True),
)
HEIGHT_PX = 320


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One drawing, as the page's macros take it."""

    key: str
    title: str
    summary: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]


def write_page(study: Study, rows: Sequence[Row], path: Path, *, command: str) -> None:
    """Write plots of every axis and the table as one HTML file that loads nothing.

    Raises
    ------
    MissingExtraError
        If Jinja2 or Plotly is not installed.
    """
    plots = [_plot(axis.name, rows, *drawn) for axis in study.axes for drawn in DRAWN]
    plots = [plot for plot in plots if plot.traces]
    page = render_page(
        "study.html.jinja",
        {
            "title": f"Sensitivity on {Path(study.source).name}",
            "subtitle": (
                f"G = {study.base.ranks}, B = {study.base.slots}, {study.num_repeats} repeats, "
                f"step time {study.step_time}, unless an axis says otherwise"
            ),
            "caveat": "Simulations: no engine was measured.",
            "schema": "balanceroute.study.v1",
            "figures": plots,
            "command": command,
        },
        {plot.key: {"data": plot.traces, "layout": plot.layout} for plot in plots},
    )
    write_atomically(path, page.encode())


def _plot(axis: str, rows: Sequence[Row], figure: str, heading: str, is_log: bool) -> Plot:
    """Draw a figure over an axis, a line per policy; of a full study, one per place besides."""
    lines: dict[str, list[tuple[str, Row]]] = {}
    for row in rows:
        if axis in row.point.place:
            others = [f"{k}={v}" for k, v in row.point.place.items() if k != axis]
            name = ", ".join((row.point.policy, *others))
            lines.setdefault(name, []).append((row.point.place[axis], row))
    traces = [_trace(name, points, figure) for name, points in lines.items()]
    return Plot(
        key=f"{axis}-{figure}".replace("_", "-"),
        title=f"{heading} over {axis}",
        summary=f"{heading} over {axis}, a line per policy with 95 % intervals",
        traces=traces,
        layout={
            "height": HEIGHT_PX,
            "showlegend": True,
            "xaxis": {"title": {"text": axis}, "type": "category"},
            "yaxis": {"title": {"text": heading}, "type": "log" if is_log else "linear"},
        },
    )


def _trace(name: str, points: list[tuple[str, Row]], figure: str) -> dict[str, Any]:
    intervals = [row.figures[figure] for _, row in points]
    reach = [
        0.0 if each.mean is None or each.high is None else each.high - each.mean
        for each in intervals
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [value for value, _ in points],
        "y": [each.mean for each in intervals],
        "error_y": {"type": "data", "array": reach},
    }
