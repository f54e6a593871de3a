"""Trace files to workloads: detect, stream, check, collect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from balanceroute.errors import TraceError
from balanceroute.types import Workload
from balanceroute.workload.collect import Collector
from balanceroute.workload.faults import count_parseable, shown, unparseable
from balanceroute.workload.ids import check_text_ids
from balanceroute.workload.layout import date_base_ns, find_layout
from balanceroute.workload.parquet import read_parquet
from balanceroute.workload.parse import (
    Batch,
    ParseError,
    TextParser,
    count_rows,
    split_fields,
    with_dates,
)
from balanceroute.workload.rules import find_fault
from balanceroute.workload.text import Block, Progress, is_parquet, read_blocks

HEADER_EXAMPLE = "arrival_s,prompt_tokens,output_tokens"


def read_trace(
    path: str | Path,
    *,
    format_name: str | None = None,
    sort: bool = False,
    on_progress: Progress | None = None,
) -> Workload:
    """Read a trace file: CSV or JSONL (plain, gzip or zstd), or Parquet.

    The format is detected from the content, whatever the file is called. Arrivals are made relative
    to the first request. Rows without prompt or output tokens are left out and counted in `notes`.

    Parameters
    ----------
    path : str or Path
        The file.
    format_name : str or None
        A name of `formats.FORMATS`, where detection by column names would choose another.
    sort : bool
        Put rows in order of arrival (stable) where out of order; without it they are an error.
    on_progress : callable or None
        Called now and then with the part of the file that has been read, in [0, 1].

    Returns
    -------
    Workload
        Named after the file.

    Raises
    ------
    TraceError
        If the file cannot be read whole, or a row breaks a rule: one line that names file, line
        (of the decompressed text, from 1, the header counted) and cure.
    ConfigError
        If `format_name` is unknown.
    """
    path = Path(path)
    if is_parquet(path):
        return read_parquet(path, format_name=format_name, sort=sort, on_progress=on_progress)
    blocks = read_blocks(path, on_progress)
    first = next(blocks, None)
    if first is None:
        raise TraceError(f"{path} is empty; give a file with a header line and at least one row")
    parser, rows = _start(path, first, format_name)
    collector = Collector(path=path, layout=parser.layout, is_sorted_later=sort)
    for block in _chain(rows, blocks):
        collector.add(_read_block(path, block, parser, collector))
    if collector.may_have_duplicate_ids():
        check_text_ids(path, parser)
    return collector.finish()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    number: int
    text: str
    end: int  # offset of the next line in the block


def _start(path: Path, first: Block, format_name: str | None) -> tuple[TextParser, Block]:
    """Return the parser that the first lines call for, and the rows of the first block."""
    lines = _content_lines(first)
    head = next(lines, None)
    if head is None:
        raise TraceError(f"{path}: only blank lines and comments; add a header line and rows")
    where = f"{path} line {head.number}"
    if head.text.startswith("["):
        raise TraceError(f"{where}: a JSON array; write one object a line instead (JSONL)")
    if head.text.startswith("{"):
        row = _first_object(where, head.text)
        layout = find_layout(list(row), format_name=format_name, where=where)
        ids = row.get(layout.request_id) if layout.request_id else None
        sample: object = row.get(layout.arrival) if layout.arrival else None
        layout = with_dates(layout, sample)
        parser = TextParser(layout=layout, is_json=True, has_text_ids=not isinstance(ids, int))
        return parser, _drop(first, head.number - 1, _offset(first, head.number))
    header = [name.strip() for name in split_fields(head.text)]
    if "\N{REPLACEMENT CHARACTER}" in head.text:
        raise TraceError(
            f"{where}: not text in UTF-8; a trace is CSV, JSONL (plain, gzip, zstd) or Parquet"
        )
    if all(_is_value(name) for name in header):
        raise TraceError(
            f"{where}: values ({shown(head.text)}) where column names belong; "
            f"add a first line such as {HEADER_EXAMPLE}"
        )
    layout = find_layout(header, format_name=format_name, where=where)
    layout = replace(layout, block_ids=None)  # CSV has no lists
    parser = TextParser(layout=layout, is_json=False)
    row_line = next(lines, None)
    if row_line is not None and layout.arrival is not None:
        values = parser.fields(row_line.text.encode())
        parser = TextParser(layout=with_dates(layout, values.get(layout.arrival)), is_json=False)
    return parser, _drop(first, head.number, head.end)


def _content_lines(block: Block) -> Iterator[_Line]:
    """Yield lines that are neither blank nor comments before the first such line."""
    start = 0
    number = block.first_line
    is_header_seen = False
    while start < len(block.data):
        end = block.data.find(b"\n", start) + 1 or len(block.data)
        text = block.data[start:end].decode("utf-8-sig", errors="replace").strip()
        if text and (is_header_seen or not text.startswith("#")):
            is_header_seen = True
            yield _Line(number=number, text=text, end=end)
        start = end
        number += 1


def _offset(block: Block, number: int) -> int:
    offset = 0
    for _ in range(number - block.first_line):
        offset = block.data.find(b"\n", offset) + 1
    return offset


def _drop(block: Block, num_lines: int, num_bytes: int) -> Block:
    data = block.data[num_bytes:].removeprefix(b"\xef\xbb\xbf")
    return Block(first_line=block.first_line + num_lines, data=data)


def _first_object(where: str, text: str) -> dict[str, object]:
    try:
        row = json.loads(text)
    except ValueError:
        raise TraceError(
            f"{where}: not a JSON object: {shown(text)}; write one whole object a line"
        ) from None
    if isinstance(row.get("requests"), list):
        raise TraceError(
            f"{where}: one conversation a line, whose requests wait for one another; only one "
            "request a line can be replayed, so flatten it first"
        )
    found: dict[str, object] = row
    return found


def _is_value(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return date_base_ns(text) is not None
    return True


def _chain(first: Block, rest: Iterator[Block]) -> Iterator[Block]:
    if first.data.strip():
        yield first
    for block in rest:
        if block.data.strip():
            yield block


def _read_block(path: Path, block: Block, parser: TextParser, collector: Collector) -> Batch:
    """Parse a block and apply the rules, or raise the error of its first bad line."""
    try:
        batch = parser.parse(block.data, count_rows(block))
    except ParseError:
        batch = _parse_or_blame(path, block, parser, collector)
    _check(path, block, batch, parser, collector)
    return batch


def _parse_or_blame(path: Path, block: Block, parser: TextParser, collector: Collector) -> Batch:
    lines = block.lines()
    try:  # lines of white space stop pyarrow but are no fault
        return parser.parse(b"\n".join(line for _, line in lines), len(lines))
    except ParseError:
        good = count_parseable(lines, parser)
    if good:  # a rule may be broken before the line that cannot be parsed
        before = b"\n".join(line for _, line in lines[:good])
        _check(path, block, parser.parse(before, good), parser, collector)
    number, line = lines[good]
    raise unparseable(str(path), number, line, parser)


def _check(
    path: Path, block: Block, batch: Batch, parser: TextParser, collector: Collector
) -> None:
    fault = find_fault(
        batch,
        parser.layout,
        last_s=collector.last_s,
        first_s=collector.first_s,
        sort_command=collector.sort_command,
    )
    if fault is None:
        return
    number, line = block.lines()[fault.row]
    value = shown(parser.fields(line).get(fault.column))
    problem = f"{fault.column} is {value}, {fault.problem}; {fault.cure}"
    raise TraceError(f"{path} line {number}: {problem}")
