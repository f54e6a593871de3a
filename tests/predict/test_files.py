"""Classifiers in files: what is read is what was written, or an error that says why not."""

from __future__ import annotations

import hashlib
import pickle
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from balanceroute.errors import ConfigError, ModelError, OutputError
from balanceroute.predict import Requests, load, make_classifier, save
from balanceroute.predict.exact_match import ExactMatch
from balanceroute.predict.files import HEADER, MAGIC, VERSION, StoredClassifier
from balanceroute.predict.survival import Survival
from tests.predict.lives import learn_whole, make_requests

HORIZONS = np.array([1, 7, 80, 2000])


def taught(classifier: Any, seed: int = 0) -> Any:
    """Teach a classifier something of everything that it tells apart."""
    rng = np.random.default_rng(seed)
    for _ in range(6):
        learn_whole(
            classifier,
            rng.integers(1, 900, 50),
            prompts=rng.integers(1, 4000, 50),
            clients=rng.integers(-1, 5, 50),
            hashes=rng.integers(0, 9, 50),
        )
        classifier.p_finish(asked(), 3)  # some tables are computed on the way
    return classifier


def asked() -> Requests:
    rng = np.random.default_rng(9)
    return make_requests(
        rng.integers(0, 900, 100),
        prompts=rng.integers(1, 4000, 100),
        clients=rng.integers(-1, 7, 100),
        hashes=rng.integers(0, 12, 100),
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "survival.model"
    save(taught(Survival()), path)
    return path


@pytest.mark.parametrize(
    "build",
    [
        lambda: taught(Survival(by="global", memory=77)),
        lambda: taught(Survival(max_classes=25)),
        lambda: taught(ExactMatch(max_prompts=5)),
        lambda: Survival(),
    ],
)
def test_a_loaded_classifier_is_the_one_that_was_saved(build: Any, tmp_path: Path) -> None:
    """Byte for byte the same answers, the same settings, and the same again after learning on."""
    path = tmp_path / "deep" / "model"
    path.parent.mkdir()
    saved = build()
    save(saved, path)
    loaded = load(path)
    assert saved.settings == loaded.settings
    for _ in range(2):
        expected, actual = (one.survival(asked(), HORIZONS) for one in (saved, loaded))
        np.testing.assert_array_equal(expected, actual)
        expected, actual = (one.mean_remaining(asked(), 80) for one in (saved, loaded))
        np.testing.assert_array_equal(expected, actual)
        for one in (saved, loaded):
            taught(one, seed=1)


def test_the_same_classifier_gives_the_same_file(tmp_path: Path) -> None:
    """Byte for byte."""
    save(taught(Survival()), tmp_path / "a")
    save(taught(Survival()), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nothing_but_the_file_is_left(model: Path) -> None:
    """It is written beside and renamed; writing over it leaves one file."""
    save(Survival(), model)
    assert [model] == list(model.parent.iterdir())
    assert "class" == load(model).settings["by"]


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.5, 0.999])
def test_a_file_that_was_cut_off(model: Path, part: float) -> None:
    """Wherever the cut is."""
    data = model.read_bytes()
    model.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ModelError, match=r"cut off|not a classifier's file"):
        load(model)


@pytest.mark.parametrize("place", [0, len(MAGIC), len(MAGIC) + 5, HEADER.size - 1, -1])
def test_a_file_with_one_byte_changed(model: Path, place: int) -> None:
    """In each part of the header, and behind it."""
    data = bytearray(model.read_bytes())
    data[place] ^= 1
    model.write_bytes(data)
    with pytest.raises(ModelError, match=f"{model.name}: .*; copy the file again, or save"):
        load(model)


@pytest.mark.parametrize(
    "data", [b"PK\x03\x04", pickle.dumps([1]), b"arrival_s,prompt_tokens\n" * 9, MAGIC[:-2] + b"X"]
)
def test_a_file_of_another_kind(tmp_path: Path, data: bytes) -> None:
    """What it begins with is shown."""
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="not a classifier's file: it begins with b"):
        load(path)


def test_another_version(model: Path) -> None:
    """The version found and the one that is read."""
    data = model.read_bytes()
    magic, _, length, digest = HEADER.unpack_from(data)
    model.write_bytes(HEADER.pack(magic, VERSION + 1, length, digest) + data[HEADER.size :])
    with pytest.raises(ModelError, match="format version 2, this release reads 1"):
        load(model)


def rewrite(path: Path, change: Any) -> None:
    """Change the document in a file and give it the right checksum."""
    document = msgspec.msgpack.decode(zlib.decompress(path.read_bytes()[HEADER.size :]))
    change(document)
    payload = zlib.compress(msgspec.msgpack.encode(document))
    digest = hashlib.sha256(payload).digest()
    path.write_bytes(HEADER.pack(MAGIC, VERSION, len(payload), digest) + payload)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(name="magic"), "classifier 'magic', this release has survival"),
        (lambda d: d.update(extra=1), "unknown field `extra`"),
        (lambda d: d.pop("arrays"), "missing required field `arrays`"),
        (lambda d: d["settings"].update(depth=3), "settings .* of another release"),
        (lambda d: d["settings"].update(memory=0), "memory must be at least 1, got 0"),
        (lambda d: d["settings"].update(max_classes=3), "allowed are 2..5"),
        (lambda d: d["arrays"].pop("node_key"), "has 0 classes"),
        (lambda d: d["arrays"].pop("hazards"), "column hazards must be float64 .* got nothing"),
        (lambda d: d["arrays"]["counts"].update(dtype="<O8"), "column counts is <O8"),
        (lambda d: d["arrays"]["counts"].update(shape=[7]), "does not have the shape"),
        (lambda d: d["arrays"]["node_parent"].update(data=bytes([0, 9] * 4) * rows(d)), "links"),
        (lambda d: d["arrays"]["node_shape"].update(data=bytes([0, 9] * 4) * rows(d)), "links"),
    ],
)
def test_a_file_that_holds_something_impossible(model: Path, change: Any, message: str) -> None:
    """Right checksum, wrong content: nothing gets as far as compiled code."""
    rewrite(model, change)
    with pytest.raises(ModelError, match=message):
        load(model)


def rows(document: dict[str, Any]) -> int:
    count: int = document["arrays"]["node_key"]["shape"][0]
    return count


def test_a_document_too_large_to_be_one(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decompression stops at a limit."""
    monkeypatch.setattr("balanceroute.predict.files.MAX_BYTES", 1000)
    with pytest.raises(ModelError, match="larger than the 1,000 bytes allowed"):
        load(model)


def test_there_is_no_file(tmp_path: Path) -> None:
    """The path and the reason."""
    with pytest.raises(ModelError, match=r"nowhere: cannot be read .No such file"):
        load(tmp_path / "nowhere")


def test_there_is_no_place_for_the_file(tmp_path: Path) -> None:
    """A file stands where a directory would be made; it stays as it was."""
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(OutputError, match=r"file.model: cannot write .* bytes: File exists"):
        save(Survival(), tmp_path / "file" / "model")
    assert b"kept" == (tmp_path / "file").read_bytes()


def test_an_oracle_is_not_saved(tmp_path: Path) -> None:
    """It knows one workload and has learnt nothing worth keeping."""
    oracle = make_classifier("oracle", output_tokens=np.array([5]))
    with pytest.raises(ConfigError, match="Oracle cannot be saved; survival, exact_match, learned"):
        save(oracle, tmp_path / "model")


def test_the_document_is_what_the_page_says(model: Path) -> None:
    """docs/predict.md describes version 1: name, settings, arrays with type, shape and bytes."""
    payload = zlib.decompress(model.read_bytes()[HEADER.size :])
    document = msgspec.msgpack.decode(payload, type=StoredClassifier)
    assert "survival" == document.name
    assert {"<i8", "<f8"} == {stored.dtype for stored in document.arrays.values()}
