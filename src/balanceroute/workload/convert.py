"""Workloads to files of the project's own columns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from balanceroute.errors import ConfigError, OutputError
from balanceroute.types import Workload

if TYPE_CHECKING:
    import pyarrow as pa

WRITE_ROWS = 1 << 18  # rows turned into text at a time
COMPRESSIONS = {".csv": None, ".csv.gz": "gzip", ".csv.zst": "zstd"}
SUFFIXES = (*COMPRESSIONS, ".parquet")


def write_trace(workload: Workload, path: str | Path) -> None:
    """Write a workload to a file that `read_trace` reads back unchanged.

    Columns are ``arrival_s,prompt_tokens,output_tokens,client,max_tokens,prompt_hash,
    cached_tokens``; all but the lengths only if the workload has them. The file appears whole or
    not at all; an existing one is replaced.

    Parameters
    ----------
    workload : Workload
        What to write.
    path : str or Path
        Ends in .csv, .csv.gz, .csv.zst or .parquet, which chooses the form.

    Raises
    ------
    ConfigError
        If the name has another ending.
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    if suffix is None:
        raise ConfigError(
            f"{path}: the name says how to write; end it in {', '.join(SUFFIXES[:-1])} "
            f"or {SUFFIXES[-1]}"
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if suffix == ".parquet":
            _write_parquet(workload, partial)
        else:
            _write_csv(workload, partial, COMPRESSIONS[suffix])
        partial.replace(path)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
        raise OutputError(
            f"{path}: could not be written ({reason}), and nothing was left behind; "
            "choose a folder that is writable and has room"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _schema(workload: Workload) -> pa.Schema:
    import pyarrow as pa

    types = {"arrival_s": pa.float64(), "prompt_hash": pa.int64()}
    return pa.schema([(name, types.get(name, pa.int32())) for name in _columns(workload)])


def _columns(workload: Workload) -> dict[str, NDArray[Any]]:
    """Return the arrays that there are, by their names in a file, in its order."""
    columns = {
        "arrival_s": workload.arrival_s,
        "prompt_tokens": workload.prompt_tokens,
        "output_tokens": workload.output_tokens,
        "client": workload.client_ids,
        "max_tokens": workload.max_tokens,
        "prompt_hash": workload.prompt_hashes,
        "cached_tokens": workload.cached_tokens,
    }
    return {name: values for name, values in columns.items() if values is not None}


def _batches(workload: Workload) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    schema = _schema(workload)
    columns = _columns(workload).values()
    for start in range(0, workload.num_requests, WRITE_ROWS):
        arrays = [pa.array(values[start : start + WRITE_ROWS]) for values in columns]
        yield pa.record_batch(arrays, schema=schema)


def _write_csv(workload: Workload, path: Path, compression: str | None) -> None:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    schema = _schema(workload)
    options = arrow_csv.WriteOptions(include_header=False)
    with pa.output_stream(path, compression=compression) as stream:
        stream.write((",".join(schema.names) + "\n").encode())
        with arrow_csv.CSVWriter(stream, schema, write_options=options) as writer:
            for batch in _batches(workload):
                writer.write_batch(batch)


def _write_parquet(workload: Workload, path: Path) -> None:
    from pyarrow import parquet

    with parquet.ParquetWriter(path, _schema(workload), compression="zstd") as writer:
        for batch in _batches(workload):
            writer.write_batch(batch)
