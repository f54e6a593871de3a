"""Trace files as blocks of whole lines: plain, gzip or zstd, told apart by their first bytes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from balanceroute.errors import TraceError

BLOCK_BYTES = 8 << 20  # large enough for pyarrow's threads, small beside the arrays it fills
MAX_LINE_BYTES = 64 << 20  # a file without line ends must not fill the memory
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
PARQUET_MAGIC = b"PAR1"
UNREADABLE_MAGIC = {b"BZh": "bzip2", b"\xfd7zX": "xz", b"PK\x03\x04": "zip", b"\x04\x22\x4d": "lz4"}

Progress = Callable[[float], None]  # called with the part of the file read, in [0, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some whole lines of a file.

    Attributes
    ----------
    first_line : int
        Number of the first line in the decompressed text, from 1.
    data : bytes
        The lines with their ends; only the last line of a file may lack one.
    """

    first_line: int
    data: bytes

    def lines(self) -> list[tuple[int, bytes]]:
        """Return number and content of every line that is not blank."""
        numbered = enumerate(self.data.split(b"\n"), start=self.first_line)
        return [(number, line.strip()) for number, line in numbered if line.strip()]


def open_raw(path: Path) -> BinaryIO:
    """Open a trace file for reading, or say in one line why that cannot be done."""
    try:
        if path.is_dir():
            raise TraceError(f"{path} is a directory; name one trace file in it")
        if path.exists() and not path.is_file():  # a pipe cannot be read twice
            raise TraceError(f"{path} is not a regular file; save its content to one")
        return path.open("rb")
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); check it") from error


def is_parquet(path: Path) -> bool:
    """Return whether a file starts as Parquet does."""
    with open_raw(path) as raw:
        return raw.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC


def read_blocks(path: Path, on_progress: Progress | None = None) -> Iterator[Block]:
    """Yield the decompressed text of a file in blocks of about 8 MiB.

    Raises
    ------
    TraceError
        If the file cannot be opened or decompressed, holds binary data, or has a line over 64 MiB.
    """
    with open_raw(path) as raw:
        size_bytes = path.stat().st_size
        line = 1
        rest = b""
        for chunk in _chunks(path, raw):
            data = rest + chunk if rest else chunk
            if line == 1:
                _check_text(path, data)
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            if len(rest) > MAX_LINE_BYTES:
                raise TraceError(f"{path} line {line}: longer than 64 MiB; is this a trace file?")
            if on_progress and size_bytes:
                on_progress(min(1.0, raw.tell() / size_bytes))
            if end:
                block = Block(first_line=line, data=data[:end])
                yield block
                line += block.data.count(b"\n")
        if rest:
            yield Block(first_line=line, data=rest)


def _chunks(path: Path, raw: BinaryIO) -> Iterator[bytes]:
    magic = raw.read(4)
    raw.seek(0)
    kind = next((name for start, name in UNREADABLE_MAGIC.items() if magic.startswith(start)), None)
    if kind:
        raise TraceError(f"{path} is compressed with {kind}; use plain text, gzip or zstd")
    num_bytes = 0
    try:
        with _decompressor(magic, raw) as stream:
            while chunk := stream.read(BLOCK_BYTES):
                num_bytes += len(chunk)
                yield chunk
    except (EOFError, OSError, ValueError, zlib.error) as error:  # pyarrow's errors are the middle
        raise TraceError(
            f"{path}: damaged or cut off after {num_bytes:,} bytes of text ({error}); "
            "copy or download the file again"
        ) from error


def _decompressor(magic: bytes, raw: BinaryIO) -> AbstractContextManager[BinaryIO]:
    if magic.startswith(GZIP_MAGIC):
        return cast("AbstractContextManager[BinaryIO]", gzip.GzipFile(fileobj=raw))
    if magic == ZSTD_MAGIC:
        import pyarrow as pa

        stream: AbstractContextManager[BinaryIO] = pa.CompressedInputStream(raw, "zstd")
        return stream
    return raw


def _check_text(path: Path, data: bytes) -> None:
    if b"\0" in data:
        raise TraceError(
            f"{path}: holds binary data, or text that is not UTF-8; "
            "a trace is CSV, JSONL (plain, gzip, zstd) or Parquet"
        )
