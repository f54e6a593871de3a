"""Parquet traces, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balanceroute.errors import TraceError
from balanceroute.types import Workload
from balanceroute.workload.collect import Collector
from balanceroute.workload.faults import shown
from balanceroute.workload.layout import NS_PER_S, Layout, find_layout
from balanceroute.workload.parse import Batch, ParseError, to_batch, with_dates
from balanceroute.workload.rules import find_fault
from balanceroute.workload.text import Progress

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 18


def read_parquet(
    path: Path, *, format_name: str | None, sort: bool, on_progress: Progress | None
) -> Workload:
    """Read a Parquet trace; see `reader.read_trace`. Messages count rows from 1, not lines."""
    import pyarrow as pa

    try:
        return _read(path, format_name=format_name, sort=sort, on_progress=on_progress)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise TraceError(
            f"{path}: damaged or cut off Parquet ({reason}); copy or download the file again"
        ) from error


def _read(
    path: Path, *, format_name: str | None, sort: bool, on_progress: Progress | None
) -> Workload:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        layout = find_layout(file.schema_arrow.names, format_name=format_name, where=str(path))
        collector: Collector | None = None
        for table in _tables(file, layout):
            if collector is None:
                layout = _with_dates(layout, table)
                collector = Collector(path=path, layout=layout, is_sorted_later=sort)
            collector.add(_checked_batch(path, table, layout, collector))
            if on_progress:
                on_progress(collector.num_rows / file.metadata.num_rows)
        if collector is None:
            raise TraceError(f"{path}: no rows; give at least one request")
        if collector.may_have_duplicate_ids():
            _check_ids(path, file, layout)
    return collector.finish()


def _tables(file: Any, layout: Layout) -> Iterator[pa.Table]:
    import pyarrow as pa

    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(layout.columns)):
        if batch.num_rows:
            yield pa.Table.from_batches([batch])


def _with_dates(layout: Layout, table: pa.Table) -> Layout:
    import pyarrow as pa

    if layout.arrival is None:
        return layout
    column = table[layout.arrival]
    if not pa.types.is_timestamp(column.type):
        return with_dates(layout, column[0].as_py())
    first = column[:1].cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())[0].as_py() or 0
    base_ns = first // NS_PER_S * NS_PER_S
    return replace(layout, is_date=True, has_zone=column.type.tz is not None, base_ns=base_ns)


def _checked_batch(path: Path, table: pa.Table, layout: Layout, collector: Collector) -> Batch:
    first_row = collector.num_rows + 1
    try:
        batch = to_batch(table, layout)
    except ParseError as error:
        last_row = collector.num_rows + table.num_rows
        raise TraceError(
            f"{path} rows {first_row} to {last_row}: {error}; store the column as numbers"
        ) from error
    fault = find_fault(
        batch,
        layout,
        last_s=collector.last_s,
        first_s=collector.first_s,
        sort_command=collector.sort_command,
    )
    if fault is not None:
        value = shown(table[fault.column][fault.row].as_py())
        problem = f"{fault.column} is {value}, {fault.problem}; {fault.cure}"
        raise TraceError(f"{path} row {first_row + fault.row}: {problem}")
    return batch


def _check_ids(path: Path, file: Any, layout: Layout) -> None:
    seen: dict[object, int] = {}
    row = 0
    for table in _tables(file, layout):
        for value in table[layout.request_id].to_pylist():
            row += 1
            if value in (None, ""):
                continue
            if value in seen:
                raise TraceError(
                    f"{path} row {row}: {layout.request_id} {shown(value)} was used in row "
                    f"{seen[value]}; take one of the rows out"
                )
            seen[value] = row
