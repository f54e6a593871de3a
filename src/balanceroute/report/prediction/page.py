"""The result of an examination as one self-contained web page."""

from __future__ import annotations

from pathlib import Path

from balanceroute.files import write_atomically
from balanceroute.report.extras import render_page
from balanceroute.report.prediction.drawings import (
    draw_calibration,
    draw_efficiency,
    draw_samples,
)
from balanceroute.report.prediction.result import PredictionResult
from balanceroute.report.prediction.table import (
    bins_of,
    describe,
    figures_of,
    scale,
    tenths,
    uses_of,
)
from balanceroute.report.prediction.verdict import judge
from balanceroute.report.settings import describe_group, list_settings


def write_page(result: PredictionResult, path: Path, *, command: str | None = None) -> None:
    """Write the result as one HTML file that needs nothing from elsewhere.

    Parameters
    ----------
    result : PredictionResult
        The figures.
    path : Path
        Where the page goes, whole or not at all.
    command : str or None
        The command line that made the result, to be printed on the page.

    Raises
    ------
    MissingExtraError
        If Jinja2 or Plotly is not installed.
    OutputError
        If the file cannot be written.
    """
    write_atomically(path, build_page(result, command=command).encode())


def build_page(result: PredictionResult, *, command: str | None = None) -> str:
    """Return the page; the same result gives the same text."""
    figures = {
        figure.key: figure
        for figure in (draw_calibration(result), draw_samples(result), draw_efficiency(result))
    }
    return render_page(
        "prediction.html.jinja",
        {
            "title": f"{result.name_of(result.classifier)} on {result.trace.name}",
            "subtitle": describe(result),
            "caveat": "Simulations: no engine was measured.",
            "schema": result.schema,
            "horizon": result.horizon,
            "verdict": judge(result),
            "scale": scale(result),
            "classifiers": [
                (result.name_of(each.classifier), figures_of(each)) for each in result.classifiers
            ],
            "shown": [result.name_of(each.classifier) for each in result.shown],
            "tenths": tenths(),
            "bins": list(zip(*(bins_of(each) for each in result.shown), strict=True)),
            "group": describe_group(result.simulation.group),
            "num_seeds": len({run.seed for run in result.simulation.runs}),
            "uses": uses_of(result),
            "figures": figures,
            "settings": list_settings(result.simulation),
            "command": command,
        },
        {key: {"data": figure.traces, "layout": figure.layout} for key, figure in figures.items()},
    )
