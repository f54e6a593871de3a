"""gRPC over HTTP/2 while the server stops."""

from __future__ import annotations

import asyncio
import struct

from balanceroute.live.rpc.frames import END_HEADERS, END_STREAM, PREFACE, Kind, frame
from balanceroute.live.rpc.methods import Open
from balanceroute.live.rpc.server import RpcServer, listening
from tests.live.fake_engine import run
from tests.live.peer import HEADERS, MAX_BYTES, SETTINGS, Echo, Peer, literal, message


def test_a_call_that_comes_as_the_server_stops() -> None:
    """It is refused, with what follows it; those that were there before come to their end."""

    async def test(server: RpcServer, peer: Peer) -> None:
        peer.send(PREFACE, SETTINGS, frame(Kind.HEADERS, END_HEADERS, 1, HEADERS))
        peer.send(frame(Kind.DATA, 0, 1, message(b"a")))
        assert message(b"a") == (await peer.find(Kind.DATA))[2]
        stopping = asyncio.create_task(server.stop(5.0))
        assert struct.pack(">II", 1, 0) == (await peer.find(Kind.GOAWAY))[2]
        # Sent before that was read, as far as the server can tell.
        peer.send(frame(Kind.HEADERS, END_HEADERS, 3, HEADERS))
        peer.send(frame(Kind.DATA, END_STREAM, 3, message(b"b")))
        assert (0, 3, struct.pack(">I", 7)) == await peer.find(Kind.RST_STREAM)
        peer.send(frame(Kind.DATA, END_STREAM, 1, message(b"c")))
        assert message(b"c") == (await peer.find(Kind.DATA))[2]
        assert literal("grpc-status", "0") == (await peer.find(Kind.HEADERS))[2]
        await stopping
        assert b"" == await peer.reader.read()

    async def main() -> None:
        methods: dict[str, Open] = {"/a.B/Echo": lambda call, _: Echo(call, [])}
        server = RpcServer(methods, max_message_bytes=MAX_BYTES)
        async with listening(server, "127.0.0.1", 0, shutdown_s=lambda: 0.1) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await test(server, Peer(reader, writer))
            writer.close()

    run(main(), 10.0)
