"""Runs that were measured already, so that an interrupted reproduction goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from balanceroute import __version__

OUT = Path(__file__).resolve().parents[2] / "bench" / "out" / "reproduce"
RUNS = "runs.jsonl"

Value = TypeVar("Value")


def kept(measure: Callable[[], Value], *what: object) -> Value:
    """Return what `measure` gives, from the file of runs if it is there.

    Parameters
    ----------
    measure : callable
        Gives what JSON can hold.
    *what
        What is measured; its `repr`, with the version of the package, is how it is found again.
    """
    said = repr((__version__, *what))
    key = hashlib.sha256(said.encode()).hexdigest()
    path = OUT / RUNS
    known = _read(path)
    if key in known:
        value: Value = known[key]  # type: ignore[assignment]  # what `measure` gave then
        return value
    value = measure()
    OUT.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": key, "value": value, "what": said}) + "\n")
    return value


def forget() -> None:
    """Let everything be measured anew."""
    (OUT / RUNS).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, object]:
    """Return values by their keys; a last line that was cut short is no run."""
    if not path.is_file():
        return {}
    *lines, last = path.read_text(encoding="utf-8").split("\n")
    if last:
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return {run["key"]: run["value"] for run in map(json.loads, lines)}
