"""A run against a server as a table like a simulation's."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

from balanceroute.report.columns import COLUMNS, Column
from balanceroute.report.measurement import EndpointInfo, MeasuredRun, MeasurementResult

if TYPE_CHECKING:
    from rich.table import Table

_BY_FIGURE = {column.figure: column for column in COLUMNS}
_TPOT, _TTFT = _BY_FIGURE["tpot_s.p99"], _BY_FIGURE["ttft_s.p99"]
_MAX_DIGITS = 4
_MAX_NAME = 24

_ALL: tuple[Column, ...] = (
    replace(_BY_FIGURE["efficiency"], heading="η", unit="", max_digits=5),
    replace(_BY_FIGURE["idle_ratio"], heading="idle", decimals=3),
    replace(
        _BY_FIGURE["mean_imbalance_tokens"], heading="imbal.", unit="k tok", scale=1e-3, decimals=1
    ),
    replace(_BY_FIGURE["throughput_tok_per_s"], heading="tok/s", unit=""),
    replace(_TPOT, figure="tpot_s.mean", heading="TPOT mean", decimals=1),
    replace(_TPOT, heading="TPOT p99", decimals=1),
    replace(_TPOT, figure="itl_s.p50", heading="ITL p50", decimals=1),
    replace(_TPOT, figure="itl_s.p99", heading="ITL p99", decimals=1),
    replace(_TTFT, figure="ttft_s.p50", heading="TTFT p50"),
    replace(_TTFT, heading="TTFT p99"),
    replace(_BY_FIGURE["longest_wait_ratio"], heading="wait max"),
    replace(_TTFT, figure="longest_ttft_s", heading="TTFT max"),
)


def render_table(result: MeasurementResult) -> Table:
    """Lay out the figures that there are.

    Parameters
    ----------
    result : MeasurementResult
        At least one run.

    Returns
    -------
    rich.table.Table
        Fits a terminal of 80 columns.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"{result.workload.name}\n{describe_endpoint(result.endpoint)}",
        caption=describe_window(result.runs[0]),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        title_justify="left",
        caption_justify="left",
    )
    columns = _shown(result)
    table.add_column("measured", overflow="fold", max_width=_MAX_NAME if len(columns) < 10 else 12)
    for column in columns:
        heading = column.heading.replace(" ", "\n")
        table.add_column(f"{heading}\n{column.unit}".rstrip(), justify="right", no_wrap=True)
    for run in result.runs:
        name = run.policy.removeprefix("http://")
        table.add_row(name, *(column.show(_value(run, column)) for column in columns))
    return table


def describe_endpoint(endpoint: EndpointInfo) -> str:
    """Return in one line what was measured."""
    how = f"{endpoint.arrivals} arrivals, rate × {endpoint.rate_scale:g}"
    if endpoint.concurrency is not None:
        how = f"{endpoint.concurrency:,} outstanding"
    ranks = "" if endpoint.ranks is None else f", {endpoint.ranks} ranks"
    return f"{endpoint.url} ({endpoint.model}{ranks}), {how}"


def describe_window(run: MeasuredRun) -> str:
    """Return in one line what the figures cover."""
    begin_s, end_s = run.window_s
    figures = run.metrics
    unit = "s" if run.speedup == 1.0 else "emulated s"
    return (
        f"{figures.num_requests:,} requests and {figures.num_tokens:,} output tokens from "
        f"{begin_s:,.1f} to {end_s:,.1f} {unit}"
    )


def describe_requests(run: MeasuredRun) -> list[str]:
    """Return what became of the requests, a line each for what went wrong."""
    counts = run.requests
    lines = [f"{counts.answered:,} of {counts.sent:,} requests answered."]
    if run.is_interrupted:
        lines.append(
            f"Interrupted after {run.metrics.wall_s:,.1f} s: {counts.unfinished:,} requests were "
            "cut off, and the figures are of what came before."
        )
    if counts.failed:
        causes = ", ".join(f"{it.num_requests:,} {it.cause}" for it in run.failures)
        lines.append(f"{counts.failed:,} of {counts.sent:,} requests failed: {causes}.")
        lines += [f"  {it.cause}: {it.example}" for it in run.failures if it.example]
    return lines


def _shown(result: MeasurementResult) -> list[Column]:
    """Return the columns that have a figure, fitted to what a line holds."""
    shown = [
        column for column in _ALL if any(_value(run, column) is not None for run in result.runs)
    ]
    if any(column.figure == "longest_wait_ratio" for column in shown):
        shown = [column for column in shown if column.figure not in ("longest_ttft_s", "itl_s.p50")]
    return [replace(column, max_digits=min(column.max_digits, 5)) for column in shown]


def _value(run: MeasuredRun, column: Column) -> float | None:
    value: float | None = attrgetter(column.figure)(run.metrics)
    return value
