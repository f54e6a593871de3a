"""gRPC over HTTP/2: what peers may do, what they may not, and messages as others write them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.live.rpc.calls import Call, Listener, Opening
from balanceroute.live.rpc.frames import END_HEADERS, END_STREAM, PREFACE, Kind, Status, frame
from balanceroute.live.rpc.protobuf import BadMessage, Codec, Message
from balanceroute.live.rpc.server import RpcServer, listening
from tests.live.fake_engine import run

MAX_BYTES = 1 << 20
SETTINGS = frame(Kind.SETTINGS, 0, 0)


def literal(name: str, value: str) -> bytes:
    """Return a header as HPACK writes it without its table."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


HEADERS = literal(":path", "/a.B/Echo") + literal("content-type", "application/grpc")


def message(data: bytes, *, is_compressed: bool = False) -> bytes:
    return struct.pack(">BI", is_compressed, len(data)) + data


class Echo:
    """Sends back what it gets."""

    def __init__(self, call: Call, _: Opening) -> None:
        self.call = call

    def receive(self, message: bytes) -> None:
        self.call.send(message)

    def half_close(self) -> None:
        self.call.end()

    def cancel(self) -> None:
        pass


def open_echo(call: Call, opening: Opening) -> Listener:
    return Echo(call, opening)


class Peer:
    """A client that writes frames by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def receive(self) -> tuple[int, int, int, bytes]:
        """Return kind, flags, stream and payload of the next frame."""
        head = await self.reader.readexactly(9)
        size, flags, stream = struct.unpack(">IBI", head)
        return size & 0xFF, flags, stream, await self.reader.readexactly(size >> 8)

    async def find(self, kind: Kind) -> tuple[int, int, bytes]:
        """Return flags, stream and payload of the next frame of a kind."""
        while True:
            its_kind, flags, stream, payload = await self.receive()
            if its_kind == kind:
                return flags, stream, payload


def with_peer(test: Callable[[Peer], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a connection to a server that echoes."""

    async def main() -> None:
        server = RpcServer({"/a.B/Echo": open_echo}, max_message_bytes=MAX_BYTES)
        async with listening(server, "127.0.0.1", 0, shutdown_s=lambda: 0.1) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await test(Peer(reader, writer))
            writer.close()

    run(main(), 10.0)


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
        back = b"".join([(await peer.find(Kind.DATA))[2] for _ in range(3)])
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
