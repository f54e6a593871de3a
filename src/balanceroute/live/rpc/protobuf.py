"""Protocol Buffers for `msgspec` structs: the same definition serves JSON and gRPC."""

from __future__ import annotations

import struct
import types
import typing
from collections.abc import Iterator
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types
SCALARS = {bool: VARINT, int: VARINT, float: FIXED64, str: DELIMITED, bytes: DELIMITED}
NAMES = {bool: "bool", int: "int64", float: "double", str: "string", bytes: "bytes"}
MAX_VARINT_BYTES, MAX_DEPTH = 10, 32
LOW_64 = (1 << 64) - 1
SIZES = {FIXED64: 8, FIXED32: 4}
SMALL = [bytes([value]) for value in range(0x80)]


class BadMessage(ValueError):  # noqa: N818  # a peer's fault, not ours
    """Bytes that are not the message that they should be."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A struct that can be a message.

    `numbers` gives each field its number on the wire. Types are int, float, bool, str, bytes, other
    messages, and tuples of str, bytes and messages; a message that may be absent is ``X | None``.
    A field's default is not sent; one without any has to be.
    """

    numbers: ClassVar[dict[str, int]] = {}


M = TypeVar("M", bound=Message)
Field = tuple[str, int, Any, bool, "Codec[Any] | None"]  # name, number, type, is_repeated, codec


class Codec(Generic[M]):
    r"""Turns messages of one type into bytes and back.

    Parameters
    ----------
    message_type : type
        A `Message`.

    Raises
    ------
    BadMessage
        By `decode`, if the bytes are cut off, or a field has another type than it should have.
        Fields that are not known are skipped, as the format asks for.

    Examples
    --------
    >>> class Point(Message, frozen=True, kw_only=True):
    ...     numbers = {"x": 1, "label": 2}
    ...     x: int = 0
    ...     label: str = ""
    >>> codec = Codec(Point)
    >>> codec.encode(Point(x=150, label="a"))
    b'\x08\x96\x01\x12\x01a'
    >>> codec.decode(b"\x08\x96\x01\x12\x01a")
    Point(x=150, label='a')
    """

    def __init__(self, message_type: type[M]) -> None:
        self._type = message_type
        self.fields = list(_fields(message_type))
        self._by_number = {field[1]: field for field in self.fields}

    def encode(self, message: M) -> bytes:
        """Return a message as bytes."""
        out: list[bytes] = []
        for name, number, kind, is_repeated, codec in self.fields:
            value = getattr(message, name)
            for item in value if is_repeated else (value,):
                if codec is not None:
                    if item is not None:
                        out.append(delimited(number, codec.encode(item)))
                elif is_repeated or item != kind():
                    out.append(_scalar(number, kind, item))
        return b"".join(out)

    def decode(self, data: bytes, depth: int = 0) -> M:
        """Return the message that bytes hold."""
        if depth > MAX_DEPTH:
            raise BadMessage("it is nested too deeply")
        values: dict[str, Any] = {}
        for number, wire_type, raw in scan(data):
            field = self._by_number.get(number)
            if field is None:
                continue
            name, _, kind, is_repeated, codec = field
            if codec is not None:
                if not isinstance(raw, bytes):
                    raise BadMessage(f"field {name} must be a message")
                value: Any = codec.decode(raw, depth + 1)
            else:
                value = _value(name, kind, wire_type, raw)
            if is_repeated:
                values.setdefault(name, []).append(value)
            else:
                values[name] = value
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        try:
            return self._type(**values)
        except TypeError as error:  # one without a default, which an empty text is not sent as
            raise BadMessage(str(error)) from error


def _fields(message_type: type[Message]) -> Iterator[Field]:
    hints = typing.get_type_hints(message_type)
    for name, number in message_type.numbers.items():
        kind, is_repeated = hints[name], False
        if typing.get_origin(kind) is tuple:
            kind, is_repeated = typing.get_args(kind)[0], True
        elif typing.get_origin(kind) in (types.UnionType, typing.Union):
            kind = next(part for part in typing.get_args(kind) if part is not type(None))
        is_message = isinstance(kind, type) and issubclass(kind, Message)
        if not is_message and kind not in SCALARS:
            raise TypeError(f"{message_type.__name__}.{name} has a type that is not supported")
        yield name, number, kind, is_repeated, Codec(kind) if is_message else None


def varint(value: int) -> bytes:
    r"""Return an integer as the format writes it, seven bits a byte.

    Examples
    --------
    >>> varint(150), len(varint(-1))
    (b'\x96\x01', 10)
    """
    if 0 <= value <= 0x7F:  # nearly all
        return SMALL[value]
    value &= LOW_64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(number: int, data: bytes) -> bytes:
    r"""Return a field of bytes, text or a message.

    Examples
    --------
    >>> delimited(2, b"a")
    b'\x12\x01a'
    """
    return varint(number << 3 | DELIMITED) + varint(len(data)) + data


def scan(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield number, wire type and value of each field: an int, or the bytes.

    Raises
    ------
    BadMessage
        If the bytes are cut off, or a wire type is none.
    """
    at, end = 0, len(data)
    while at < end:
        key = data[at]
        at += 1
        if key > 0x7F:
            key, at = read_varint(data, at - 1)
        wire_type = key & 7
        if wire_type == VARINT:
            value, at = read_varint(data, at)
            yield key >> 3, wire_type, value
            continue
        if wire_type == DELIMITED:
            size = data[at] if at < end else 0xFF
            at += 1
            if size > 0x7F:
                size, at = read_varint(data, at - 1)
        elif wire_type in SIZES:
            size = SIZES[wire_type]
        else:
            raise BadMessage(f"it has a field of wire type {wire_type}")
        if at + size > end:
            raise BadMessage("it is cut off")
        yield key >> 3, wire_type, data[at : at + size]
        at += size


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the integer that begins there, and where it ends."""
    value = shift = 0
    try:
        for index in range(at, at + MAX_VARINT_BYTES):
            byte = data[index]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & LOW_64, index + 1
            shift += 7
    except IndexError:
        raise BadMessage("it is cut off") from None
    raise BadMessage("it has an integer of more than 64 bits")


def _scalar(number: int, kind: type, value: Any) -> bytes:
    if kind is float:
        return varint(number << 3 | FIXED64) + struct.pack("<d", value)
    if kind in (int, bool):
        return varint(number << 3 | VARINT) + varint(int(value))
    return delimited(number, value.encode() if kind is str else value)


def _value(name: str, kind: type, wire_type: int, raw: int | bytes) -> Any:
    if wire_type != SCALARS[kind]:
        raise BadMessage(f"field {name} must be of type {NAMES[kind]}")
    if isinstance(raw, int):
        return raw != 0 if kind is bool else raw - (1 << 64) if raw >> 63 else raw
    if kind is float:
        return struct.unpack("<d", raw)[0]
    if kind is bytes:
        return raw
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadMessage(f"field {name} is not UTF-8") from error


def proto_text(package: str, service: str, methods: dict[str, tuple[type, type]]) -> str:
    """Return the definition that ``protoc`` makes clients of in other languages.

    Parameters
    ----------
    package, service : str
        Names.
    methods : dict
        Request and answer of each method.
    """
    lines = ['syntax = "proto3";', "", f"package {package};", "", f"service {service} {{"]
    lines += [
        f"  rpc {name}({asked.__name__}) returns ({answer.__name__});"
        for name, (asked, answer) in methods.items()
    ]
    lines.append("}")
    seen: dict[str, type] = {}
    for pair in methods.values():
        for message in pair:
            _collect(message, seen)
    for name, message in seen.items():
        lines += ["", f"message {name} {{", *_proto_fields(message), "}"]
    return "\n".join(lines) + "\n"


def _collect(message: type[Message], seen: dict[str, type]) -> None:
    seen.setdefault(message.__name__, message)
    for _, _, kind, _, codec in _fields(message):
        if codec is not None:
            _collect(kind, seen)


def _proto_fields(message: type[Message]) -> list[str]:
    return [
        f"  {'repeated ' if is_repeated else ''}{NAMES.get(kind, kind.__name__)} {name} = {number};"
        for name, number, kind, is_repeated, _ in _fields(message)
    ]
