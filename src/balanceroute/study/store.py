"""Results of a study on disk: one line a cell, safe against being killed at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from balanceroute.errors import ConfigError, OutputError
from balanceroute.study.cell import CellResult


class Store:
    """A file of JSON lines to which results are added as they come.

    A line that was cut off when a process was killed is dropped when the file is opened again; its
    cell is run anew. A context manager.

    Parameters
    ----------
    path : Path
        The file; made with its folder if it is not there.
    keys : iterable of str
        Cells that matter; what else the file holds stays there and is left aside.

    Attributes
    ----------
    results : dict of str to CellResult
        By key.

    Raises
    ------
    ConfigError
        If the file is something else.
    OutputError
        If it cannot be written.
    """

    def __init__(self, path: Path, keys: Iterable[str]) -> None:
        self._path = path
        wanted = set(keys)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("a+b")
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be opened: {error.strerror}; choose another --out"
            ) from error
        self.results = {
            result.key: result for result in self._read_whole_lines() if result.key in wanted
        }

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, result: CellResult) -> None:
        """Write a result; when this returns, it is on disk."""
        try:
            self._file.write(msgspec.json.encode(result) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self._path}: cannot be written: {error.strerror}; free some space and run the "
                "same command again, it goes on where it stopped"
            ) from error
        self.results[result.key] = result

    def _read_whole_lines(self) -> list[CellResult]:
        self._file.seek(0)
        content = self._file.read()
        end = content.rfind(b"\n") + 1
        self._file.truncate(end)
        try:
            lines = content[:end].splitlines()
            return [msgspec.json.decode(line, type=CellResult) for line in lines]
        except msgspec.DecodeError as error:
            self._file.close()
            raise ConfigError(
                f"{self._path} does not hold results of a study ({error}); choose another --out"
            ) from error
