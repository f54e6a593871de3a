import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balanceroute.errors import ConfigError, OutputError
from balanceroute.types import Workload
from balanceroute.workload import read_trace, write_trace
from balanceroute.workload.convert import SUFFIXES

tokens = st.integers(1, 100_000_000)
gaps = st.floats(0, 1e5, allow_nan=False)
clients = st.integers(0, 2**31 - 1)
hashes = st.integers(-(2**63), 2**63 - 1)
shares = st.floats(0, 1)
requests = st.lists(
    st.tuples(tokens, tokens, gaps, clients, st.booleans(), hashes, shares), min_size=1
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # examples overwrite their file
)
@given(rows=requests, suffix=st.sampled_from(SUFFIXES), has_arrivals=st.booleans())
def test_what_is_written_is_read_back(
    rows: list[tuple[int, int, float, int, bool, int, float]],
    suffix: str,
    has_arrivals: bool,
    tmp_path: Path,
) -> None:
    """Lengths, arrivals (to the last bit) and all else survive every form of file."""
    columns = map(np.array, zip(*rows, strict=True))
    prompts, outputs, waits, clients, are_known, hashes, shares = columns
    workload = Workload(
        name="x",
        prompt_tokens=prompts.astype(np.int32),
        output_tokens=outputs.astype(np.int32),
        arrival_s=np.cumsum(waits) - waits[0] if has_arrivals else None,
        client_ids=clients.astype(np.int32) if has_arrivals else None,
        max_tokens=np.where(are_known, outputs, 0).astype(np.int32) if has_arrivals else None,
        prompt_hashes=hashes.astype(np.int64) if has_arrivals else None,
        cached_tokens=(shares * (prompts - 1)).astype(np.int32) if has_arrivals else None,
    )
    path = tmp_path / f"t{suffix}"
    write_trace(workload, path)
    again = read_trace(path)
    assert list(workload.columns) == list(again.columns)
    assert len(workload.columns) == (7 if has_arrivals else 2)
    for name, values in workload.columns.items():
        assert np.array_equal(values, again.columns[name])
        assert values.dtype == again.columns[name].dtype


def small(num_requests: int = 3) -> Workload:
    lengths = np.arange(1, num_requests + 1, dtype=np.int32)
    arrival_s = np.arange(num_requests) / 4
    return Workload(name="s", prompt_tokens=lengths, output_tokens=lengths, arrival_s=arrival_s)


def test_the_text_is_the_documented_one(tmp_path: Path) -> None:
    """A header and plain numbers, so that other tools read it as well."""
    path = tmp_path / "t.csv"
    write_trace(small(), path)
    assert path.read_text() == "arrival_s,prompt_tokens,output_tokens\n0,1,1\n0.25,2,2\n0.5,3,3\n"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_workload_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    """No time stamp or name goes into the file."""
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write_trace(small(), first)
    write_trace(small(), second)
    assert first.read_bytes() == second.read_bytes()


def test_unknown_suffix(tmp_path: Path) -> None:
    """The name's ending chooses the form, so it must be known."""
    with pytest.raises(ConfigError, match=r"end it in \.csv, \.csv\.gz, \.csv\.zst or \.parquet"):
        write_trace(small(), tmp_path / "t.json")


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that is not there is an error in one line."""
    with pytest.raises(OutputError, match="could not be written"):
        write_trace(small(), tmp_path / "gone" / "t.csv")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(suffix: str, tmp_path: Path) -> None:
    """The operating system refuses bytes past a limit, as a full disk does."""
    resource = pytest.importorskip("resource", reason="limits of file size exist on POSIX only")
    path = tmp_path / f"t{suffix}"
    path.write_bytes(b"old")
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 10**8, 50_000).astype(np.int32)
    big = Workload(name="b", prompt_tokens=noise, output_tokens=noise[::-1].copy())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OutputError) as caught:
            write_trace(big, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [path] == list(Path(tmp_path).iterdir())
