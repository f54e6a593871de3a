"""What Envoy says in external processing, as far as a picker needs it, by the numbers on the wire.

The messages are those of ``envoy.service.ext_proc.v3`` and the types that it uses. Several come
with every request, so they are read field by field, and no objects are made; what is not here is
skipped.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from balanceroute.live.rpc.protobuf import BadMessage, read_varint, scan

MAX_DEPTH = 16
MAX_KEPT_BYTES = 1024  # of metadata that are expected to come again
Json = None | bool | float | str | list["Json"] | dict[str, "Json"]


class BodyMode(IntEnum):
    """How Envoy sends bodies (``ProcessingMode.BodySendMode``)."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    FULL_DUPLEX_STREAMED = 4


class Part(IntEnum):
    """What a message is about, by its number in ``ProcessingResponse``."""

    REQUEST_HEADERS = 1
    RESPONSE_HEADERS = 2
    REQUEST_BODY = 3
    RESPONSE_BODY = 4
    REQUEST_TRAILERS = 5
    RESPONSE_TRAILERS = 6


# Numbers in ``ProcessingRequest``, where each part's is one more than in the answer.
FIRST_PART, LAST_PART = Part.REQUEST_HEADERS + 1, Part.RESPONSE_TRAILERS + 1
METADATA, OBSERVABILITY, MODES = 8, 10, 11
HEADER_KEY = 0x0A  # of an entry among headers: field 1, with a length


class Asked(NamedTuple):
    """What Envoy says.

    Attributes
    ----------
    part : int
        A `Part`.
    content, metadata : bytes
        Of the part, and what goes with it; unread.
    modes : bytes
        How Envoy sends bodies, in its first message; unread.
    is_observed : bool
        Whether no answer is expected.
    """

    part: int
    content: bytes
    metadata: bytes
    modes: bytes
    is_observed: bool


def read_asked(message: bytes) -> Asked:
    r"""Return what Envoy says.

    Raises
    ------
    BadMessage
        If it is nothing that is known here.

    Examples
    --------
    >>> read_asked(b'"\x03\x0a\x01a')
    Asked(part=3, content=b'\n\x01a', metadata=b'', modes=b'', is_observed=False)
    """
    part, content, metadata, modes, is_observed = 0, b"", b"", b"", False
    for number, _, value in scan(message):
        if FIRST_PART <= number <= LAST_PART:
            part, content = number - 1, _bytes(value)
        elif number == METADATA:
            metadata = _bytes(value)
        elif number == MODES:
            modes = _bytes(value)
        elif number == OBSERVABILITY:
            is_observed = value != 0
    if part == 0:
        raise BadMessage("it has neither headers nor a body nor trailers")
    return Asked(part, content, metadata, modes, is_observed)


@lru_cache(maxsize=64)
def read_modes(content: bytes) -> tuple[int, int]:
    """Return how Envoy sends the bodies of requests and of answers, each a `BodyMode`."""
    modes = {number: value for number, _, value in scan(content) if isinstance(value, int)}
    return modes.get(1, BodyMode.NONE), modes.get(2, BodyMode.NONE)


def read_body(content: bytes) -> tuple[bytes, bool]:
    r"""Return a piece of a body, and whether it is the last.

    Examples
    --------
    >>> read_body(b"\x0a\x01a\x10\x01")
    (b'a', True)
    """
    body, is_end = b"", False
    for number, _, value in scan(content):
        if number == 1:
            body = _bytes(value)
        elif number == 2:
            is_end = value != 0
    return body, is_end


def read_headers(content: bytes) -> tuple[dict[str, str], bool]:
    """Return headers by their names, which Envoy has made lower case, and whether that is all.

    Of several of one name the last is returned.

    Raises
    ------
    BadMessage
        If they are no headers.
    """
    headers: dict[str, str] = {}
    is_end = False
    for number, _, value in scan(content):
        if number == 1:
            _add_headers(headers, _bytes(value))
        elif number == 3:
            is_end = value != 0
    return headers, is_end


def _add_headers(headers: dict[str, str], entries: bytes) -> None:
    """Add what a ``HeaderMap`` holds."""
    text = entries.decode("latin-1")  # of which a character is a byte
    at, end = 0, len(entries)
    while at < end:
        # As Envoy writes nearly all of them: a short name as field 1, a short value as field 3.
        if at + 4 < end and entries[at] == entries[at + 2] == 0x0A and entries[at + 1] < 0x80:
            after, value = at + 2 + entries[at + 1], at + 4 + entries[at + 3]
            is_usual = value + 2 <= after <= end and entries[value] == 0x1A
            if is_usual and value + 2 + entries[value + 1] == after:
                headers[text[at + 4 : value]] = text[value + 2 : after]
                at = after
                continue
        key, at = read_varint(entries, at)
        size, at = read_varint(entries, at)
        if key != HEADER_KEY or at + size > end:
            raise BadMessage("its headers are cut off")
        name, its_value = _header(entries[at : at + size])
        headers[name.decode("latin-1")] = its_value.decode("latin-1")
        at += size


def _header(entry: bytes) -> tuple[bytes, bytes]:
    """Return name and value of a header."""
    name = value = b""
    for number, _, part in scan(entry):
        if number == 1:
            name = _bytes(part)
        elif number in (2, 3):  # as text, or as it came
            value = _bytes(part) or value
    return name, value


def read_metadata(raw: bytes, namespace: str, key: str) -> Json:
    """Return an entry of filter metadata, for reading only; None if there is none."""
    read = _kept_metadata if len(raw) <= MAX_KEPT_BYTES else _metadata
    return read(raw, namespace, key)


def _metadata(raw: bytes, namespace: str, key: str) -> Json:
    wanted = namespace.encode()
    for number, _, entry in scan(raw):
        parts = {part: _bytes(value) for part, _, value in scan(_bytes(entry))}
        if number == 1 and parts.get(1) == wanted:
            return _struct(parts.get(2, b""), 0).get(key)
    return None


_kept_metadata = lru_cache(maxsize=1024)(_metadata)


def _struct(raw: bytes, depth: int) -> dict[str, Json]:
    """Return what a ``google.protobuf.Struct`` holds."""
    if depth > MAX_DEPTH:
        raise BadMessage("metadata are nested too deeply")
    fields: dict[str, Json] = {}
    for _, _, entry in scan(raw):
        parts = {part: _bytes(value) for part, _, value in scan(_bytes(entry))}
        fields[parts.get(1, b"").decode()] = _value(parts.get(2, b""), depth + 1)
    return fields


def _value(raw: bytes, depth: int) -> Json:
    for number, _, part in scan(raw):
        if number == 2:
            return float(struct.unpack("<d", _bytes(part))[0])
        if number == 3:
            return _bytes(part).decode()
        if number == 4:
            return part != 0
        if number == 5:
            return _struct(_bytes(part), depth)
        if number == 6:
            return [_value(_bytes(item), depth + 1) for _, _, item in scan(_bytes(part))]
    return None


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise BadMessage("a number where there should be bytes")
    return value
