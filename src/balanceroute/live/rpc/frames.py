"""HTTP/2 on the wire: frames, and the few headers that gRPC answers have (RFC 9113, RFC 7541)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from urllib.parse import quote

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER = struct.Struct(">IBI")  # of a frame: length and type, flags, stream
END_STREAM, END_HEADERS, PADDED, PRIORITY = 0x1, 0x4, 0x8, 0x20
ACK = 0x1
FIRST_WINDOW, FIRST_FRAME_SIZE = 65_535, 16_384  # until a peer says otherwise
MAX_WINDOW = (1 << 31) - 1


class Kind(IntEnum):
    """Types of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(IntEnum):
    """Settings of a connection that are used here."""

    HEADER_TABLE_SIZE = 1
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Status(IntEnum):
    """How a call ends, as gRPC numbers it."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class ConnectionFault(Exception):  # noqa: N818  # of a peer
    """A peer has broken the protocol, and the connection ends.

    Parameters
    ----------
    code : ErrorCode
        Why, as it is told.
    message : str
        The same in words.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class FrameReader:
    r"""Cuts what comes on a connection into frames.

    Parameters
    ----------
    max_size : int
        Bytes of the longest frame that is taken, without its header.

    Examples
    --------
    >>> reader = FrameReader(100)
    >>> list(reader.read(PREFACE + frame(Kind.PING, ACK, 0, b"12345678")[:-1]))
    []
    >>> list(reader.read(b"8"))
    [(6, 1, 0, b'12345678')]
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._rest, self._has_preface = b"", False

    def read(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield kind, flags, stream and payload of each frame, and keep what is left.

        Raises
        ------
        ConnectionFault
            If this is not HTTP/2, or a frame is too long.
        """
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        if not self._has_preface:
            if not data.startswith(PREFACE[:end]):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
            if end >= len(PREFACE):
                self._has_preface, at = True, len(PREFACE)
        while self._has_preface and at + HEADER.size <= end:
            size, flags, stream = HEADER.unpack_from(data, at)
            kind, size = size & 0xFF, size >> 8
            if size > self._max_size:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame is too large")
            start = at + HEADER.size
            if start + size > end:
                break
            at = start + size
            yield kind, flags, stream & MAX_WINDOW, data[start:at]
        self._rest = data[at:]


def frame(kind: Kind, flags: int, stream: int, payload: bytes = b"") -> bytes:
    r"""Return a frame.

    Examples
    --------
    >>> frame(Kind.PING, ACK, 0, b"12345678")
    b'\x00\x00\x08\x06\x01\x00\x00\x00\x0012345678'
    """
    return HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def settings_frame(settings: dict[Setting, int]) -> bytes:
    """Return a frame of settings."""
    payload = b"".join(struct.pack(">HI", name, value) for name, value in settings.items())
    return frame(Kind.SETTINGS, 0, 0, payload)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return the settings that a frame holds.

    Raises
    ------
    ConnectionFault
        If its length is not that of so many settings.
    """
    if len(payload) % 6:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "settings of odd length")
    return [(name, value) for name, value in struct.iter_unpack(">HI", payload)]


def window_update(stream: int, size: int) -> bytes:
    """Return a frame that allows a peer so many bytes more."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def unpadded(flags: int, payload: bytes) -> bytes:
    r"""Return a payload without padding and priority.

    Raises
    ------
    ConnectionFault
        If there is more padding than payload.

    Examples
    --------
    >>> unpadded(PADDED, b"\x02abc\0\0")
    b'abc'
    """
    start, num_pad = 0, 0
    if flags & PADDED:
        num_pad, start = payload[0] if payload else 1, 1
    if flags & PRIORITY:
        start += 5
    if start + num_pad > len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[start : len(payload) - num_pad]


def _literal(name: str, value: str) -> bytes:
    """Return a header that is not to be remembered, without Huffman's code."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    data, out = text.encode("ascii"), bytearray()
    size = len(data)
    if size < 0x7F:
        return bytes([size]) + data
    out.append(0x7F)
    size -= 0x7F
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out) + data


# ":status: 200" is number 8 of the table that everybody has.
ANSWER_HEADERS = b"\x88" + _literal("content-type", "application/grpc")


def trailers(status: Status, message: str) -> bytes:
    r"""Return what ends a call.

    Examples
    --------
    >>> trailers(Status.OK, "")
    b'\x00\x0bgrpc-status\x010'
    """
    block = _literal("grpc-status", str(int(status)))
    return block + _literal("grpc-message", quote(message)) if message else block
