"""What is known of requests beyond lengths and arrivals stays with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from balanceroute.workload import draw, fingerprint, head, load, read_trace

FULL = (
    "arrival_s,prompt_tokens,output_tokens,client,max_tokens,prompt_hash,cached_tokens\n"
    "0,439,482,37,500,11,438\n1,222,763,23,0,12,0\n2,5,6,23,7,0,2\n"
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


CACHED = {
    "CSV": "prompt_tokens,output_tokens,Cached Tokens\n5,6,4\n5,6,\n5,0,4\n9,6,0\n",
    "Azure": "TIMESTAMP,ContextTokens,GeneratedTokens,cached_tokens\n"
    "2024-05-10 00:00:00,5,6,4\n2024-05-10 00:00:01,5,6,\n2024-05-10 00:00:02,9,6,0\n",
    "JSONL": """
        {"input_tokens": 5, "output_tokens": 6, "cached_tokens": 4}
        {"input_tokens": 5, "output_tokens": 6, "cached_tokens": null}
        {"input_tokens": 9, "output_tokens": 6}
    """,
    # What the file says of itself goes before what its blocks say.
    "Mooncake": """
        {"timestamp": 0, "input_length": 5, "output_length": 6, "hash_ids": [], "cached_tokens": 4}
        {"timestamp": 1, "input_length": 5, "output_length": 6, "hash_ids": [7]}
        {"timestamp": 2, "input_length": 9, "output_length": 6, "hash_ids": [7]}
    """,
}


@pytest.mark.parametrize("form", CACHED)
def test_cached_tokens_are_read(form: str, tmp_path: Path) -> None:
    """A column of that name is read in every format; nothing stands for 0."""
    path = tmp_path / "t"
    path.write_text(CACHED[form].replace("        ", ""))
    workload = read_trace(path)
    assert workload.cached_tokens is not None
    assert [4, 0, 0] == workload.cached_tokens.tolist()
    assert np.int32 == workload.cached_tokens.dtype


BLOCKS = [
    # arrival, prompt, output, blocks: cached, in this order and sorted by arrival
    (3000, 1030, 5, [0, 1, 2], 0, 1024),  # sorted: the first two blocks have been there
    (0, 1500, 5, [0, 1, 3], 1024, 0),  # the two blocks that it begins with
    (0, 1024, 5, [0, 1], 1023, 1023),  # all of it, less the token that is always computed
    (6000, 600, 0, [9, 8], None, None),  # left out, so nothing of it is cached
    (6000, 600, 5, [9, 8], 0, 0),
    (9000, 2000, 5, [4, 0, 1], 0, 0),  # a prefix ends with the first new block
    (9000, 40, 5, [], 0, 0),
    (12000, 600, 5, [9, 8], 599, 599),
]


@pytest.mark.parametrize("is_parquet", [False, True])
@pytest.mark.parametrize("sort", [False, True])
def test_mooncake_blocks_say_what_is_cached(sort: bool, is_parquet: bool, tmp_path: Path) -> None:
    """Leading blocks of 512 tokens that have been seen are cached, in order of arrival."""
    rows = BLOCKS if sort else [(0, *row[1:]) for row in BLOCKS]
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    records = [dict(zip(names, row[:4], strict=True)) for row in rows]
    path = tmp_path / "t"
    if is_parquet:
        parquet.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    workload = read_trace(path, sort=sort)
    if sort:
        rows = sorted(rows, key=lambda row: row[0])
    expected = [row[5 if sort else 4] for row in rows if row[2] > 0]
    assert workload.cached_tokens is not None
    assert expected == workload.cached_tokens.tolist()
    assert np.int32 == workload.cached_tokens.dtype


def test_mooncake_without_lists_says_nothing(tmp_path: Path) -> None:
    """CSV has no lists, and files of other formats have blocks of other sizes."""
    path = tmp_path / "t"
    path.write_text('timestamp,input_length,output_length,hash_ids\n0,600,5,"[1, 2]"\n')
    assert read_trace(path).cached_tokens is None
    path.write_text('{"input_tokens": 600, "output_tokens": 5, "hash_ids": [1, 2]}\n')
    assert read_trace(path).cached_tokens is None


SHARED = Path(__file__).parents[2].parent / "shared" / "traces"


@pytest.mark.skipif(not SHARED.is_dir(), reason="real traces are in ../shared/traces only")
def test_hits_of_the_published_mooncake_trace() -> None:
    """37.4 % of its prompt tokens have been in a prompt before."""
    workload = read_trace(SHARED / "mooncake_conversation.jsonl.gz")
    assert workload.cached_tokens is not None
    hits = workload.cached_tokens.sum() / workload.prompt_tokens.sum()
    assert 0.374 == pytest.approx(hits, abs=5e-4)


def test_head_keeps_all_columns(tmp_path: Path) -> None:
    """The head of a workload is a workload."""
    path = tmp_path / "t.csv"
    path.write_text(FULL)
    one = head(read_trace(path), 1)
    assert [439, 482, 0.0, 37, 500, 11, 438] == [values[0] for values in one.columns.values()]
    assert [1] * 7 == [len(values) for values in one.columns.values()]


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


@pytest.mark.parametrize("name", ["client_ids", "max_tokens", "prompt_hashes", "cached_tokens"])
def test_the_fingerprint_tells_all_columns(name: str, tmp_path: Path) -> None:
    """A policy may go by any of them."""
    path = tmp_path / "t.csv"
    path.write_text(FULL)
    workload = read_trace(path)
    others: list[dict[str, Any]] = [{}, {name: workload.columns[name][::-1]}, {name: None}]
    assert 3 == len({fingerprint(replace(workload, **other)) for other in others})
