"""Blocks of text, and batches of Parquet rows, to columns of float64.

Every figure is read as float64, which holds whole numbers exactly up to 2**53: what is missing, not
a number, negative, broken or huge is then found by one comparison (see `rules`). pyarrow is
imported where it is used, so that presets cost no second of start-up.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from balanceroute.workload.layout import NS_PER_S, Layout, date_base_ns
from balanceroute.workload.text import Block

if TYPE_CHECKING:
    import pyarrow as pa

PARSE_BYTES = 1 << 20  # share of a block that one pyarrow thread parses at a time


class ParseError(Exception):
    """A block cannot be parsed; which line it is, is found out later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows as read, before any rule is applied; NaN where a value is missing.

    Attributes
    ----------
    prompt, output : float64 array
        Tokens.
    arrival_s : float64 array or None
        Seconds; of dates, seconds from `Layout.base_ns`.
    client : float64 array or None
        Tenant numbers.
    max_tokens : float64 array or None
        Output limits; 0 where a row has none.
    prompt_hash : int64 array or None
        Hashes of the prompts; 0 where a row has none.
    cached : float64 array or None
        Cached tokens of the prompts; 0 where a row has none.
    block_ids : list of lists of int, or None
        Ids of the prompts' blocks.
    id_hashes : int64 array or None
        Hashes of the request ids; 0 where a row has none.
    """

    prompt: NDArray[np.float64]
    output: NDArray[np.float64]
    arrival_s: NDArray[np.float64] | None
    client: NDArray[np.float64] | None
    max_tokens: NDArray[np.float64] | None
    prompt_hash: NDArray[np.int64] | None
    cached: NDArray[np.float64] | None
    block_ids: list[list[int]] | None
    id_hashes: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextParser:
    """Parses the lines of one CSV or JSONL file.

    Attributes
    ----------
    layout : Layout
        Where the file keeps what.
    is_json : bool
        One JSON object a line; else comma-separated fields.
    has_text_ids : bool
        Request ids are text; of no concern for CSV.
    """

    layout: Layout
    is_json: bool
    has_text_ids: bool = True

    def parse(self, data: bytes, num_lines: int) -> Batch:
        """Parse lines that hold one row each.

        Raises
        ------
        ParseError
            If pyarrow cannot parse them, or finds more or fewer rows than lines.
        """
        table = self.table(data)
        if table.num_rows != num_lines:
            raise ParseError("a value in quotes runs over a line's end")
        return to_batch(table, self.layout)

    def table(self, data: bytes) -> pa.Table:
        """Return the used columns of some lines."""
        import pyarrow as pa

        try:
            return self._read_json(data) if self.is_json else self._read_csv(data)
        except pa.ArrowInvalid as error:
            raise ParseError(str(error)) from error

    def fields(self, line: bytes) -> dict[str, Any]:
        """Return the values of one line by column, to word a message about it."""
        text = line.decode(errors="replace")
        if self.is_json:
            row = json.loads(text)
            return row if isinstance(row, dict) else {}
        return dict(zip(self.layout.header, split_fields(text), strict=False))

    def _read_csv(self, data: bytes) -> pa.Table:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        types = dict.fromkeys(self.layout.columns, pa.string())
        types.update(dict.fromkeys(self.layout.number_columns, pa.float64()))
        if self.layout.prompt_hash:
            types[self.layout.prompt_hash] = pa.int64()
        return arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(
                column_names=list(self.layout.header), block_size=PARSE_BYTES
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=types, include_columns=list(self.layout.columns)
            ),
        )

    def _read_json(self, data: bytes) -> pa.Table:
        import pyarrow as pa
        from pyarrow import json as arrow_json

        fields = {column: pa.string() for column in self.layout.columns}
        fields.update(dict.fromkeys(self.layout.number_columns, pa.float64()))
        if self.layout.prompt_hash:
            fields[self.layout.prompt_hash] = pa.int64()
        if self.layout.request_id and not self.has_text_ids:
            fields[self.layout.request_id] = pa.int64()
        if self.layout.block_ids:
            fields[self.layout.block_ids] = pa.list_(pa.int64())
        return arrow_json.read_json(
            pa.BufferReader(data),
            read_options=arrow_json.ReadOptions(block_size=len(data) + 1),  # never splits a line
            parse_options=arrow_json.ParseOptions(
                explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore"
            ),
        )


def split_fields(text: str) -> list[str]:
    """Return the fields of one CSV line; a broken one is split at its commas.

    Examples
    --------
    >>> split_fields('1,"a, b"')
    ['1', 'a, b']
    """
    try:
        return next(csv.reader([text]))
    except csv.Error:
        return text.split(",")


def with_dates(layout: Layout, sample: object) -> Layout:
    """Say, from the arrival of the first row, whether arrivals are dates."""
    found = date_base_ns(sample) if isinstance(sample, str) else None
    if found is None:
        return layout
    has_zone, base_ns = found
    return replace(layout, is_date=True, has_zone=has_zone, base_ns=base_ns)


def is_date(text: str, *, has_zone: bool) -> bool:
    """Return whether pyarrow takes a text for a date and time, with an offset from UTC or without.

    Examples
    --------
    >>> is_date("2024-05-10 00:00:00.5", has_zone=False)
    True
    """
    import pyarrow as pa

    try:
        pa.scalar(text).cast(pa.timestamp("ns", "UTC" if has_zone else None))
    except pa.ArrowInvalid:
        return False
    return True


def count_rows(block: Block) -> int:
    r"""Return how many lines of a block are not blank.

    Examples
    --------
    >>> count_rows(Block(first_line=1, data=b"1,2\n\n3,4"))
    2
    """
    data = block.data
    if b"\n\n" in data or b"\n\r\n" in data or data.startswith((b"\n", b"\r\n")):
        return len(block.lines())
    return data.count(b"\n") + (not data.endswith(b"\n"))


def to_batch(table: pa.Table, layout: Layout) -> Batch:
    """Turn a table's columns into arrays.

    Raises
    ------
    ParseError
        If a column is of no use: text where numbers belong, or a date that is none.
    """
    import pyarrow as pa

    try:
        return Batch(
            prompt=_numbers(table[layout.prompt]),
            output=_numbers(table[layout.output]),
            arrival_s=_arrivals(table[layout.arrival], layout) if layout.arrival else None,
            client=_numbers(table[layout.client]) if layout.client else None,
            max_tokens=_or_zero(table[layout.max_tokens]) if layout.max_tokens else None,
            prompt_hash=_integers(table[layout.prompt_hash]) if layout.prompt_hash else None,
            cached=_or_zero(table[layout.cached]) if layout.cached else None,
            block_ids=_lists(table[layout.block_ids]) if layout.block_ids else None,
            id_hashes=_hashes(table[layout.request_id]) if layout.request_id else None,
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ParseError(str(error)) from error


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    import pyarrow as pa

    if pa.types.is_string(column.type) or pa.types.is_boolean(column.type):
        raise ParseError(f"holds {column.type} where numbers belong")
    values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    return values


def _or_zero(column: pa.ChunkedArray) -> NDArray[np.float64]:
    numbers = _numbers(column)
    return np.where(np.isnan(numbers), 0.0, numbers)


def _integers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return 64-bit numbers, which float64 would not hold exactly."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise ParseError(f"holds {column.type} where whole numbers of 64 bits belong")
    values: NDArray[np.int64] = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    return values


def _lists(column: pa.ChunkedArray) -> list[list[int]]:
    import pyarrow as pa

    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not (is_list and pa.types.is_integer(column.type.value_type)):
        raise ParseError(f"holds {column.type} where lists of whole numbers belong")
    return [ids or [] for ids in column.to_pylist()]


def _arrivals(column: pa.ChunkedArray, layout: Layout) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not layout.is_date:
        seconds: NDArray[np.float64] = _numbers(column) * layout.arrival_unit_s
        return seconds
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.timestamp("ns", "UTC" if layout.has_zone else None))
    nanoseconds = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
    relative = pc.subtract(nanoseconds, layout.base_ns).cast(pa.float64(), safe=False)
    return _numbers(relative) / NS_PER_S


def _hashes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    ids = column.to_pylist()
    return np.fromiter((hash(i) if i not in (None, "") else 0 for i in ids), np.int64, len(ids))
