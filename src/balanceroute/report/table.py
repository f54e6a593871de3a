"""The comparison as a table of 80 columns for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from balanceroute.metrics import PolicyFigures
from balanceroute.report.columns import COLUMNS, Cell, Column, cells, compare_result
from balanceroute.report.measured.rows import (
    RATIO,
    full_name,
    measured_cells,
    measured_of,
    short_name,
)
from balanceroute.report.result import MeasuredResult, SimulationResult
from balanceroute.report.settings import describe_group

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_BY_FIGURE = {column.figure: column for column in COLUMNS}

_MAX_DIGITS = 4

# Shorter than on the page, so that 80 columns hold a group of 144 ranks.
_SHORTER: tuple[Column, ...] = (
    replace(_BY_FIGURE["efficiency"], heading="η", unit=""),
    replace(_BY_FIGURE["idle_ratio"], heading="idle", decimals=3),
    replace(
        _BY_FIGURE["mean_imbalance_tokens"],
        heading="imbal.",
        unit="k tok",
        scale=1e-3,
        decimals=1,
    ),
    replace(_BY_FIGURE["throughput_tok_per_s"], heading="tok/s", unit=""),
    replace(_BY_FIGURE["tpot_s.p50"], heading="TPOT p50", decimals=1),
    replace(_BY_FIGURE["tpot_s.p99"], heading="TPOT p99", decimals=1),
    replace(_BY_FIGURE["ttft_s.p99"], heading="TTFT p99", decimals=2),
    replace(_BY_FIGURE["longest_wait_ratio"], heading="wait max"),
)
_COLUMNS = (
    replace(_SHORTER[0], max_digits=5),
    *(replace(column, max_digits=_MAX_DIGITS) for column in _SHORTER[1:]),
)


def render_table(result: SimulationResult) -> Table:
    """Lay out the policies of a result, the best of each column bold and starred.

    Parameters
    ----------
    result : SimulationResult
        Runs of one comparison.

    Returns
    -------
    rich.table.Table
        Fits a terminal of 80 columns.
    """
    from rich import box  # 0.1 s that --help must not pay
    from rich.table import Table

    policies = compare_result(result, _COLUMNS)
    table = Table(
        title=f"{result.workload.name}\n{describe_group(result.group)}",
        caption=_caption(policies, has_measured=bool(result.measured)),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,  # the box itself parts columns by a space, and the star by another
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("policy", overflow="fold", min_width=10)
    for column in _COLUMNS:
        heading = column.heading.replace(" ", "\n")
        table.add_column(f"{heading}\n{column.unit}".rstrip(), justify="right", no_wrap=True)
    by_policy = zip(*(cells(column, policies) for column in _COLUMNS), strict=True)
    for policy, row in zip(policies, by_policy, strict=True):
        table.add_row(policy.policy.replace(",", ",\n"), *(_text(cell) for cell in row))
        for each in measured_of(result, policy.policy):
            _add_measured(table, f"  {short_name(result, each)}", each)
    for each in measured_of(result, None):
        _add_measured(table, full_name(result, each).replace(", ", ",\n  "), each)
    return table


def _add_measured(table: Table, name: str, measured: MeasuredResult) -> None:
    """Add a row of figures, and under it one of ratios if there is something to divide by."""
    rows = measured_cells(_COLUMNS, measured)
    table.add_row(name, *(f"{cell.value} " for cell in rows))
    if measured.simulated_policy is not None:
        table.add_row(f"  {RATIO}", *(f"{cell.ratio} " for cell in rows), style="italic")


def _text(cell: Cell) -> Text:
    """Write a cell, with a place for the star in every row so that digits stay aligned."""
    from rich.text import Text

    mark = "*" if cell.is_best else " "
    return Text(cell.value + mark, style="bold" if cell.is_best else "")


def _caption(policies: Sequence[PolicyFigures], *, has_measured: bool) -> str:
    """Say what the star means, and how far the repeats lie apart."""
    best = "* best simulated" if has_measured else "* best"
    repeats = max(policy.num_runs for policy in policies)
    if repeats == 1:
        return f"{best} · one run each (--repeats 3 shows the spread)"
    stds = [policy.spreads["efficiency"].std or 0.0 for policy in policies]
    return f"{best} · means of {repeats} repeats · η varies by up to ±{max(stds):.4f} (std)"
