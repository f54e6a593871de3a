"""Records of a run as a file that a later comparison reads."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.files import write_atomically
from balanceroute.types import LoadSamples, RequestRecords, RunRecords, StepRecords

SCHEMA: Literal["balanceroute.records.v1"] = "balanceroute.records.v1"
GROUPS = {"steps": StepRecords, "requests": RequestRecords, "samples": LoadSamples}
# What a damaged archive raises; RuntimeError where it seems to be encrypted or of another version.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    msgspec.DecodeError,
)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's records hold besides arrays."""

    schema: Literal["balanceroute.records.v1"] = SCHEMA
    policy: str
    seed: int
    num_ranks: int
    binding: str
    window_s: tuple[float, float]
    wall_s: float


def save_records(records: RunRecords, path: Path) -> None:
    """Write a run's records as a NumPy archive, whole or not at all.

    Its arrays are called ``steps.start_s`` and so on, ``decision_ns``, and ``header``, which is
    JSON.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    header = Header(
        **{
            field.name: getattr(records, field.name)
            for field in msgspec.structs.fields(Header)
            if field.name != "schema"
        }
    )
    arrays: dict[str, NDArray[Any]] = {
        f"{group}.{field.name}": getattr(getattr(records, group), field.name)
        for group, kind in GROUPS.items()
        for field in fields(kind)
    }
    arrays["decision_ns"] = records.decision_ns
    arrays["header"] = np.frombuffer(msgspec.json.encode(header), np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its flag is a keyword too
    write_atomically(path, file.getvalue())


def load_records(path: Path) -> RunRecords:
    """Read a run's records.

    Raises
    ------
    ConfigError
        If the file is not there, or is none of `save_records`.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            header = msgspec.json.decode(archive["header"].tobytes(), type=Header)
            parts: dict[str, Any] = {
                group: _read_group(archive, group, kind) for group, kind in GROUPS.items()
            }
            parts["decision_ns"] = archive["decision_ns"]
    except UNREADABLE as error:
        raise ConfigError(
            f"{path}: not records of a run ({error}); give the records.npz that "
            "`balanceroute load --out` writes"
        ) from error
    settings = msgspec.structs.asdict(header)
    del settings["schema"]
    return RunRecords(**settings, **parts)


def _read_group(archive: Mapping[str, NDArray[Any]], group: str, kind: type) -> Any:
    """Return columns of one length."""
    columns = {field.name: archive[f"{group}.{field.name}"] for field in fields(kind)}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise ValueError(f"columns of {group} have lengths {sorted(lengths)}")
    return kind(**columns)
