import gzip
import os
from pathlib import Path

import pyarrow as pa
import pytest

from tests.workload.refusals import message

HEAD = "arrival_s,prompt_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
JSON = '{"timestamp": 1, "input_tokens": 2, "output_tokens": 3}\n'
JSON_2 = '{"timestamp": 2, "input_tokens": %s, "output_tokens": 3}\n'
MOONCAKE = '{"timestamp": 0, "input_length": 9, "output_length": 3, "hash_ids": %s}\n'
IDS = "request_id,prompt_tokens,output_tokens\n"

BAD = {
    # name: text, what the message says after the file's name
    "empty": ("", " is empty; give a file with a header"),
    "only comments": ("# a\n\n# b\n", ": only blank lines and comments"),
    "no rows": (HEAD, ": a header but no rows"),
    "nothing left": (HEAD + "0,1,0\n", ": none of its 1 rows has both"),
    "no header": (
        "0,374,44\n1,396,109\n",
        " line 1: values ('0,374,44') where column names belong",
    ),
    "misspelt column": (
        "arrival_s,promt_tokens,output_tokens\n",
        " line 1: no column holds the prompt tokens (columns: 'arrival_s', 'promt_tokens', "
        "'output_tokens'); rename 'promt_tokens' to 'prompt_tokens'",
    ),
    "missing column": (
        "#\narrival_s,prompt_tokens\n",
        " line 2: no column holds the output tokens (columns: 'arrival_s', 'prompt_tokens'); "
        "name it 'output_tokens'",
    ),
    "column twice": (
        "prompt_tokens,prompt_tokens,output_tokens\n",
        " line 1: column 'prompt_tokens' appears twice",
    ),
    "negative tokens": (HEAD + "0,1,2\n1,-3,4\n", " line 3: prompt_tokens is '-3', negative; "),
    "NaN tokens": (HEAD + "0,1,NaN\n", " line 2: output_tokens is 'NaN', missing or not a number"),
    "no tokens": (HEAD + "0,1,\n", " line 2: output_tokens is '', missing or not a number"),
    "infinite tokens": (HEAD + "0,inf,1\n", " line 2: prompt_tokens is 'inf', too large; "),
    "huge tokens": (
        HEAD + "0,100000001,1\n",
        " line 2: prompt_tokens is '100000001', too large; allowed are 0 to 100,000,000",
    ),
    "half a token": (HEAD + "0,1,1.5\n", " line 2: output_tokens is '1.5', not a whole number"),
    "tokens in words": (
        HEAD + "0,1,2\n\n1,two,2\n",
        " line 4: prompt_tokens is 'two', not a number",
    ),
    "negative arrival": (HEAD + "-1,1,1\n", " line 2: arrival_s is '-1', negative; "),
    "NaN arrival": (HEAD + "0,1,1\nnan,1,1\n", " line 3: arrival_s is 'nan', missing or not a"),
    "infinite arrival": (HEAD + "inf,1,1\n", " line 2: arrival_s is 'inf', over 1e+11 seconds"),
    "microseconds": (
        HEAD + "1715299200009930,1,1\n",
        " line 2: arrival_s is '1715299200009930', over 1e+11 seconds; allowed are seconds from 0; "
        "call a column of milliseconds timestamp_ms",
    ),
    "decades apart": (HEAD + "0,1,1\n1e9,1,1\n", " line 3: arrival_s is '1e9', over ten years"),
    "out of order": (
        HEAD + "0,1,1\n5,1,1\n4,1,1\n",
        " line 4: arrival_s is '4', earlier than the row before; "
        "run `balanceroute trace convert --sort ",
    ),
    "dates out of order": (
        AZURE + "2024-05-10 00:00:01+00:00,1,1\n2024-05-10 00:00:00.9+00:00,1,1\n",
        " line 3: TIMESTAMP is '2024-05-10 00:00:00.9+00:00', earlier than the row before",
    ),
    "not a date": (
        AZURE + "2024-05-10 00:00:01,1,1\nyesterday,1,1\n",
        " line 3: TIMESTAMP is 'yesterday', not a date and time like 2024-05-10 00:00:00.5;",
    ),
    "zone missing": (
        AZURE + "2024-05-10 00:00:01+00:00,1,1\n2024-05-10 00:00:02,1,1\n",
        " line 3: TIMESTAMP is '2024-05-10 00:00:02', not a date and time like "
        "2024-05-10 00:00:00.5+00:00",
    ),
    "no date at all": (AZURE + "soon,1,1\n", " line 2: TIMESTAMP is 'soon', not a number"),
    "too few fields": (HEAD + "0,1,1\n1,2\n", " line 3: 2 fields instead of 3: '1,2'"),
    "too many fields": (HEAD + "0,1,1,9\n", " line 2: 4 fields instead of 3: '0,1,1,9'"),
    "joined files": (HEAD + "0,1,1\n" + HEAD + "0,1,1\n", " line 3: the header again"),
    "JSON in CSV": (HEAD + "0,1,1\n" + JSON, " line 3: a JSON object among CSV rows"),
    "open quote": (HEAD + '0,1,"1\n1,1,1\n', " line 2: not a CSV row (unexpected end of data)"),
    "first fault wins": (HEAD + "0,1,-1\n1,x,1\n", " line 2: output_tokens is '-1', negative"),
    "client name": (
        "prompt_tokens,output_tokens,client\n1,1,acme\n",
        " line 2: client is 'acme', not a number",
    ),
    "client number": (
        "prompt_tokens,output_tokens,client\n1,1,-7\n",
        " line 2: client is '-7', not a client number; number the clients",
    ),
    "limit below output": (
        "prompt_tokens,output_tokens,max_tokens\n1,9,9\n1,9,8\n",
        " line 3: max_tokens is '8', less than the row's 9 output tokens; correct the row, or",
    ),
    "limit negative": (
        "prompt_tokens,output_tokens,max_new_tokens\n1,9,-1\n",
        " line 2: max_new_tokens is '-1', negative; allowed are 0 to",
    ),
    "limit in words": (
        "prompt_tokens,output_tokens,max_tokens\n1,9,none\n",
        " line 2: max_tokens is 'none', not a number",
    ),
    "prompt name": (
        "prompt_tokens,output_tokens,prompt_id\n1,1,\n1,1,p7\n",
        " line 3: prompt_id is 'p7', not a whole number of 64 bits; correct the line",
    ),
    "prompt hash too large": (
        f"prompt_tokens,output_tokens,prompt_hash\n1,1,{2**63}\n",
        f" line 2: prompt_hash is '{2**63}', not a whole number of 64 bits",
    ),
    "JSON prompt hash": (
        '{"input_tokens": 1, "output_tokens": 2, "prompt_hash": 3.5}\n',
        " line 1: prompt_hash is 3.5, not a whole number of 64 bits",
    ),
    "all cached": (
        "prompt_tokens,output_tokens,cached_tokens\n9,9,8\n9,9,9\n",
        " line 3: cached_tokens is '9', not less than the row's 9 prompt tokens; at least one",
    ),
    "cached negative": (
        "prompt_tokens,output_tokens,cached_tokens\n9,9,-1\n",
        " line 2: cached_tokens is '-1', negative; allowed are 0 to",
    ),
    "cached in parts": (
        '{"input_tokens": 9, "output_tokens": 2, "cached_tokens": 3.5}\n',
        " line 1: cached_tokens is 3.5, not a whole number",
    ),
    "block names": (
        MOONCAKE % '["a"]',
        " line 1: hash_ids is ['a'], not a list of whole numbers of 64 bits; correct the line",
    ),
    "block too large": (MOONCAKE % f"[{2**63}]", f" line 1: hash_ids is [{2**63}], not a list of"),
    "one block": (MOONCAKE % "7", " line 1: hash_ids is 7, not a list of whole numbers"),
    "id twice": (
        IDS + "a,1,1\n\nb,1,1\na,1,1\n",
        " line 5: request_id 'a' was used in line 2; take one of the lines out",
    ),
    "JSON array": ('[{"prompt_tokens": 1}]\n', " line 1: a JSON array; write one object a line"),
    "JSON over lines": ('{\n"prompt_tokens": 1}\n', " line 1: not a JSON object: '{'; write one"),
    "conversations": ('{"requests": []}\n', " line 1: one conversation a line"),
    "CSV in JSON": (JSON + "2,3,4\n", " line 2: not a JSON object: '2,3,4'"),
    "JSON text": (JSON + JSON_2 % '"two"', " line 2: input_tokens is 'two', not a number"),
    "JSON digits in quotes": (JSON + JSON_2 % '"2"', " line 2: input_tokens is '2', not a number"),
    "JSON null": (JSON + JSON_2 % "null", " line 2: input_tokens is null, missing or not a"),
    "JSON NaN": (JSON + JSON_2 % "NaN", " line 2: input_tokens is nan, missing or not a"),
    "JSON true": (JSON + JSON_2 % "true", " line 2: input_tokens is True, not a number"),
    "JSON key gone": (JSON + '{"timestamp": 3}\n', " line 2: input_tokens is null, missing or"),
    "JSON cut off": (JSON + JSON[:30], " line 2: not a JSON object: "),
    "JSON id twice": (
        '{"id": 7, "input_tokens": 1, "output_tokens": 1}\n' * 2,
        " line 2: id 7 was used in line 1",
    ),
    "no text": ("a\0b\n", ": holds binary data"),
    "UTF-16": (HEAD.encode("utf-16").decode("latin-1"), ": holds binary data"),
    "xz": ("\xfd7zXZ\0", " is compressed with xz; use plain text, gzip or zstd"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_text_is_one_line_with_line_number_and_cure(case: str, tmp_path: Path) -> None:
    """Each fault is named once, at its line of the text, with what to do about it."""
    text, expected = BAD[case]
    path = tmp_path / "bad.csv"
    path.write_bytes(text.encode("latin-1"))
    assert message(path).startswith(expected)


@pytest.mark.parametrize("case", ["out of order", "tokens in words", "negative tokens", "id twice"])
def test_line_numbers_hold_across_blocks_and_compression(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line keeps its number where blocks are tiny and the file is compressed."""
    monkeypatch.setattr("balanceroute.workload.text.BLOCK_BYTES", 11)
    text, expected = BAD[case]
    path = tmp_path / "bad.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert message(path).startswith(expected)


def test_a_fault_deep_in_a_file_is_found(tmp_path: Path) -> None:
    """Bisection and rules name the first of two bad lines among many good ones."""
    rows = [f"{k},{k + 1},1\n" for k in range(50_000)]
    rows[40_000] = "40000,x,1\n"
    rows[45_000] = "44000,1,1\n"
    path = tmp_path / "t.csv"
    path.write_text(HEAD + "".join(rows))
    assert message(path).startswith(" line 40002: prompt_tokens is 'x', not a number")
    rows[40_000] = "40000,1,1\n"
    path.write_text(HEAD + "".join(rows))
    assert message(path).startswith(" line 45002: arrival_s is '44000', earlier than the row")


def test_missing_directory_and_unreadable(tmp_path: Path) -> None:
    """What cannot be opened is said without a traceback."""
    assert message(tmp_path) == " is a directory; name one trace file in it"
    assert message(tmp_path / "gone.csv") == ": no such file; check the path"
    os.mkfifo(tmp_path / "pipe")
    assert message(tmp_path / "pipe") == " is not a regular file; save its content to one"
    locked = tmp_path / "locked.csv"
    locked.write_text(HEAD)
    locked.chmod(0)
    if not os.access(locked, os.R_OK):  # root reads everything
        assert message(locked).startswith(": cannot be read (Permission denied)")


@pytest.mark.parametrize("keep_ratio", [0.5, 0.9])
def test_cut_off_compression(keep_ratio: float, tmp_path: Path) -> None:
    """A truncated gzip or zstd file is not taken for a short trace."""
    text = (
        HEAD + "".join(f"{k},{k * 7919 % 1000 + 1},{k % 97 + 1}\n" for k in range(5_000))
    ).encode()
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(text)
    for data in (gzip.compress(text), bytes(sink.getvalue().to_pybytes())):
        path = tmp_path / "cut"
        path.write_bytes(data[: int(len(data) * keep_ratio)])
        assert "damaged or cut off" in message(path)


def test_damaged_gzip(tmp_path: Path) -> None:
    """Flipped bytes are found by gzip's checksum."""
    data = bytearray(gzip.compress((HEAD + "0,1,1\n" * 999).encode()))
    data[-6] ^= 0xFF
    path = tmp_path / "bad.gz"
    path.write_bytes(data)
    assert "damaged or cut off" in message(path)


def test_long_lines_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without line ends must not fill the memory."""
    monkeypatch.setattr("balanceroute.workload.text.MAX_LINE_BYTES", 100)
    monkeypatch.setattr("balanceroute.workload.text.BLOCK_BYTES", 64)
    path = tmp_path / "t.csv"
    path.write_text("x" * 1000)
    assert " line 1: longer than 64 MiB" in message(path)
