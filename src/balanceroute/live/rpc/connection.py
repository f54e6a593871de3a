"""One HTTP/2 connection that a client makes calls on, without a task for each of them.

A gateway sends several small messages per request and waits for the answers to some of them, so
what counts is the time from bytes to bytes. Here that is a function call: all frames that have come
are read, each call that they touch has a turn with its messages, and what the turns write leaves
with one system call. A call that is opened and reset in what has come writes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Protocol, cast

from balanceroute.live.rpc.calls import Call, Listener, Opening
from balanceroute.live.rpc.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FIRST_FRAME_SIZE,
    FIRST_WINDOW,
    MAX_WINDOW,
    PADDED,
    PRIORITY,
    ConnectionFault,
    ErrorCode,
    FrameReader,
    Kind,
    Setting,
    frame,
    read_settings,
    settings_frame,
    unpadded,
    window_update,
)
from balanceroute.live.rpc.headers import HeaderReader

OUR_WINDOW = 16 << 20  # of a stream; the connection has as much as there is
OUR_FRAME_SIZE = 1 << 18
MAX_HEADER_BYTES = 64 << 10
MAX_STREAMS = 1 << 15

log = logging.getLogger(__name__)


class Server(Protocol):
    """Whom connections belong to."""

    max_message_bytes: int
    connections: set[Connection]

    def open(self, call: Call, opening: Opening) -> Listener | None:
        """Return who gets the messages of a call; None if it has been ended already."""
        ...


class Connection(asyncio.Protocol):
    """Reads frames, and writes those of its calls.

    Parameters
    ----------
    server : Server
        What is served.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._frames = FrameReader(OUR_FRAME_SIZE)
        self._reader = HeaderReader(MAX_HEADER_BYTES)
        self._block: tuple[int, int, bytes] | None = None  # stream, flags, headers so far
        self._last_stream = 0
        self.calls: dict[int, Call] = {}
        self._touched: list[Call] = []  # that have a turn in the next flush
        self._out: list[bytes] = []
        self._flush_due = self._lingers = False
        self.window, self.first_window = FIRST_WINDOW, FIRST_WINDOW  # for what we send
        self.frame_size = FIRST_FRAME_SIZE
        self._num_unacknowledged = 0
        self._is_closing = False
        self._readers: dict[int, Callable[[int, int, bytes], None]] = {
            Kind.DATA: self._data,
            Kind.HEADERS: self._headers,
            Kind.RST_STREAM: self._reset,
            Kind.SETTINGS: self._settings,
            Kind.PUSH_PROMISE: self._refuse_push,
            Kind.PING: self._ping,
            Kind.WINDOW_UPDATE: self._window_update,
            Kind.CONTINUATION: self._continuation,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what may be sent here."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no such class
        self._server.connections.add(self)
        ours = {
            Setting.HEADER_TABLE_SIZE: 0,  # see HeaderReader
            Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            Setting.INITIAL_WINDOW_SIZE: OUR_WINDOW,
            Setting.MAX_FRAME_SIZE: OUR_FRAME_SIZE,
            Setting.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
        }
        self.write(settings_frame(ours) + window_update(0, MAX_WINDOW - FIRST_WINDOW))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all calls that nobody listens any more."""
        del exc
        self._transport = None
        self._server.connections.discard(self)
        for call in list(self.calls.values()):
            call.cancel()
        self.calls.clear()

    def data_received(self, data: bytes) -> None:
        """Read whole frames, let the calls that they touch have their turns, and write."""
        self._flush_due = True  # below
        try:
            for kind, flags, number, payload in self._frames.read(data):
                if self._block is not None and kind != Kind.CONTINUATION:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "headers are cut off")
                read = self._readers.get(kind)
                if read is not None:
                    read(number, flags, payload)
        except ConnectionFault as fault:
            self._fail(fault)
            return
        self._take_turns()
        self._flush_due = False
        (self._schedule if self._lingers else self._flush)()
        self._lingers = False

    def linger(self) -> None:
        """Write a turn later: there will be more to write, and each time costs."""
        self._lingers = True

    def touch(self, call: Call) -> None:
        """Let a call have its turn before this one of the loop is over."""
        if not call.is_touched:
            call.is_touched = True
            self._touched.append(call)
            self._schedule()

    def write(self, data: bytes) -> None:
        """Write with what else is written in this turn of the loop."""
        self._out.append(data)
        self._schedule()

    def _schedule(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = True  # for what the turns write, which leaves below
        self._take_turns()
        self._flush_due = False
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _take_turns(self) -> None:
        for call in self._touched:  # which may touch others, behind it in the list
            call.turn()
        self._touched.clear()

    def stop(self) -> None:
        """Take no more calls; the connection is closed when the last one has ended."""
        self._is_closing = True
        self.write(frame(Kind.GOAWAY, 0, 0, struct.pack(">II", self._last_stream, 0)))
        self._close_if_done()

    def close(self) -> None:
        """Close the connection once what was written has left."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def forget(self, number: int) -> None:
        """Let go of a call that has ended on both sides."""
        self.calls.pop(number, None)
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_closing and not self.calls:
            self._loop.call_soon(self.close)

    def _fail(self, fault: ConnectionFault) -> None:
        log.warning("a gRPC connection is closed: %s", fault)
        last = struct.pack(">II", self._last_stream, fault.code)
        self.write(frame(Kind.GOAWAY, 0, 0, last))
        self.close()

    # ------------------------------------------------------------------------------- frames

    def _data(self, number: int, flags: int, payload: bytes) -> None:
        self._num_unacknowledged += len(payload)
        if self._num_unacknowledged > OUR_WINDOW:
            self.write(window_update(0, self._num_unacknowledged))
            self._num_unacknowledged = 0
        call = self.calls.get(number)
        if call is None:
            if number == 0 or number > self._last_stream:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "data of no stream")
            return  # it has ended here, and what was on its way is of no use
        call.num_received += len(payload)
        if call.num_received > OUR_WINDOW // 2:
            self.write(window_update(number, call.num_received))
            call.num_received = 0
        if flags & PADDED:  # a priority is no part of such frames, whatever the bit means elsewhere
            payload = unpadded(flags & ~PRIORITY, payload)
        call.feed(payload, is_end=flags & END_STREAM != 0)

    def _headers(self, number: int, flags: int, payload: bytes) -> None:
        self._gather(number, flags, unpadded(flags, payload))

    def _continuation(self, number: int, flags: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a continuation of nothing")
        _, first_flags, block = self._block
        self._gather(number, first_flags | flags & END_HEADERS, block + payload)

    def _gather(self, number: int, flags: int, block: bytes) -> None:
        if len(block) > MAX_HEADER_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "headers are too long")
        if not flags & END_HEADERS:
            self._block = (number, flags, block)
            return
        self._block = None
        opening = self._reader.read(block)
        call = self.calls.get(number)
        if call is not None:  # trailers
            call.feed(b"", is_end=True)
            return
        if number % 2 == 0 or number <= self._last_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream with a wrong number")
        self._last_stream = number  # also if it is refused: its data may be on their way already
        if self._is_closing or len(self.calls) >= MAX_STREAMS:
            code = struct.pack(">I", ErrorCode.REFUSED_STREAM)
            self.write(frame(Kind.RST_STREAM, 0, number, code))
            return
        self._open(number, opening, has_ended=bool(flags & END_STREAM))

    def _open(self, number: int, opening: Opening, *, has_ended: bool) -> None:
        call = Call(self, number, self._server.max_message_bytes)
        self.calls[number] = call
        call.listen(self._server.open(call, opening))
        if has_ended:
            call.feed(b"", is_end=True)

    def _reset(self, number: int, _: int, payload: bytes) -> None:
        del payload
        call = self.calls.pop(number, None)
        if call is not None:
            call.cancel()
        self._close_if_done()

    def _settings(self, _: int, flags: int, payload: bytes) -> None:
        if flags & ACK:
            self._reader.forget_table()
            return
        for name, value in read_settings(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window too large")
                change, self.first_window = value - self.first_window, value
                for call in self.calls.values():
                    call.window += change
            elif name == Setting.MAX_FRAME_SIZE:
                self.frame_size = max(FIRST_FRAME_SIZE, value)
        self.write(frame(Kind.SETTINGS, ACK, 0))
        self._send_more()

    def _refuse_push(self, _number: int, _flags: int, _payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "clients do not push")

    def _ping(self, _: int, flags: int, payload: bytes) -> None:
        if not flags & ACK:
            self.write(frame(Kind.PING, ACK, 0, payload[:8]))

    def _window_update(self, number: int, _: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a window update of odd length")
        more = struct.unpack(">I", payload)[0] & MAX_WINDOW
        if number == 0:
            self.window += more
            self._send_more()
        elif (call := self.calls.get(number)) is not None:
            call.window += more
            self.touch(call)
        if self.window > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window too large")

    def _send_more(self) -> None:
        for call in self.calls.values():
            if call.has_to_send:
                self.touch(call)
