from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.workload.refusals import message

PARQUET_BAD = {
    "negative": (
        {"prompt_tokens": [1, -1], "output_tokens": [1, 1]},
        " row 2: prompt_tokens is -1",
    ),
    "null": (
        {"prompt_tokens": [1, 1], "output_tokens": [1, None]},
        " row 2: output_tokens is null",
    ),
    "text": ({"prompt_tokens": ["a", "b"], "output_tokens": [1, 1]}, " rows 1 to 2: holds string"),
    "order": (
        {"arrival_s": [2.0, 1.0], "prompt_tokens": [1, 1], "output_tokens": [1, 1]},
        " row 2: arrival_s is 1.0, earlier than the row before",
    ),
    "limit": (
        {"prompt_tokens": [1, 1], "output_tokens": [2, 2], "max_tokens": [2, 1]},
        " row 2: max_tokens is 1, less than the row's 2 output tokens",
    ),
    "prompt hash": (
        {"prompt_tokens": [1, 1], "output_tokens": [2, 2], "prompt_hash": ["a", "b"]},
        " rows 1 to 2: holds string where whole numbers of 64 bits belong",
    ),
    "cached": (
        {"prompt_tokens": [9, 9], "output_tokens": [2, 2], "cached_tokens": [0, 9]},
        " row 2: cached_tokens is 9, not less than the row's 9 prompt tokens",
    ),
    "blocks": (
        {"timestamp": [0], "input_length": [9], "output_length": [2], "hash_ids": ["[1]"]},
        " rows 1 to 1: holds string where lists of whole numbers belong",
    ),
    "column": ({"input": [1], "output_tokens": [1]}, ": no column holds the prompt tokens"),
    "id twice": (
        {"id": ["x", "x"], "prompt_tokens": [1, 1], "output_tokens": [1, 1]},
        " row 2: id 'x' was used in row 1",
    ),
    "no rows": ({"prompt_tokens": [], "output_tokens": []}, ": no rows; give at least one"),
}


@pytest.mark.parametrize("case", PARQUET_BAD)
def test_bad_parquet_names_the_row(case: str, tmp_path: Path) -> None:
    """Parquet has no lines, so rows are counted."""
    columns, expected = PARQUET_BAD[case]
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table(columns), path)
    assert message(path).startswith(expected)


def test_cut_off_parquet(tmp_path: Path) -> None:
    """Parquet ends with its index; without it nothing can be read."""
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"prompt_tokens": [1], "output_tokens": [1]}), path)
    path.write_bytes(path.read_bytes()[:-10])
    assert message(path).startswith(": damaged or cut off Parquet")
