"""The line that uses a request id again. Runs only when two ids have the same hash."""

from __future__ import annotations

from pathlib import Path

from balanceroute.errors import TraceError
from balanceroute.workload.faults import shown
from balanceroute.workload.parse import TextParser
from balanceroute.workload.text import Block, read_blocks


def check_text_ids(path: Path, parser: TextParser) -> None:
    """Read a text file again and raise if a request id appears twice."""
    column = parser.layout.request_id or ""
    seen: dict[object, int] = {}
    is_started = parser.is_json
    for block in read_blocks(path):
        for number, line in _rows(block, is_first=block.first_line == 1):
            if not is_started:  # the header
                is_started = True
                continue
            value = parser.fields(line)[column]
            if value in (None, ""):
                continue
            if value in seen:
                raise TraceError(
                    f"{path} line {number}: {column} {shown(value)} was used in line "
                    f"{seen[value]}; take one of the lines out"
                )
            seen[value] = number


def _rows(block: Block, *, is_first: bool) -> list[tuple[int, bytes]]:
    lines = block.lines()
    while is_first and lines and lines[0][1].removeprefix(b"\xef\xbb\xbf").startswith(b"#"):
        lines.pop(0)
    return lines
