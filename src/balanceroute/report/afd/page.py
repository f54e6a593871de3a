"""A plan as one self-contained web page."""

from __future__ import annotations

from pathlib import Path

from balanceroute.afd.answer import Plan
from balanceroute.files import write_atomically
from balanceroute.report.afd.drawings import draw_stages, draw_throughput, regimes_of
from balanceroute.report.afd.table import describe
from balanceroute.report.afd.verdict import STAGE_NAMES, judge
from balanceroute.report.extras import render_page


def write_page(plan: Plan, path: Path, *, command: str | None = None) -> None:
    """Write a plan as one HTML file that needs nothing from elsewhere.

    Parameters
    ----------
    plan : Plan
        With simulated points if they are to be drawn.
    path : Path
        Where the page goes, whole or not at all.
    command : str or None
        The command line that made the plan, to be printed on the page.

    Raises
    ------
    MissingExtraError
        If Jinja2 or Plotly is not installed.
    OutputError
        If the file cannot be written.
    """
    write_atomically(path, build_page(plan, command=command).encode())


def build_page(plan: Plan, *, command: str | None = None) -> str:
    """Return the page; the same plan gives the same text."""
    figures = {figure.key: figure for figure in (draw_throughput(plan), draw_stages(plan))}
    return render_page(
        "afd.html.jinja",
        {
            "title": f"Attention and FFN workers for {plan.workload}",
            "subtitle": describe(plan),
            "caveat": "Predicted and simulated: no engine was measured.",
            "schema": plan.schema,
            "verdict": judge(plan),
            "plan": plan,
            "regimes": [(STAGE_NAMES[name], low, high) for name, low, high in regimes_of(plan)],
            "fits": [
                (STAGE_NAMES[stage], getattr(plan.profile, stage))
                for stage in ("attention", "ffn", "network")
            ],
            "figures": figures,
            "command": command,
        },
        {key: {"data": figure.traces, "layout": figure.layout} for key, figure in figures.items()},
    )
