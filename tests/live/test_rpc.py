"""gRPC over HTTP/2: what peers may do, what they may not, and messages as others write them."""

from __future__ import annotations

import asyncio
import struct
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.live.rpc.frames import END_HEADERS, END_STREAM, PREFACE, Kind, Status, frame
from balanceroute.live.rpc.protobuf import BadMessage, Codec, Message
from tests.live.peer import HEADERS, MAX_BYTES, SETTINGS, Peer, literal, message, with_peer


@pytest.mark.parametrize("num_pieces", [1, 2, 60])
def test_a_call_in_pieces(num_pieces: int) -> None:
    """However the bytes are cut, messages come back whole, and the status is last."""

    async def test(peer: Peer) -> None:
        data = message(b"one") + message(b"") + message(b"three")
        sent = PREFACE + SETTINGS + frame(Kind.HEADERS, END_HEADERS, 1, HEADERS)
        sent += frame(Kind.DATA, END_STREAM, 1, data)
        step = -(-len(sent) // num_pieces)
        for at in range(0, len(sent), step):
            peer.send(sent[at : at + step])
            await asyncio.sleep(0.001)
        back = b""
        while len(back) < len(data):
            back += (await peer.find(Kind.DATA))[2]
        assert data == back
        flags, stream, block = await peer.find(Kind.HEADERS)
        assert (END_HEADERS | END_STREAM, 1) == (flags, stream)
        assert literal("grpc-status", "0") == block

    with_peer(test)


def test_headers_in_continuations_and_padding() -> None:
    """Headers may be cut, and frames may be padded."""

    async def test(peer: Peer) -> None:
        padded, priority = 0x8, 0x20
        first = b"\x02" + b"\0" * 5 + HEADERS[:7] + b"\0\0"
        peer.send(PREFACE, SETTINGS, frame(Kind.HEADERS, padded | priority, 1, first))
        peer.send(frame(Kind.CONTINUATION, END_HEADERS, 1, HEADERS[7:]))
        peer.send(frame(Kind.DATA, padded, 1, b"\x01" + message(b"a") + b"\0"))
        assert message(b"a") == (await peer.find(Kind.DATA))[2]

    with_peer(test)


def test_a_small_window() -> None:
    """No more is sent than the client allows, on the stream and on the connection."""

    async def test(peer: Peer) -> None:
        window = frame(Kind.SETTINGS, 0, 0, struct.pack(">HI", 4, 10))
        peer.send(PREFACE, window, frame(Kind.HEADERS, END_HEADERS, 1, HEADERS))
        peer.send(frame(Kind.DATA, END_STREAM, 1, message(b"x" * 25)))
        data = (await peer.find(Kind.DATA))[2]
        assert 10 == len(data)
        for more in (5, 15):
            peer.send(frame(Kind.WINDOW_UPDATE, 0, 1, struct.pack(">I", more)))
            data += (await peer.find(Kind.DATA))[2]
        assert message(b"x" * 25) == data
        assert literal("grpc-status", "0") == (await peer.find(Kind.HEADERS))[2]

    with_peer(test)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (message(b"a", is_compressed=True), Status.UNIMPLEMENTED),
        (struct.pack(">BI", 0, MAX_BYTES + 1), Status.RESOURCE_EXHAUSTED),
        (message(b"abc")[:-1], Status.INTERNAL),
    ],
)
def test_a_message_that_is_not_taken(sent: bytes, status: Status) -> None:
    """Its call ends with a status that says why; the connection goes on."""

    async def test(peer: Peer) -> None:
        peer.send(PREFACE, SETTINGS, frame(Kind.HEADERS, END_HEADERS, 1, HEADERS))
        peer.send(frame(Kind.DATA, END_STREAM, 1, sent))
        block = (await peer.find(Kind.HEADERS))[2]
        assert literal("grpc-status", str(int(status))) in block
        peer.send(frame(Kind.HEADERS, END_HEADERS, 3, HEADERS))
        peer.send(frame(Kind.DATA, END_STREAM, 3, message(b"b")))
        assert message(b"b") == (await peer.find(Kind.DATA))[2]

    with_peer(test)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (PREFACE + struct.pack(">IBI", (1 << 20) << 8, 0, 1), 6),
        (PREFACE + frame(Kind.DATA, 0, 5, b"a"), 1),
        (PREFACE + frame(Kind.HEADERS, 0, 1, HEADERS) + SETTINGS, 1),
        (PREFACE + frame(Kind.HEADERS, END_HEADERS, 2, HEADERS), 1),
        (PREFACE + frame(Kind.HEADERS, END_HEADERS, 1, b"\xff\xff\xff"), 9),
        (PREFACE + frame(Kind.SETTINGS, 0, 0, b"abc"), 6),
        (PREFACE + frame(Kind.PUSH_PROMISE, 0, 1), 1),
        (PREFACE + frame(Kind.CONTINUATION, END_HEADERS, 1, b""), 1),
        (PREFACE + frame(Kind.HEADERS, 0x8 | END_HEADERS, 1, b"\x05a"), 1),
        (PREFACE + frame(Kind.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), 3),
    ],
)
def test_a_peer_that_breaks_the_protocol(sent: bytes, code: int) -> None:
    """It is told why, and the connection is closed."""

    async def test(peer: Peer) -> None:
        peer.send(sent)
        _, _, payload = await peer.find(Kind.GOAWAY)
        assert code == struct.unpack(">II", payload)[1]
        assert b"" == await peer.reader.read()

    with_peer(test)


class Inner(Message, frozen=True, kw_only=True):
    """A message inside another."""

    numbers: ClassVar[dict[str, int]] = {"name": 1}
    name: str = ""


class Outer(Message, frozen=True, kw_only=True):
    """A message with a field of every type."""

    numbers: ClassVar[dict[str, int]] = {
        "a": 1,
        "b": 2,
        "c": 3,
        "d": 16,
        "e": 5,
        "inner": 6,
        "many": 7,
        "names": 2047,
    }
    a: int = 0
    b: float = 0.0
    c: bool = False
    d: str = ""
    e: bytes = b""
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    names: tuple[str, ...] = ()


inners = st.builds(Inner, name=st.text(max_size=5))
outers = st.builds(
    Outer,
    a=st.integers(-(1 << 63), (1 << 63) - 1),
    b=st.floats(allow_nan=False),
    c=st.booleans(),
    d=st.text(max_size=200),
    e=st.binary(max_size=200),
    inner=st.none() | inners,
    many=st.lists(inners, max_size=3).map(tuple),
    names=st.lists(st.text(max_size=5), max_size=3).map(tuple),
)
CODEC = Codec(Outer)


@given(outers)
def test_a_message_and_back(value: Outer) -> None:
    """Whatever is written is read the same."""
    assert value == CODEC.decode(CODEC.encode(value))


@given(st.binary(max_size=60))
def test_bytes_that_may_be_no_message(data: bytes) -> None:
    """They are a message, or `BadMessage` says that they are none; nothing else happens."""
    try:
        value = CODEC.decode(data)
    except BadMessage:
        return
    assert isinstance(value, Outer)


@given(outers)
def test_the_same_bytes_as_googles(value: Outer) -> None:
    """Google's own code reads what is written here, and writes what is read here."""
    descriptor = pytest.importorskip("google.protobuf.descriptor_pb2")
    factory = pytest.importorskip("google.protobuf.message_factory")
    file = descriptor.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    inner = file.message_type.add(name="Inner")
    inner.field.add(name="name", number=1, type=9, label=1)
    outer = file.message_type.add(name="Outer")
    for name, kind in [("a", 3), ("b", 1), ("c", 8), ("d", 9), ("e", 12)]:
        outer.field.add(name=name, number=Outer.numbers[name], type=kind, label=1)
    outer.field.add(name="inner", number=6, type=11, label=1, type_name=".t.Inner")
    outer.field.add(name="many", number=7, type=11, label=3, type_name=".t.Inner")
    outer.field.add(name="names", number=2047, type=9, label=3)
    theirs = factory.GetMessages([file])["t.Outer"].FromString(CODEC.encode(value))
    assert (value.a, value.b, value.c, value.d) == (theirs.a, theirs.b, theirs.c, theirs.d)
    assert value.names == tuple(theirs.names)
    assert value == CODEC.decode(theirs.SerializeToString())
