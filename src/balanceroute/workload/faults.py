"""The line of a text file at fault, and what to say about it. Runs once, before giving up."""

from __future__ import annotations

import csv
import json

from balanceroute.errors import TraceError
from balanceroute.workload.parse import ParseError, TextParser, is_date

SHOWN_LETTERS = 40  # of a value or line, so that a message stays one line


def shown(value: object) -> str:
    """Return a value as messages show it: in quotes if text, and never long.

    Examples
    --------
    >>> shown("twelve"), shown(-3), shown(None)
    ("'twelve'", '-3', 'null')
    """
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= SHOWN_LETTERS else text[:SHOWN_LETTERS] + "…"


def count_parseable(lines: list[tuple[int, bytes]], parser: TextParser) -> int:
    """Return how many leading lines parse together, found by bisection."""
    low, high = 0, len(lines)  # lines[:low] parse, lines[:high] do not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            parser.parse(b"\n".join(line for _, line in lines[:middle]), middle)
        except ParseError:
            high = middle
        else:
            low = middle
    if not parser.is_json:  # an open quote swallows the lines after it, which then get the blame
        opened = (place for place, (_, line) in enumerate(lines) if _is_quote_open(line))
        low = min(low, next(opened, low))
    return low


def unparseable(path: str, number: int, line: bytes, parser: TextParser) -> TraceError:
    """Word what keeps one line from being parsed."""
    where = f"{path} line {number}"
    reason = _json_reason(line, parser) if parser.is_json else _csv_reason(line, parser)
    return TraceError(f"{where}: {reason}; correct the line or take it out")


def _is_quote_open(line: bytes) -> bool:
    if line.count(b'"') % 2 == 0:
        return False
    try:
        next(csv.reader([line.decode(errors="replace")], strict=True))
    except csv.Error:
        return True
    return False


def _csv_reason(line: bytes, parser: TextParser) -> str:
    text = line.decode(errors="replace")
    header = parser.layout.header
    if text.startswith("{"):
        return "a JSON object among CSV rows"
    try:
        fields = next(csv.reader([text], strict=True))
    except csv.Error as error:
        return f"not a CSV row ({error})"
    if tuple(field.strip() for field in fields) == header:
        return "the header again, as if files had been joined"
    if len(fields) != len(header):
        return f"{len(fields)} fields instead of {len(header)}: {shown(text)}"
    return _value_reason(dict(zip(header, fields, strict=True)), parser)


def _json_reason(line: bytes, parser: TextParser) -> str:
    text = line.decode(errors="replace")
    try:
        row = json.loads(text)
    except ValueError:
        return f"not a JSON object: {shown(text)}"
    if not isinstance(row, dict):
        return f"not a JSON object: {shown(text)}"
    return _value_reason(row, parser)


def _value_reason(row: dict[str, object], parser: TextParser) -> str:
    layout = parser.layout
    for column in layout.number_columns:
        if not _is_number(row.get(column), is_text_allowed=not parser.is_json):
            return f"{column} is {shown(row.get(column))}, not a number"
    if layout.prompt_hash:
        value = row.get(layout.prompt_hash)
        if not _is_integer(value, is_text=not parser.is_json):
            return f"{layout.prompt_hash} is {shown(value)}, not a whole number of 64 bits"
    if layout.block_ids:
        value = row.get(layout.block_ids)
        ids = value or []
        if not (isinstance(ids, list) and all(_is_integer(block, is_text=False) for block in ids)):
            return f"{layout.block_ids} is {shown(value)}, not a list of whole numbers of 64 bits"
    if layout.is_date and layout.arrival:
        value = row.get(layout.arrival)
        example = "2024-05-10 00:00:00.5" + ("+00:00" if layout.has_zone else "")
        if not (isinstance(value, str) and is_date(value.strip(), has_zone=layout.has_zone)):
            return f"{layout.arrival} is {shown(value)}, not a date and time like {example}"
    return f"cannot be parsed: {shown(row)}"


def _is_number(value: object, *, is_text_allowed: bool) -> bool:
    if isinstance(value, str):
        if not is_text_allowed:
            return False
        try:
            float(value or "nan")
        except ValueError:
            return False
    return not isinstance(value, bool | dict | list)


def _is_integer(value: object, *, is_text: bool) -> bool:
    if value is None or (is_text and value == ""):
        return True
    if isinstance(value, bool) or not isinstance(value, str if is_text else int):
        return False
    try:
        return -(2**63) <= int(value) < 2**63
    except ValueError:
        return False
