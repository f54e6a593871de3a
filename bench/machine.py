"""What the numbers were measured on, and small statistics."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numba
import numpy as np

TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"


def describe_machine() -> dict[str, object]:
    """Return processor, cores, memory and versions."""
    return {
        "processor": _first_value("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _first_value("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return least, median and largest of repeated measurements."""
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _first_value(path: str, key: str) -> str | None:
    file = Path(path)
    if not file.is_file():
        return None
    for line in file.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


class Stolen:
    """What a host takes of this machine's processors, which makes runs differ.

    Of time in which they had work, since this was made; 0 where the system does not tell.
    """

    def __init__(self) -> None:
        self._before = _processor_times()

    def ratio(self) -> float:
        """Return the share, in [0, 1]."""
        pairs = zip(_processor_times(), self._before, strict=True)
        busy, stolen = (now - before for now, before in pairs)
        return round(stolen / max(1, busy + stolen), 3)


def _processor_times() -> tuple[int, int]:
    """Return busy and stolen time since the start of the machine, ticks of all processors."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0].split()
    except OSError:
        return 0, 0
    user, nice, system, _idle, _io, interrupts, soft_interrupts, stolen = map(int, first[1:9])
    return user + nice + system + interrupts + soft_interrupts, stolen
