"""Tables of kernel times as `aiconfigurator-core` has them, with known lines in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

BATCHES, STEPS = (4, 8, 32, 128), (16, 512, 4096)


def write(root: Path, name: str, columns: dict[str, Any]) -> None:
    """Write a table of the H200."""
    path = root / "h200_sxm" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    length = max(len(values) for values in columns.values() if isinstance(values, np.ndarray))
    full = {
        key: values if isinstance(values, np.ndarray) else [values] * length
        for key, values in columns.items()
    }
    parquet.write_table(pa.table(full), path)


def grid() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return batch sizes and context lengths, each with each."""
    batch, step = np.meshgrid(BATCHES, STEPS)
    return batch.ravel(), step.ravel()
