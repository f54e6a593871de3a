"""What comes together is answered together, and nobody is answered who has gone."""

from __future__ import annotations

import asyncio
import socket
import struct
from functools import partial
from pathlib import Path

import pytest

from balanceroute.errors import ConfigError
from balanceroute.live.rpc.frames import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    ErrorCode,
    Kind,
    Status,
    frame,
)
from balanceroute.live.rpc.server import RpcServer, listening
from tests.live.fake_engine import run
from tests.live.peer import HEADERS, SETTINGS, Echo, Peer, literal, message, with_peer

CANCEL = frame(Kind.RST_STREAM, 0, 1, struct.pack(">I", 8))


def opened(number: int) -> bytes:
    """Return a frame that opens a call."""
    return frame(Kind.HEADERS, END_HEADERS, number, HEADERS)


def said(number: int, data: bytes, *, is_end: bool = False) -> bytes:
    """Return a frame with data of a call."""
    return frame(Kind.DATA, END_STREAM if is_end else 0, number, data)


def test_messages_that_come_together() -> None:
    """They are handed over at once, and what is sent leaves in one frame."""

    async def test(peer: Peer) -> None:
        one, two = message(b"one"), message(b"two")
        peer.send(PREFACE, SETTINGS, opened(1), said(1, one), said(1, two[:3]), said(1, two[3:]))
        assert (0, 1, one + two) == await peer.find(Kind.DATA)
        assert [[b"one", b"two"]] == peer.told
        peer.send(said(1, b"", is_end=True))
        flags, _, block = await peer.find(Kind.HEADERS)
        assert (END_HEADERS | END_STREAM, literal("grpc-status", "0")) == (flags, block)

    with_peer(test)


def test_who_ends_and_resets_a_call_is_not_answered() -> None:
    """As Envoy does when it has all: its call is told that it is over, and nothing is written."""

    async def test(peer: Peer) -> None:
        peer.send(PREFACE, SETTINGS, opened(1), said(1, message(b"last"), is_end=True), CANCEL)
        peer.send(opened(3), said(3, message(b"next")))
        kinds = []
        while (its := await peer.receive())[2] != 3:  # until the other call is answered
            kinds.append((its[0], its[2]))
        assert all(number == 0 for _, number in kinds)
        assert [[b"last"], "cancelled", [b"next"]] == peer.told

    with_peer(test)


def test_a_message_that_is_not_taken_ends_all() -> None:
    """Its call ends, and who listens is told, so that nothing is kept for it."""

    async def test(peer: Peer) -> None:
        peer.send(PREFACE, SETTINGS, opened(1), said(1, message(b"a")))
        await peer.find(Kind.DATA)
        peer.send(said(1, message(b"b", is_compressed=True)))
        block = (await peer.find(Kind.HEADERS))[2]
        assert literal("grpc-status", str(int(Status.UNIMPLEMENTED))) in block
        _, number, code = await peer.find(Kind.RST_STREAM)
        assert (1, ErrorCode.NO_ERROR) == (number, struct.unpack(">I", code)[0])
        assert [[b"a"], "cancelled"] == peer.told

    with_peer(test)


def test_a_half_closed_call_that_the_window_holds_up() -> None:
    """What is to be sent still is, and the status behind it."""

    async def test(peer: Peer) -> None:
        window = frame(Kind.SETTINGS, 0, 0, struct.pack(">HI", 4, 3))
        data = message(b"long enough")
        peer.send(PREFACE, window, opened(1), said(1, data))
        assert data[:3] == (await peer.find(Kind.DATA))[2]
        peer.send(said(1, b"", is_end=True))
        peer.send(frame(Kind.WINDOW_UPDATE, 0, 1, struct.pack(">I", 100)))
        assert data[3:] == (await peer.find(Kind.DATA))[2]
        assert literal("grpc-status", "0") == (await peer.find(Kind.HEADERS))[2]

    with_peer(test)


def test_a_unix_socket(tmp_path: Path) -> None:
    """It is served besides the port, also where a server has left its own; else it is said why.

    It goes with its server, if no other has put its own there meanwhile.
    """
    path = str(tmp_path / "rpc.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)

    async def test() -> None:
        told: list[object] = []
        server = RpcServer({"/a.B/Echo": lambda call, _: Echo(call, told)}, max_message_bytes=99)
        serving = partial(listening, server, "127.0.0.1", 0, shutdown_s=lambda: 0.1)
        for is_replaced in (False, True):
            async with serving(path=path) as port:
                for opening in (
                    asyncio.open_unix_connection(path),
                    asyncio.open_connection("127.0.0.1", port),
                ):
                    peer = Peer(*await opening)
                    peer.send(PREFACE, SETTINGS, opened(1), said(1, message(b"a")))
                    assert message(b"a") == (await peer.find(Kind.DATA))[2]
                    peer.writer.close()
                if is_replaced:
                    Path(path).unlink()
                    Path(path).touch()
            assert is_replaced == Path(path).exists()
        with pytest.raises(ConfigError, match=r"none/rpc.sock: .*--grpc-socket"):
            async with serving(path=str(tmp_path / "none" / "rpc.sock")):
                pass

    run(test())
