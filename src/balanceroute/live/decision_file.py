"""Files of a decision log: compressed lines, written by a thread of their own, in turn."""

from __future__ import annotations

import logging
import queue
import re
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from balanceroute import __version__
from balanceroute.cluster.costs import StepCosts
from balanceroute.errors import ConfigError, LogError
from balanceroute.live.decisions import FORMAT, Header

FLUSH_S = 1.0  # what a crash may cost
GZIP, LEVEL = 31, 6  # window of 32 KiB, with a gzip header
CHUNK_BYTES = 1 << 16
MAX_QUEUED = 100_000  # lines

log = logging.getLogger(__name__)


class LogWriter:
    """Writes lines into a file, and begins another when that is full.

    The file being written is `path`; those before it are ``path.1``, ``path.2`` and so on, the
    oldest first. One that is there at the start is put behind them.

    Parameters
    ----------
    path : Path
        Where to.
    max_bytes : int
        Of a file, compressed, at least 1.
    max_files : int
        Full files that are kept, at least 1; 0: all.
    num_ranks, costs
        For the header.
    on_failure : callable
        Called once if nothing more can be written.

    Raises
    ------
    ConfigError
        If the file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        max_files: int,
        num_ranks: int,
        costs: StepCosts | None,
        on_failure: Callable[[], object] = bool,
    ) -> None:
        self._path, self._max_bytes, self._max_files = path, max_bytes, max_files
        self._num_ranks, self._costs, self._on_failure = num_ranks, costs, on_failure
        self._run, self._segment = secrets.token_hex(4), 0
        self._encode = msgspec.json.Encoder().encode
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(MAX_QUEUED)
        self.has_failed = False
        try:
            self._open()
        except OSError as error:
            raise ConfigError(
                f"cannot write the decision log {path}: {error.strerror or error}"
            ) from error
        self._thread = threading.Thread(target=self._run_thread, name="decision-log", daemon=True)
        self._thread.start()

    def write(self, line: dict[str, Any]) -> None:
        """Write a line, some time soon."""
        if self.has_failed:
            return
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._fail(f"{MAX_QUEUED} lines wait to be written")

    def close(self) -> None:
        """Write what waits, and end the file."""
        if not self.has_failed:
            self._queue.put(None)
        self._thread.join()

    def _run_thread(self) -> None:
        try:
            self._write_all()
        except OSError as error:
            self._fail(error.strerror or str(error))

    def _write_all(self) -> None:
        flush_s = time.monotonic() + FLUSH_S
        while True:
            try:
                line = self._queue.get(timeout=FLUSH_S)
            except queue.Empty:
                if self.has_failed:  # nobody writes any more, nor tells this to end
                    self._end()
                    return
                self._flush()
                continue
            if line is None:
                self._end()
                return
            self._put(line)
            if self._file.tell() >= self._max_bytes:
                self._end()
                self._segment += 1
                self._open()
            elif time.monotonic() >= flush_s:
                self._flush()
                flush_s = time.monotonic() + FLUSH_S

    def _open(self) -> None:
        if self._path.exists():
            numbers = [number for number, _ in full_files(self._path)]
            last = max(numbers, default=0)
            self._path.rename(self._path.with_name(f"{self._path.name}.{last + 1}"))
        if self._max_files > 0:
            for _, old in full_files(self._path)[: -self._max_files]:
                old.unlink()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("xb")
        self._compressor = zlib.compressobj(LEVEL, wbits=GZIP)
        header = Header(
            decisions=FORMAT,
            version=__version__,
            run=self._run,
            segment=self._segment,
            num_ranks=self._num_ranks,
            costs=self._costs,
        )
        self._put(header)
        self._flush()

    def _put(self, line: object) -> None:
        self._file.write(self._compressor.compress(self._encode(line) + b"\n"))

    def _flush(self) -> None:
        self._file.write(self._compressor.flush(zlib.Z_SYNC_FLUSH))
        self._file.flush()

    def _end(self) -> None:
        self._file.write(self._compressor.flush())
        self._file.close()

    def _fail(self, reason: str) -> None:
        self.has_failed = True
        log.error("the decision log %s ends here: %s", self._path, reason)
        self._on_failure()


def full_files(path: Path) -> list[tuple[int, Path]]:
    """Return the files before the one being written, the oldest first, with their numbers."""
    pattern = re.compile(re.escape(path.name) + r"\.(\d+)")
    found = [(pattern.fullmatch(other.name), other) for other in path.parent.glob(f"{path.name}.*")]
    return sorted((int(match[1]), other) for match, other in found if match is not None)


class CutShort(LogError):  # noqa: N818  # what is before it is no error
    """A file of a log ends in the middle, as after a crash; what is before can be used."""


def read_lines(path: Path) -> Iterator[bytes]:
    """Give the lines of a file, without their ends; `CutShort` after the last if it is cut.

    Raises
    ------
    LogError
        If the file cannot be read, or is no compressed log.
    """
    try:
        with path.open("rb") as file:
            yield from _lines(file.read, path)
    except OSError as error:
        raise LogError(f"cannot read {path}: {error.strerror or error}") from error
    except zlib.error as error:
        raise LogError(
            f"{path} is not a decision log, or is damaged: {error}; name a file that "
            "`balanceroute serve --decision-log` has written"
        ) from error


def _lines(read: Callable[[int], bytes], path: Path) -> Iterator[bytes]:
    decompressor, rest = zlib.decompressobj(wbits=GZIP), b""
    while data := read(CHUNK_BYTES):
        *lines, rest = (rest + decompressor.decompress(data)).split(b"\n")
        yield from lines
    if rest or not decompressor.eof:
        raise CutShort(f"{path} is cut short")
