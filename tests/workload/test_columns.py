"""What is known of requests beyond lengths and arrivals stays with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from balanceroute.workload import draw, fingerprint, head, load, read_trace

FULL = (
    "arrival_s,prompt_tokens,output_tokens,client,max_tokens,prompt_hash\n"
    "0,439,482,37,500,11\n1,222,763,23,0,12\n2,5,6,23,7,0\n"
)
KNOWN = {
    "CSV": "prompt_tokens,output_tokens,Max-Output-Tokens,prompt_id\n"
    f"5,6,9,{2**63 - 1}\n5,6,,\n5,0,9,1\n5,6,0,0\n5,6,6,{-(2**63)}\n",
    "JSONL": f"""
        {{"input_tokens": 5, "output_tokens": 6, "max_new_tokens": 9, "prompt_hash": {2**63 - 1}}}
        {{"input_tokens": 5, "output_tokens": 6, "max_new_tokens": null}}
        {{"input_tokens": 5, "output_tokens": 6, "max_new_tokens": 0, "prompt_hash": 0}}
        {{"input_tokens": 5, "output_tokens": 6, "max_new_tokens": 6, "prompt_hash": {-(2**63)}}}
    """,
}


@pytest.mark.parametrize("form", KNOWN)
def test_limits_and_prompt_hashes_are_read(form: str, tmp_path: Path) -> None:
    """All 64 bits of a hash count; what is missing is 0; rows left out take theirs along."""
    path = tmp_path / "t"
    path.write_text(KNOWN[form].replace("        ", ""))
    workload = read_trace(path)
    assert workload.max_tokens is not None
    assert workload.prompt_hashes is not None
    assert workload.max_tokens.tolist() == [9, 0, 0, 6]
    assert workload.prompt_hashes.tolist() == [2**63 - 1, 0, 0, -(2**63)]
    assert [np.int32, np.int64] == [workload.max_tokens.dtype, workload.prompt_hashes.dtype]


def test_limits_and_prompt_hashes_in_parquet(tmp_path: Path) -> None:
    """Limits may be stored as any number, hashes as any integer; null is unknown."""
    table = {
        "prompt_tokens": [5, 6],
        "output_tokens": [1, 1],
        "max_tokens": pa.array([7.0, None]),
        "prompt_hash": pa.array([None, 2**62 + 1], pa.uint64()),
    }
    path = tmp_path / "t"
    parquet.write_table(pa.table(table), path)
    workload = read_trace(path)
    assert np.asarray(workload.max_tokens).tolist() == [7, 0]
    assert np.asarray(workload.prompt_hashes).tolist() == [0, 2**62 + 1]


def test_head_keeps_all_columns(tmp_path: Path) -> None:
    """The head of a workload is a workload."""
    path = tmp_path / "t.csv"
    path.write_text(FULL)
    one = head(read_trace(path), 1)
    assert [439, 482, 0.0, 37, 500, 11] == [values[0] for values in one.columns.values()]
    assert [1] * 6 == [len(values) for values in one.columns.values()]


def test_a_draw_keeps_requests_whole(tmp_path: Path) -> None:
    """Every row drawn is a row of the file, but for its arrival."""
    path = tmp_path / "t.csv"
    path.write_text(FULL)
    workload = read_trace(path)
    rows = {tuple(map(int, line.split(",")[1:])) for line in FULL.splitlines()[1:]}
    drawn = load(str(path), num_requests=50, seed=1)
    assert "arrival_s" not in drawn.columns
    assert rows == set(zip(*(column.tolist() for column in drawn.columns.values()), strict=True))
    again = draw(workload, num_requests=50, seed=1)
    assert fingerprint(again) == fingerprint(drawn)


@pytest.mark.parametrize("name", ["client_ids", "max_tokens", "prompt_hashes"])
def test_the_fingerprint_tells_all_columns(name: str, tmp_path: Path) -> None:
    """A policy may go by any of them."""
    path = tmp_path / "t.csv"
    path.write_text(FULL)
    workload = read_trace(path)
    others: list[dict[str, Any]] = [{}, {name: workload.columns[name][::-1]}, {name: None}]
    assert 3 == len({fingerprint(replace(workload, **other)) for other in others})
