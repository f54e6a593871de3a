"""The result as one self-contained web page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from balanceroute.files import write_atomically
from balanceroute.metrics import PolicyFigures, compare
from balanceroute.report.columns import COLUMNS, MISSING, Column, cells, compare_result
from balanceroute.report.digest import RunDigest, digest
from balanceroute.report.drawings import draw_sections
from balanceroute.report.extras import render_page
from balanceroute.report.figures import MAX_RANK_LINES
from balanceroute.report.measured.rows import RATIO, full_name, measured_cells, measured_of
from balanceroute.report.measured.table import (
    describe_endpoint,
    describe_requests,
    describe_window,
)
from balanceroute.report.measurement import figure
from balanceroute.report.result import MeasuredResult, SimulationResult
from balanceroute.report.settings import count_ranks, describe_group, list_settings
from balanceroute.report.verdict import judge
from balanceroute.types import RunRecords


def write_report(
    result: SimulationResult,
    runs: Sequence[RunRecords | RunDigest],
    path: Path,
    *,
    measured: Sequence[RunDigest] = (),
    command: str | None = None,
) -> None:
    """Write the comparison as one HTML file that needs nothing from elsewhere.

    Parameters
    ----------
    result : SimulationResult
        The figures.
    runs : sequence of RunRecords or RunDigest
        What the drawings show; of each policy the first repeat is drawn. A caller that cannot keep
        the records of all runs keeps their `digest` instead.
    measured : sequence of RunDigest
        What they show of each of the result's measured runs, if there are any.
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
    first: dict[str, RunRecords | RunDigest] = {}
    for run in runs:
        first.setdefault(run.policy, run)
    digests = [run if isinstance(run, RunDigest) else digest(run) for run in first.values()]
    page = build_page(result, digests, measured=measured, command=command)
    write_atomically(path, page.encode())


def build_page(
    result: SimulationResult,
    digests: Sequence[RunDigest],
    *,
    measured: Sequence[RunDigest] = (),
    command: str | None = None,
) -> str:
    """Return the page; the same result and digests give the same text."""
    policies = compare_result(result, COLUMNS)
    sections = draw_sections(result, digests, measured)
    return render_page(
        "report.html.jinja",
        {
            "title": f"{result.workload.name} on {count_ranks(result.group)}",
            "subtitle": describe_group(result.group),
            "caveat": _caveat(result),
            "has_barrier": result.group.barrier,
            "verdict": judge(result),
            "columns": COLUMNS,
            "rows": _rows(result, COLUMNS, policies),
            "measured": [_describe_measured(result, each) for each in result.measured],
            "ratio": RATIO,
            "baseline": policies[0].policy,
            "draws_bands": result.group.ranks > MAX_RANK_LINES,
            "num_repeats": max(policy.num_runs for policy in policies),
            "sections": sections,
            "all_figures": _all_figures(result),
            "settings": list_settings(result),
            "command": command,
            "schema": result.schema,
        },
        {
            figure.key: {"data": figure.traces, "layout": figure.layout}
            for section in sections.values()
            for figure in section
        },
    )


def _caveat(result: SimulationResult) -> str:
    if not result.measured:
        return "A simulation: no engine was measured."
    return (
        "A simulation, and beside it what was measured of servers; the tables say which is which."
    )


def _rows(
    result: SimulationResult, columns: Sequence[Column], policies: Sequence[PolicyFigures]
) -> list[dict[str, object]]:
    """Return the rows of the main table: each policy, and beneath it what was measured of it."""
    by_policy = zip(*(cells(column, policies) for column in columns), strict=True)
    rows: list[dict[str, object]] = []
    for policy, row in zip(policies, by_policy, strict=True):
        rows.append({"name": policy.policy, "cells": row, "is_measured": False})
        rows += _measured_rows(result, columns, policy.policy)
    return rows + _measured_rows(result, columns, None)


def _measured_rows(
    result: SimulationResult, columns: Sequence[Column], policy: str | None
) -> list[dict[str, object]]:
    return [
        {
            "name": full_name(result, each),
            "cells": measured_cells(columns, each),
            "is_measured": True,
            "has_ratio": each.simulated_policy is not None,
        }
        for each in measured_of(result, policy)
    ]


def _describe_measured(result: SimulationResult, measured: MeasuredResult) -> dict[str, object]:
    """Return what the page says of a measured run besides its figures."""
    return {
        "name": full_name(result, measured),
        "lines": [
            describe_endpoint(measured.endpoint),
            describe_window(measured.run),
            *describe_requests(measured.run),
        ],
        "notes": [*measured.notes, *measured.run.notes],
        "folder": measured.folder,
    }


def _all_figures(result: SimulationResult) -> dict[str, object]:
    """Return every figure by its name in the JSON document, one text per run or policy."""
    names = _paths(msgspec.to_builtins(result.runs[0].metrics))
    policies = compare(((run.policy, run.metrics) for run in result.runs), names)
    rows = {name: [_exact(policy, name) for policy in policies] for name in names}
    for each in result.measured:
        extra = _paths(msgspec.to_builtins(each.run.metrics))
        known = {name.split(".")[0] for name in names}
        for name in (it for it in extra if it.split(".")[0] not in known):
            rows.setdefault(name, [MISSING] * len(policies))
    for each in result.measured:
        for name, row in rows.items():
            value = figure(each.run.metrics, name)
            row.append(MISSING if value is None else f"{value:.6g}")
    heads = [policy.policy for policy in policies]
    heads += [full_name(result, each) for each in result.measured]
    return {"heads": heads, "rows": list(rows.items())}


def _exact(policy: PolicyFigures, name: str) -> str:
    """Write a figure to six digits, with its spread to two."""
    spread = policy.spreads[name]
    if spread.mean is None:
        return MISSING
    return f"{spread.mean:.6g}" + ("" if spread.std is None else f" ± {spread.std:.2g}")


def _paths(document: Mapping[str, object], prefix: str = "") -> list[str]:
    """Return the paths of all leaves of a nested mapping."""
    paths = []
    for name, value in document.items():
        if isinstance(value, Mapping):
            paths += _paths(value, f"{prefix}{name}.")
        else:
            paths.append(prefix + name)
    return paths
