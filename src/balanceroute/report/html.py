"""The result as one self-contained web page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from balanceroute.files import write_atomically
from balanceroute.metrics import PolicyFigures, compare
from balanceroute.report.columns import COLUMNS, Column, cells, compare_result
from balanceroute.report.digest import RunDigest, digest
from balanceroute.report.extras import render_page
from balanceroute.report.figures import (
    MAX_RANK_LINES,
    Figure,
    distribution,
    envelopes,
    rank_loads,
    time_shares,
)
from balanceroute.report.result import SimulationResult
from balanceroute.report.settings import count_ranks, describe_group, list_settings
from balanceroute.report.verdict import judge
from balanceroute.types import RunRecords


def write_report(
    result: SimulationResult,
    runs: Sequence[RunRecords | RunDigest],
    path: Path,
    *,
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
    digests = [run if isinstance(run, RunDigest) else digest(run) for run in _first_of_each(runs)]
    write_atomically(path, build_page(result, digests, command=command).encode())


def build_page(
    result: SimulationResult, digests: Sequence[RunDigest], *, command: str | None = None
) -> str:
    """Return the page; the same result and digests give the same text."""
    policies = compare_result(result, COLUMNS)
    sections = _sections(result, digests)
    return render_page(
        "report.html.jinja",
        {
            "title": f"{result.workload.name} on {count_ranks(result.group)}",
            "subtitle": describe_group(result.group),
            "caveat": "A simulation: no engine was measured.",
            "has_barrier": result.group.barrier,
            "verdict": judge(result),
            "columns": COLUMNS,
            "rows": _rows(COLUMNS, policies),
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


def _first_of_each(
    runs: Sequence[RunRecords | RunDigest],
) -> list[RunRecords | RunDigest]:
    """Return the first run of each policy, in order."""
    first: dict[str, RunRecords | RunDigest] = {}
    for run in runs:
        first.setdefault(run.policy, run)
    return list(first.values())


def _sections(result: SimulationResult, digests: Sequence[RunDigest]) -> dict[str, list[Figure]]:
    """Return the drawings of each section of the page."""
    names = ("constant_ratio", "efficiency")
    shares = compare(((run.policy, run.metrics) for run in result.runs), names)
    drawn = [run for run in digests if run.time_s.size]
    largest = max((float(run.load_tokens.max()) for run in drawn), default=0.0)
    return {
        "time": [time_shares(shares)] if result.group.barrier else [],
        "loads": [rank_loads(i, run, max_tokens=largest) for i, run in enumerate(drawn)],
        "envelopes": [envelopes(drawn)] if drawn and result.group.ranks > 1 else [],
        "latencies": [
            distribution("tpot", "TPOT", "ms", [(run.policy, run.tpot) for run in digests]),
            distribution("ttft", "TTFT", "s", [(run.policy, run.ttft) for run in digests]),
            distribution("wait", "wait", "s", [(run.policy, run.wait) for run in digests]),
        ],
    }


def _rows(columns: Sequence[Column], policies: Sequence[PolicyFigures]) -> list[dict[str, object]]:
    """Return the rows of the main table."""
    by_policy = zip(*(cells(column, policies) for column in columns), strict=True)
    return [
        {"policy": policy.policy, "cells": row}
        for policy, row in zip(policies, by_policy, strict=True)
    ]


def _all_figures(result: SimulationResult) -> list[tuple[str, list[str]]]:
    """Return every figure by its name in the JSON document, one text per policy."""
    names = list(_paths(msgspec.to_builtins(result.runs[0].metrics)))
    policies = compare(((run.policy, run.metrics) for run in result.runs), names)
    return [(name, [_exact(policy, name) for policy in policies]) for name in names]


def _exact(policy: PolicyFigures, name: str) -> str:
    """Write a figure to six digits, with its spread to two."""
    spread = policy.spreads[name]
    if spread.mean is None:
        return "–"
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
