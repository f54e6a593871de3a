"""A client of gRPC that writes its frames by hand."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine
from typing import Any

from balanceroute.live.rpc.calls import Call, Listener, Opening
from balanceroute.live.rpc.frames import Kind, frame
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
    """Sends back what it gets, and notes what it was told."""

    def __init__(self, call: Call, told: list[object]) -> None:
        self.call, self.told = call, told

    def receive(self, messages: list[bytes]) -> None:
        self.told.append(messages)
        self.call.send(*messages)

    def half_close(self) -> None:
        self.told.append("half-closed")
        self.call.end()

    def cancel(self) -> None:
        self.told.append("cancelled")


class Peer:
    """A client that writes frames by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.told: list[object] = []  # what the echo on the other side has been told

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
        def open_echo(call: Call, _: Opening) -> Listener:
            return Echo(call, peer.told)

        server = RpcServer({"/a.B/Echo": open_echo}, max_message_bytes=MAX_BYTES)
        async with listening(server, "127.0.0.1", 0, shutdown_s=lambda: 0.1) as port:
            peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
            await test(peer)
            peer.writer.close()

    run(main(), 10.0)
