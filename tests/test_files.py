"""Files are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from balanceroute.errors import OutputError
from balanceroute.files import write_atomically


def test_a_file_is_written_and_replaced_with_nothing_beside_it(tmp_path: Path) -> None:
    """The directory is made, and the temporary file is gone."""
    path = tmp_path / "new" / "report.html"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file, the reason and the cure, and nothing half-written is left."""
    path = tmp_path / "report.html"
    path.write_bytes(b"old")

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=r"report\.html: .*No space left on device; free"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    """It is refused like a full disk."""
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError, match="report"):
        write_atomically(tmp_path / "out" / "report.html", b"new")


@pytest.mark.parametrize("name", ["", "folder"])
def test_a_directory_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Neither the one that is worked in nor another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is a directory; name a file in it"):
        write_atomically(Path(name), b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
