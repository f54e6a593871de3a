"""Those messages of Envoy's external processing that a picker needs, by their numbers on the wire.

They are ``envoy.service.ext_proc.v3`` and the types that it uses. What is not here is skipped when
it is read. Answers are few and small, so each is put together by one function.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from typing import ClassVar

from balanceroute.live.rpc.protobuf import BadMessage, Codec, Message, delimited, scan, varint

OVERWRITE = b"\x18\x02"  # append_action of a header: OVERWRITE_IF_EXISTS_OR_ADD
END = b"\x10\x01"  # end_of_stream of a piece
MAX_DEPTH = 16
Json = None | bool | float | str | list["Json"] | dict[str, "Json"]


class BodyMode(IntEnum):
    """How Envoy sends bodies (``ProcessingMode.BodySendMode``)."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    FULL_DUPLEX_STREAMED = 4


class Headers(Message, frozen=True, kw_only=True):
    """The headers of a request or an answer, unread."""

    numbers: ClassVar[dict[str, int]] = {"headers": 1, "end_of_stream": 3}
    headers: bytes = b""
    end_of_stream: bool = False


class Body(Message, frozen=True, kw_only=True):
    """A piece of a body."""

    numbers: ClassVar[dict[str, int]] = {"body": 1, "end_of_stream": 2}
    body: bytes = b""
    end_of_stream: bool = False


class Trailers(Message, frozen=True, kw_only=True):
    """Trailers, which nobody reads."""

    numbers: ClassVar[dict[str, int]] = {}


class Modes(Message, frozen=True, kw_only=True):
    """How Envoy sends bodies."""

    numbers: ClassVar[dict[str, int]] = {"request_body_mode": 1, "response_body_mode": 2}
    request_body_mode: int = 0
    response_body_mode: int = 0


class Asked(Message, frozen=True, kw_only=True):
    """What Envoy says: one of the first six, and more."""

    numbers: ClassVar[dict[str, int]] = {
        "request_headers": 2,
        "response_headers": 3,
        "request_body": 4,
        "response_body": 5,
        "request_trailers": 6,
        "response_trailers": 7,
        "metadata_context": 8,
        "observability_mode": 10,
        "protocol_config": 11,
    }
    request_headers: Headers | None = None
    response_headers: Headers | None = None
    request_body: Body | None = None
    response_body: Body | None = None
    request_trailers: Trailers | None = None
    response_trailers: Trailers | None = None
    metadata_context: bytes = b""
    observability_mode: bool = False
    protocol_config: Modes | None = None


ASKED = Codec(Asked)


def read_headers(raw: bytes) -> dict[str, str]:
    """Return headers by their names, which Envoy has made lower case; of several the last.

    Raises
    ------
    BadMessage
        If they are no headers.
    """
    headers: dict[str, str] = {}
    for _, _, entry in scan(raw):
        name, value = _header(_bytes(entry))
        headers[name.decode("latin-1")] = value.decode("latin-1")
    return headers


def _header(entry: bytes) -> tuple[bytes, bytes]:
    """Return name and value of a header."""
    # As Envoy writes nearly all of them: a short name as field 1, a short value as field 3.
    if len(entry) > 4 and entry[0] == 0x0A and (at := 2 + entry[1]) + 2 <= len(entry):
        size = entry[at + 1]
        if entry[at] == 0x1A and size < 0x80 and at + 2 + size == len(entry):
            return entry[2:at], entry[at + 2 :]
    name = value = b""
    for number, _, part in scan(entry):
        if number == 1:
            name = _bytes(part)
        elif number in (2, 3):  # as text, or as it came
            value = _bytes(part) or value
    return name, value


def read_metadata(raw: bytes, namespace: str, key: str) -> Json:
    """Return an entry of filter metadata; None if there is none."""
    wanted = namespace.encode()
    for number, _, entry in scan(raw):
        parts = {part: _bytes(value) for part, _, value in scan(_bytes(entry))}
        if number == 1 and parts.get(1) == wanted:
            return _struct(parts.get(2, b""), 0).get(key)
    return None


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


@lru_cache(maxsize=4096)
def header_mutation(sets: tuple[tuple[str, str], ...], removes: tuple[str, ...] = ()) -> bytes:
    """Return a ``HeaderMutation``; the same few come again and again."""
    out = []
    for name, value in sets:
        header = delimited(1, name.encode("latin-1")) + delimited(3, value.encode("latin-1"))
        out.append(delimited(1, delimited(1, header) + OVERWRITE))
    out += [delimited(2, name.encode("latin-1")) for name in removes]
    return b"".join(out)


class Part(IntEnum):
    """What an answer is about, by its number in ``ProcessingResponse``."""

    REQUEST_HEADERS = 1
    RESPONSE_HEADERS = 2
    REQUEST_BODY = 3
    RESPONSE_BODY = 4
    REQUEST_TRAILERS = 5
    RESPONSE_TRAILERS = 6


def go_on(part: Part, *, mutation: bytes = b"", body: bytes | None = None) -> bytes:
    r"""Return an answer by which Envoy goes on, with other headers or another body if given.

    Examples
    --------
    >>> go_on(Part.RESPONSE_BODY)
    b'"\x00'
    """
    common = delimited(2, mutation) if mutation else b""
    if body is not None:
        common += delimited(3, delimited(1, body))
    return delimited(part, delimited(1, common) if common else b"")


def piece(part: Part, body: bytes, *, is_end: bool) -> bytes:
    """Return an answer with the next piece of a body, where Envoy leaves it to the picker."""
    streamed = delimited(1, body) if body else b""
    if is_end:
        streamed += END
    return delimited(part, delimited(1, delimited(3, delimited(3, streamed))))


@lru_cache(maxsize=4096)
def destination(endpoints: str, namespace: str, key: str) -> bytes:
    """Return what tells Envoy's load balancer of endpoints, to be added to an answer."""
    inner = delimited(1, delimited(1, key.encode()) + _nested(3, endpoints.encode()))
    outer = delimited(1, delimited(1, namespace.encode()) + _nested(5, inner))
    return delimited(8, outer)


def _nested(number: int, data: bytes) -> bytes:
    """Return a ``google.protobuf.Value`` as field 2 of a map's entry."""
    return delimited(2, delimited(number, data))


def immediate(status: int, mutation: bytes, body: bytes, details: str) -> bytes:
    """Return an answer that Envoy gives the client at once."""
    code = b"\x08" + varint(status)
    fields = (
        delimited(1, code),
        delimited(2, mutation),
        delimited(3, body),
        delimited(5, details.encode()),
    )
    return delimited(7, b"".join(fields))
