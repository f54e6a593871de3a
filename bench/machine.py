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
