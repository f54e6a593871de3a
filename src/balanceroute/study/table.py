"""A study's results as a table: a row for each place and policy, in CSV and Parquet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balanceroute.files import write_atomically
from balanceroute.study.cell import FIGURES, TIMINGS, CellResult
from balanceroute.study.interval import Interval, interval_of
from balanceroute.study.plan import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One place of a study under one policy.

    Attributes
    ----------
    point : Point
        Which.
    figures, timings : dict of str to Interval
        By the names of `FIGURES` and `TIMINGS`.
    """

    point: Point
    figures: dict[str, Interval]
    timings: dict[str, Interval]


def table_of(points: Sequence[Point], results: Mapping[str, CellResult]) -> list[Row]:
    """Gather the rows whose repeats are all there."""
    rows = []
    for point in points:
        repeats = [results[cell.key] for cell in point.cells if cell.key in results]
        if len(repeats) == len(point.cells):
            rows.append(
                Row(
                    point=point,
                    figures={
                        name: interval_of([each.figures[name] for each in repeats])
                        for name in FIGURES
                    },
                    timings={
                        name: interval_of([each.timings[name] for each in repeats])
                        for name in TIMINGS
                    },
                )
            )
    return rows


def columns_of(rows: Sequence[Row], *, with_timings: bool) -> dict[str, list[Any]]:
    """Return the table by column: places, policy, repeats, then three columns a figure."""
    axes = list(dict.fromkeys(name for row in rows for name in row.point.place))
    columns: dict[str, list[Any]] = {
        axis: [row.point.place.get(axis) for row in rows] for axis in axes
    }
    columns["policy"] = [row.point.policy for row in rows]
    columns["repeats"] = [len(row.point.cells) for row in rows]
    for name in TIMINGS if with_timings else FIGURES:
        intervals = [row.timings[name] if with_timings else row.figures[name] for row in rows]
        columns[name] = [interval.mean for interval in intervals]
        columns[f"{name}.low95"] = [interval.low for interval in intervals]
        columns[f"{name}.high95"] = [interval.high for interval in intervals]
    return columns


def write_tables(rows: Sequence[Row], folder: Path) -> None:
    """Write table.csv, table.parquet and timings.csv.

    The first two depend on the study alone: interrupted and resumed, they are the same, byte for
    byte. How long plans took depends on the machine and stands apart.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    for name, with_timings in (("table", False), ("timings", True)):
        table = pa.table(columns_of(rows, with_timings=with_timings))
        text = io.BytesIO()
        csv.write_csv(table, text)
        write_atomically(folder / f"{name}.csv", text.getvalue())
        if not with_timings:
            binary = io.BytesIO()
            pq.write_table(table, binary)
            write_atomically(folder / f"{name}.parquet", binary.getvalue())
