import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from balanceroute.errors import ConfigError, TraceError
from balanceroute.workload import draw, fingerprint, load, read_trace

AZURE_2023 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 18:15:46.6805900,374,44\r\n"
    "2023-11-16 18:15:50.9951690,396,109\r\n"
    "2023-11-16 18:15:51,879,55"
)
AZURE_2024 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2024-05-10 00:00:00.009930+00:00,2162,5\n"
    "2024-05-10 00:00:01+00:00,2399,6\n"
)
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45,ChatGPT,1087,0,1087,Conversation log\n"
    "118,GPT-4,417,276,693,Conversation log\n"
)
BURSTGPT_SESSIONS = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "19440110.0,1722ac82-0a46,43,GPT-4,906,446,1352,Conversation log\n"
    "19440161.5,,2,ChatGPT,36,29,65,API log\n"
)
MOONCAKE = (
    '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n'
    '{"timestamp": 0, "input_length": 7322, "output_length": 490, "hash_ids": [0, 14]}\n'
    '{"timestamp": 3000, "input_length": 12, "output_length": 4, "hash_ids": [2]}\n'
    '{"timestamp": 6001, "input_length": 13, "output_length": 5, "hash_ids": []}\n'
)
BAILIAN = (
    '{"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.5, "input_length": 521, '
    '"output_length": 132, "type": "text", "turn": 1, "hash_ids": [1089]}\n'
    '{"chat_id": 160, "parent_chat_id": 159, "timestamp": 62.5, "input_length": 400, '
    '"output_length": 80, "type": "text", "turn": 2, "hash_ids": [1089]}\n'
)
SERVEGEN = "arrival_s,prompt_tokens,output_tokens,client\n0,439,482,37\n0.000012,222,763,23\n"
LENGTHS = "# a comment\n# another\n\nprompt_tokens,output_tokens\n3772,54\n\n2015,156\n"
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,10,20\n2.5,30,40\n"
QUOTED = '"Prompt-Tokens","output tokens","text"\n"12","3","a ""b"", c"\n4.0,1e1,\n'
ISO_JSON = (
    '{"timestamp": "2024-05-10T00:00:00Z", "input_tokens": 5, "output_tokens": 6, "note": "a"}\n'
    '{"timestamp": "2024-05-10T00:00:02.5Z", "input_tokens": 7, "output_tokens": 8}\n'
)

GOOD: dict[str, tuple[str, list[int], list[int], list[float] | None]] = {
    # name: text, prompts, outputs, arrivals
    "azure 2023": (AZURE_2023, [374, 396, 879], [44, 109, 55], [0.0, 4.314579, 4.31941]),
    "azure 2024": (AZURE_2024, [2162, 2399], [5, 6], [0.0, 0.99007]),
    "burstgpt": (BURSTGPT, [472, 417], [18, 276], [0.0, 113.0]),
    "burstgpt sessions": (BURSTGPT_SESSIONS, [906, 36], [446, 29], [0.0, 51.5]),
    "mooncake": (MOONCAKE, [6758, 7322, 12, 13], [500, 490, 4, 5], [0.0, 1.5, 3.0, 6.001]),
    "bailian": (BAILIAN, [521, 400], [132, 80], [0.0, 1.0]),
    "servegen": (SERVEGEN, [439, 222], [482, 763], [0.0, 0.000012]),
    "lengths": (LENGTHS, [3772, 2015], [54, 156], None),
    "vidur": (VIDUR, [10, 30], [20, 40], [0.0, 1.0]),
    "quoted": (QUOTED, [12, 4], [3, 10], None),
    "dates in JSON": (ISO_JSON, [5, 7], [6, 8], [0.0, 2.5]),
    "byte order mark": ("\ufeff" + SERVEGEN, [439, 222], [482, 763], [0.0, 0.000012]),
}


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("case", GOOD)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd], ids=["plain", "gzip", "zstd"])
def test_every_format_is_detected_from_content(
    case: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    """A file's name plays no part: format and compression are told from the bytes."""
    text, prompts, outputs, arrivals = GOOD[case]
    path = tmp_path / "trace.dat"
    path.write_bytes(compress(text.encode()))

    workload = read_trace(path)

    assert prompts == workload.prompt_tokens.tolist()
    assert outputs == workload.output_tokens.tolist()
    if arrivals is None:
        assert workload.arrival_s is None
    else:
        assert arrivals == pytest.approx(workload.arrival_s, abs=1e-9)
    assert workload.prompt_tokens.dtype == np.int32
    assert workload.name == "trace.dat"


def test_clients_are_read(tmp_path: Path) -> None:
    """A client column becomes the requests' tenants."""
    path = tmp_path / "t.csv"
    path.write_text(SERVEGEN)
    clients = read_trace(path).client_ids
    assert clients is not None
    assert clients.tolist() == [37, 23]


def test_rows_without_tokens_are_left_out_and_counted(tmp_path: Path) -> None:
    """BurstGPT's failures have no output; the rule for such rows is to drop and count them."""
    path = tmp_path / "t.csv"
    path.write_text(
        "arrival_s,prompt_tokens,output_tokens\n1,0,5\n2,3,0\n3,4,5\n4,6,0\n5,0,0\n7,8,9\n"
    )
    workload = read_trace(path)
    assert workload.prompt_tokens.tolist() == [4, 8]
    assert np.asarray(workload.arrival_s).tolist() == [0.0, 4.0]  # from the first row kept
    assert workload.notes == (
        "3 rows without output tokens left out.",
        "1 row without prompt tokens left out.",
    )


def test_mooncake_says_that_it_spread_the_ticks(tmp_path: Path) -> None:
    """Replaying 3 s ticks as they stand would make every tick a burst."""
    path = tmp_path / "t.jsonl"
    path.write_text(MOONCAKE)
    (note,) = read_trace(path).notes
    assert note.startswith("Timestamps are rounded to ticks of 3.0005 s")


def test_a_format_can_be_forced(tmp_path: Path) -> None:
    """Without hash_ids a Mooncake-like file would be read in seconds."""
    path = tmp_path / "t.jsonl"
    path.write_text(MOONCAKE.replace("hash_ids", "blocks"))
    assert np.asarray(read_trace(path).arrival_s)[-1] == 6001.0
    assert np.asarray(read_trace(path, format_name="mooncake").arrival_s)[-1] == 6.001


def test_sorting_is_stable_and_noted(tmp_path: Path) -> None:
    """With sort=True rows may come in any order; equal times keep theirs."""
    path = tmp_path / "t.csv"
    path.write_text(
        "arrival_s,prompt_tokens,output_tokens,client,max_tokens,prompt_hash\n"
        "5,1,1,1,10,100\n3,2,2,2,20,200\n5,3,3,3,30,300\n"
    )
    workload = read_trace(path, sort=True)
    assert np.asarray(workload.max_tokens).tolist() == [20, 10, 30]
    assert np.asarray(workload.prompt_hashes).tolist() == [200, 100, 300]
    assert workload.prompt_tokens.tolist() == [2, 1, 3]
    assert np.asarray(workload.client_ids).tolist() == [2, 1, 3]
    assert np.asarray(workload.arrival_s).tolist() == [0.0, 2.0, 2.0]
    assert workload.notes == ("Rows were sorted by arrival.",)


def test_blocks_join_seamlessly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that straddle blocks are read once, and progress ends at 1."""
    monkeypatch.setattr("balanceroute.workload.text.BLOCK_BYTES", 37)
    rows = [f"{k / 8},{k + 1},{2 * k + 1}\n" for k in range(200)]
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(rows))
    parts: list[float] = []

    workload = read_trace(path, on_progress=parts.append)

    assert list(range(1, 201)) == workload.prompt_tokens.tolist()
    assert [k / 8 for k in range(200)] == np.asarray(workload.arrival_s).tolist()
    assert sorted(parts) == parts
    assert parts[-1] == 1.0


@pytest.mark.parametrize("kind", ["seconds", "timestamp", "zoned timestamp", "text"])
def test_parquet(kind: str, tmp_path: Path) -> None:
    """Arrivals in Parquet may be numbers, timestamps or text."""
    arrivals = {
        "seconds": pa.array([10.0, 12.5]),
        "timestamp": pa.array([10_000_000, 12_500_000], pa.timestamp("us")),
        "zoned timestamp": pa.array([10_000, 12_500], pa.timestamp("ms", "UTC")),
        "text": pa.array(["2024-05-10 00:00:10", "2024-05-10 00:00:12.5"]),
    }
    table = pa.table(
        {"timestamp": arrivals[kind], "input_tokens": [5, 6], "output_tokens": pa.array([7.0, 8.0])}
    )
    path = tmp_path / "t"
    parquet.write_table(table, path)
    workload = read_trace(path)
    assert np.asarray(workload.arrival_s).tolist() == [0.0, 2.5]
    assert workload.prompt_tokens.tolist() == [5, 6]
    assert workload.output_tokens.tolist() == [7, 8]


def test_load_takes_the_head_or_draws(tmp_path: Path) -> None:
    """Fewer requests than the file has are its first; more are drawn whole, with replacement."""
    path = tmp_path / "t.csv"
    path.write_text(VIDUR)
    assert load(str(path), num_requests=1).prompt_tokens.tolist() == [10]
    drawn = load(str(path), num_requests=50, seed=3)
    pairs = set(zip(drawn.prompt_tokens.tolist(), drawn.output_tokens.tolist(), strict=True))
    assert {(10, 20), (30, 40)} == pairs
    assert drawn.arrival_s is None
    assert drawn.notes[-1] == "50 requests drawn with replacement with seed 3."


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    """Draws depend on the seed and nothing else."""
    path = tmp_path / "t.csv"
    path.write_text(SERVEGEN)
    workload = read_trace(path)
    first, again, other = (draw(workload, num_requests=99, seed=s) for s in (1, 1, 2))
    assert fingerprint(first) == fingerprint(again)
    assert fingerprint(first) != fingerprint(other)
    assert np.array_equal(np.asarray(first.client_ids) == 37, first.prompt_tokens == 439)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("azure-2024-con", "did you mean 'azure-2024-conv'?"),
        ("no/such/folder/x.csv", "`balanceroute trace list`"),
    ],
)
def test_unknown_sources_are_errors_with_a_hint(source: str, hint: str) -> None:
    """Neither a preset nor a file."""
    with pytest.raises(ConfigError) as caught:
        load(source)
    assert hint in str(caught.value)


def test_a_misspelt_file_is_suggested(tmp_path: Path) -> None:
    """The nearest file of the same folder is named."""
    (tmp_path / "conv.csv").write_text(VIDUR)
    with pytest.raises(ConfigError, match=r"did you mean '.*/conv\.csv'"):
        load(str(tmp_path / "cnov.csv"))


def test_unknown_format_lists_the_known(tmp_path: Path) -> None:
    """--format has a closed set of values."""
    path = tmp_path / "t.csv"
    path.write_text(VIDUR)
    with pytest.raises(ConfigError, match="known are azure, burstgpt, bailian, mooncake, generic"):
        read_trace(path, format_name="azzure")


def test_request_numbers_are_checked() -> None:
    """Zero requests or a negative seed are settings, not traces."""
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        load("br-azure", num_requests=0)
    with pytest.raises(ConfigError, match="seed must be at least 0, got -1"):
        load("br-azure", seed=-1)


SHARED = Path(__file__).parents[2].parent / "shared" / "traces"


@pytest.mark.skipif(not SHARED.is_dir(), reason="real traces are in ../shared/traces only")
def test_mooncake_original_matches_its_csv() -> None:
    """The JSONL original and the CSV made from it hold the same requests, within a tick."""
    original = read_trace(SHARED / "mooncake_conversation.jsonl.gz")
    table = read_trace(SHARED / "mooncake_conversation.csv.gz")
    assert np.array_equal(original.prompt_tokens, table.prompt_tokens)
    assert np.array_equal(original.output_tokens, table.output_tokens)
    late_s = np.asarray(original.arrival_s) - np.asarray(table.arrival_s)
    assert late_s.min() >= 0
    assert late_s.max() < 3.003  # the longest distance of two ticks that is no silence


@pytest.mark.skipif(not SHARED.is_dir(), reason="real traces are in ../shared/traces only")
def test_conversations_are_refused_with_a_reason() -> None:
    """Closed-loop conversations cannot be replayed as independent requests."""
    with pytest.raises(TraceError, match="one conversation a line"):
        read_trace(SHARED / "coding_conversations.jsonl.gz")


def test_tokens_up_to_the_limit_are_exact(tmp_path: Path) -> None:
    """float64 on the way loses no token."""
    path = tmp_path / "t.csv"
    path.write_text(f"prompt_tokens,output_tokens\n{10**8},99999999\n")
    workload = read_trace(path)
    assert workload.prompt_tokens[0] == 10**8
    assert workload.output_tokens[0] == 99_999_999
