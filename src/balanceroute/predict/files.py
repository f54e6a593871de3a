"""Classifiers in files: one file each, versioned, with a checksum.

A file is a header of fixed length (`MAGIC`, format version, length and SHA-256 of what follows) and
a compressed MessagePack document: the classifier's name, its settings and its arrays as raw bytes
with type and shape. Nothing in it can be run, unlike a pickle, so a file from elsewhere is safe to
read.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError, ModelError
from balanceroute.files import write_atomically
from balanceroute.predict.base import Classifier
from balanceroute.predict.exact_match import ExactMatch
from balanceroute.predict.learned import Learned
from balanceroute.predict.survival import Survival
from balanceroute.predict.upkeep import Arrays

MAGIC = b"balanceroute-classifier\n"
VERSION = 1
HEADER = struct.Struct(f"<{len(MAGIC)}sIQ32s")
DTYPES = ("<i8", "<f8")
COMPRESSION = 6
MAX_BYTES = 1 << 30  # of a document, uncompressed; the largest default takes some 30 MB
CURE = "copy the file again, or save the classifier anew with this release"

SAVED = {"survival": Survival, "exact_match": ExactMatch, "learned": Learned}


class StoredArray(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An array as it lies in memory."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class StoredClassifier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The document."""

    name: str
    settings: dict[str, str | int | float]
    arrays: dict[str, StoredArray]


@runtime_checkable
class Saveable(Protocol):
    """A classifier whose settings and arrays are all that there is to it."""

    settings: dict[str, str | int]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that was learnt: int64 and float64 arrays."""
        ...

    def fill_from_arrays(self, arrays: Arrays) -> None:
        """Take over what `to_arrays` gave; `ModelError` if it does not fit."""
        ...


def save(classifier: Classifier, path: Path) -> None:
    """Write what a classifier has learnt to a file, whole or not at all.

    Parameters
    ----------
    classifier : Classifier
        A `Survival`, `ExactMatch` or `Learned`.
    path : Path
        A file that is there is replaced; a directory that is not is made.

    Raises
    ------
    ConfigError
        For another classifier: an oracle knows one workload and learns nothing.
    OutputError
        If it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "survival.model"
    >>> save(Survival(memory=1000), path)
    >>> load(path).settings
    {'by': 'class', 'memory': 1000, 'max_classes': 1024}
    """
    if not isinstance(classifier, Saveable) or type(classifier) not in SAVED.values():
        raise ConfigError(f"{type(classifier).__name__} cannot be saved; {', '.join(SAVED)} can")
    document = StoredClassifier(
        name=saved_name(classifier),
        settings=dict(classifier.settings),
        arrays={name: _stored(array) for name, array in classifier.to_arrays().items()},
    )
    payload = zlib.compress(msgspec.msgpack.encode(document), COMPRESSION)
    digest = hashlib.sha256(payload).digest()
    write_atomically(path, HEADER.pack(MAGIC, VERSION, len(payload), digest) + payload)


def saved_name(classifier: Saveable) -> str:
    """Return the name under which a classifier is saved."""
    return next(name for name, kind in SAVED.items() if type(classifier) is kind)


def load(path: Path) -> Survival | ExactMatch | Learned:
    """Read a classifier that `save` wrote; it answers as it did, and goes on learning.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Survival or ExactMatch or Learned
        What was saved.

    Raises
    ------
    ModelError
        If the file is not there, was cut off or changed, is of another kind or version, or holds
        something impossible.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    try:
        document = msgspec.msgpack.decode(_payload(data), type=StoredClassifier)
        return _restore(document)
    except (msgspec.MsgspecError, zlib.error, ModelError, ConfigError) as error:
        raise ModelError(f"{path}: {error}; {CURE}") from error


def _payload(data: bytes) -> bytes:
    """Return the document's bytes after checking all that surrounds them."""
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise ModelError(
            f"not a classifier's file: it begins with {data[:12]!r}, expected {MAGIC[:12]!r}"
        )
    if len(data) < HEADER.size:
        raise ModelError(f"cut off: {len(data)} bytes, the header alone has {HEADER.size}")
    _, version, length, digest = HEADER.unpack_from(data)
    if version != VERSION:
        raise ModelError(f"format version {version}, this release reads {VERSION}")
    payload = data[HEADER.size :]
    if len(payload) != length:
        raise ModelError(f"cut off or changed: {len(payload):,} bytes of {length:,}")
    if hashlib.sha256(payload).digest() != digest:
        raise ModelError("changed since it was written: the checksum differs")
    unpacker = zlib.decompressobj()
    document = unpacker.decompress(payload, MAX_BYTES)
    if not unpacker.eof:
        raise ModelError(f"larger than the {MAX_BYTES:,} bytes allowed")
    return document


def _restore(document: StoredClassifier) -> Survival | ExactMatch | Learned:
    if document.name not in SAVED:
        raise ModelError(f"classifier {document.name!r}, this release has {', '.join(SAVED)}")
    settings: dict[str, Any] = dict(document.settings)
    classifier: Survival | ExactMatch | Learned
    try:
        classifier = SAVED[document.name](**settings)
    except TypeError as error:
        raise ModelError(f"settings {settings} of another release: {error}") from error
    classifier.fill_from_arrays(
        {name: _array(name, stored) for name, stored in document.arrays.items()}
    )
    return classifier


def _stored(array: NDArray[Any]) -> StoredArray:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return StoredArray(dtype=little.dtype.str, shape=array.shape, data=little.tobytes())


def _array(name: str, stored: StoredArray) -> NDArray[Any]:
    if stored.dtype not in DTYPES or min(stored.shape, default=0) < 0:
        raise ModelError(f"column {name} is {stored.dtype} of shape {stored.shape}")
    try:
        flat = np.frombuffer(stored.data, stored.dtype)
        array: NDArray[Any] = flat.reshape(stored.shape).astype(flat.dtype.newbyteorder("="))
    except ValueError as error:
        raise ModelError(f"column {name} does not have the shape {stored.shape}") from error
    return array
