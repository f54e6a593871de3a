"""Files that are either whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from balanceroute.errors import OutputError


def indented_json(document: object) -> bytes:
    r"""Encode a document as JSON for people too, which ends in a line feed.

    Examples
    --------
    >>> indented_json({"a": 1})
    b'{\n  "a": 1\n}\n'
    """
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file by way of a temporary one beside it, creating its directory if need be.

    A reader sees the old content or the new, never a part; after a failure nothing new is left.

    Parameters
    ----------
    path : Path
        Where the file goes. A file that is there is replaced.
    data : bytes
        Its content.

    Raises
    ------
    OutputError
        If the path is a directory, or the operating system refuses, for instance because the disk
        is full.
    """
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a directory; name a file in it")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"{path}: cannot write {len(data):,} bytes: {reason}; free some space or choose "
            "another directory"
        ) from error
