"""What the numbers were measured on, and small statistics."""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
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


def work_s() -> float:
    """Return the processor time that a small piece of work needs now, which fits any cache."""
    began_s, total = time.thread_time(), 0
    for turn in range(12_000):
        total += turn & 3
    return time.thread_time() - began_s


class Probe:
    """How fast the processors are meanwhile: the time that a small piece of work needs of one.

    Hosts do not tell of everything that slows a machine down: on one of them, with no time stolen,
    the same work took 1.0 or 1.7 times as long, for seconds at a time.
    """

    LOOK_S = 0.05

    def __init__(self) -> None:
        self._work_s: list[float] = []
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            self._work_s.append(work_s())
            if self._has_ended.wait(self.LOOK_S):
                return

    @property
    def work_ms(self) -> float:
        """Return the mean time that the work has needed, milliseconds."""
        return round(1e3 * statistics.fmean(self._work_s), 4)


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
