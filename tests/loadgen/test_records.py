"""Records survive their file."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from balanceroute.errors import ConfigError
from balanceroute.loadgen import load_records, save_records
from balanceroute.types import LoadSamples
from tests.loadgen.servers import FakeServer, measure, requests


def test_records_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    """Every array with its type, and every setting."""
    run = measure(FakeServer(), requests([1, 2, 3]), label="a run", seed=4).records
    samples = LoadSamples(time_s=np.array([0.5]), load_tokens=np.array([[1, 2]]))
    run = replace(run, samples=samples, decision_ns=np.array([7]))
    save_records(run, tmp_path / "records.npz")
    read = load_records(tmp_path / "records.npz")
    for name in ("policy", "seed", "num_ranks", "binding", "window_s", "wall_s"):
        assert getattr(run, name) == getattr(read, name)
    np.testing.assert_array_equal(run.decision_ns, read.decision_ns)
    for part in ("steps", "requests", "samples"):
        before, after = getattr(run, part), getattr(read, part)
        for field in fields(before):
            expected, actual = getattr(before, field.name), getattr(after, field.name)
            assert expected.dtype == actual.dtype
            np.testing.assert_array_equal(expected, actual)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 not really"])
def test_what_are_no_records_is_bad_input(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty and damaged files."""
    path = tmp_path / "records.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="not records of a run"):
        load_records(path)


def test_another_archive_is_bad_input(tmp_path: Path) -> None:
    """Arrays of something else."""
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ConfigError, match="not records of a run"):
        load_records(tmp_path / "other.npz")


def test_damaged_records_are_bad_input(tmp_path: Path) -> None:
    """Cut off anywhere, or with a byte changed: one error, or all that was written."""
    run = measure(FakeServer(), requests([1, 2]), label="a run").records
    path = tmp_path / "records.npz"
    save_records(run, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    num_refused = 0
    for place in rng.integers(0, len(whole), 60).tolist():
        changed = bytes((*whole[:place], whole[place] ^ 0xFF, *whole[place + 1 :]))
        for content in (whole[:place], changed):
            path.write_bytes(content)
            try:
                load_records(path)
            except ConfigError:
                num_refused += 1
            else:
                assert content == changed
    assert num_refused > 60


def test_records_of_another_version_or_of_unequal_columns_are_bad_input(tmp_path: Path) -> None:
    """Neither is read as if it were this version's."""
    run = measure(FakeServer(), requests([1, 2]), label="a run").records
    path = tmp_path / "records.npz"
    save_records(run, path)
    with np.load(path) as archive:
        arrays = dict(archive)
    header = arrays["header"].tobytes().replace(b"records.v1", b"records.v2")
    np.savez(path, **arrays | {"header": np.frombuffer(header, np.uint8)})
    with pytest.raises(ConfigError, match=r"balanceroute\.records\.v2"):
        load_records(path)
    np.savez(path, **arrays | {"requests.rank": np.zeros(3, np.int32)})
    with pytest.raises(ConfigError, match=r"columns of requests have lengths \[2, 3\]"):
        load_records(path)
