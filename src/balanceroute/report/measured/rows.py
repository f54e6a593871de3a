"""Measured runs as rows of a comparison's tables: their names, their figures, their ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from balanceroute.report.columns import MISSING, Column
from balanceroute.report.measurement import figure
from balanceroute.report.result import MeasuredResult, SimulationResult

RATIO = "÷ simulated"
_RATIO_COLUMN = Column(
    figure="", heading="", unit="", better=None, definition="", decimals=3, max_digits=4
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCell:
    """One figure of a measured run, ready to print; a dash for what cannot be told."""

    value: str
    ratio: str


def measured_of(result: SimulationResult, policy: str | None) -> list[MeasuredResult]:
    """Return the runs that stand beside a policy; None: beside no policy."""
    return [each for each in result.measured if each.simulated_policy == policy]


def short_name(result: SimulationResult, measured: MeasuredResult) -> str:
    """Return what a run is called beneath its policy: numbered if there are several."""
    same = [each for each in result.measured if each.run.policy == measured.run.policy]
    if len(same) == 1:
        return "measured"
    return f"measured {1 + next(i for i, each in enumerate(same) if each is measured)}"


def full_name(result: SimulationResult, measured: MeasuredResult) -> str:
    """Return what a run is called where its policy is not beside it."""
    return f"{measured.run.policy.removeprefix('http://')}, {short_name(result, measured)}"


def measured_notes(result: SimulationResult) -> list[str]:
    """Return what a reader of the measured rows should know, run by run."""
    return [
        f"{full_name(result, each)}: {note}"
        for each in result.measured
        for note in (*each.notes, *each.run.notes)
    ]


def measured_cells(columns: Sequence[Column], measured: MeasuredResult) -> list[MeasuredCell]:
    """Write the figures of some columns, and how many times the simulated ones they are."""
    return [
        MeasuredCell(
            value=column.show(figure(measured.run.metrics, column.figure)),
            ratio=show_ratio(measured.ratios.get(column.figure)),
        )
        for column in columns
    ]


def show_ratio(ratio: float | None) -> str:
    """Write a ratio to four digits.

    Examples
    --------
    >>> show_ratio(0.98764), show_ratio(12.3456), show_ratio(None)
    ('0.988', '12.35', '–')
    """
    return MISSING if ratio is None else _RATIO_COLUMN.show(ratio)
