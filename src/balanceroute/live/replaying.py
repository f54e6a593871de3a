"""A decision log turned back into views, pools and plans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from balanceroute.errors import LogError
from balanceroute.live.decision_file import CutShort, full_files, read_lines
from balanceroute.live.decisions import FORMAT, Header
from balanceroute.live.scene import Replayed, Scene, Told, read_line


def replayed(path: Path) -> Iterator[Replayed]:
    """Give the decisions of a log one after the other, with the plans that its policies say now.

    Parameters
    ----------
    path : Path
        As `balanceroute serve --decision-log` was told; the files before it are found.

    Raises
    ------
    CutShort
        After the last decision that is whole, if a file ends in the middle.
    LogError
        If a file cannot be read, is of another format, or the beginning of a run is not there any
        more, so that what its policy had learned is unknown.
    """
    scene: Scene | None = None
    paths = [each for _, each in full_files(path)]
    for each in [*paths, path] if path.exists() or not paths else paths:
        try:
            for number, raw in enumerate(read_lines(each)):
                if number == 0:
                    scene = _begin(each, raw, scene)
                    continue
                assert scene is not None
                line = _line(each, number, raw)
                if line.policy is not None:
                    scene.set_policy(line.policy, line.seed)
                elif line.shadow is None:
                    yield _replay(scene, line, f"{each}, line {number + 1}")
        except CutShort:
            if each == path or _begins_run(paths, path, each):
                if each == path:
                    raise
                continue  # a crash, after which the next run has begun
            raise


def _replay(scene: Scene, line: Told, where: str) -> Replayed:
    try:
        return scene.replay(line)
    except (IndexError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise LogError(f"{where}: not what this version writes ({error!r})") from error


def _begins_run(paths: list[Path], last: Path, cut: Path) -> bool:
    """Tell whether the file after one that is cut begins a run."""
    following = [*paths, last][paths.index(cut) + 1]
    return _header(following, next(iter(read_lines(following)), b"")).segment == 0


def _begin(path: Path, raw: bytes, scene: Scene | None) -> Scene:
    """Return the scene at the beginning of a file."""
    header = _header(path, raw)
    if header.segment == 0:
        return Scene(header)
    if scene is not None and scene.header.run == header.run:
        return scene
    raise LogError(
        f"{path} goes on with a run whose first files are gone, and with them what the policy had "
        "learned; keep all of them with --decision-log-files 0"
    )


def _header(path: Path, raw: bytes) -> Header:
    try:
        header = msgspec.json.decode(raw, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogError(f"{path} is not a decision log: its first line is no header") from error
    if header.decisions != FORMAT:
        raise LogError(f"{path} is of format {header.decisions}; this version reads {FORMAT}")
    return header


def _line(path: Path, number: int, raw: bytes) -> Told:
    where = f"{path}, line {number + 1}"
    try:
        return read_line(raw)
    except msgspec.ValidationError as error:
        raise LogError(f"{where}: not what this version writes ({error})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogError(f"{where}: not JSON ({error})") from error
