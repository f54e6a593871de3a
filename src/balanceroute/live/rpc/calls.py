"""One gRPC call: messages in, messages out, and how it ends."""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from typing import Protocol

from balanceroute.live.rpc.frames import (
    ANSWER_HEADERS,
    END_HEADERS,
    END_STREAM,
    ErrorCode,
    Kind,
    Status,
    frame,
    trailers,
)

PREFIX = struct.Struct(">BI")  # of a message: whether it is compressed, and its length
FAILED = "a call has failed inside the router; please report this"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What the headers of a call say.

    Attributes
    ----------
    path : str
        ``/package.Service/Method``.
    content_type, authorization : str
        Empty if there is none.
    """

    path: str
    content_type: str
    authorization: str

    @staticmethod
    def of(headers: dict[bytes, bytes]) -> Opening:
        """Return what is of interest."""

        def text(name: bytes) -> str:
            return bytes(headers.get(name, b"")).decode("latin-1")

        return Opening(
            path=text(b":path"),
            content_type=text(b"content-type"),
            authorization=text(b"authorization"),
        )


class Listener(Protocol):
    """Who gets what a client sends in a call."""

    def receive(self, messages: list[bytes]) -> None:
        """Take in the messages that have come together."""
        ...

    def half_close(self) -> None:
        """Note that the client sends nothing more."""
        ...

    def cancel(self) -> None:
        """Note that the client has gone."""
        ...


class Wire(Protocol):
    """The connection of a call."""

    window: int
    first_window: int
    frame_size: int

    def touch(self, call: Call) -> None:
        """Let a call have its turn before this one of the loop is over."""
        ...

    def linger(self) -> None:
        """Write a turn of the loop later, when there will be more to write."""
        ...

    def write(self, data: bytes) -> None:
        """Write with what else is written in this turn of the loop."""
        ...

    def forget(self, number: int) -> None:
        """Let go of a call that has ended on both sides."""
        ...


class Call:
    """A call that a client has opened.

    Messages that come together are handed over together, and what they set off leaves together, in
    one frame if it can: once per turn, which the wire gives to each call that is touched.

    Parameters
    ----------
    wire : Wire
        Where it comes from.
    number : int
        Of its stream.
    max_message_bytes : int
        The longest message that is taken.
    """

    __slots__ = (
        "_buffer",
        "_has_begun",
        "_has_half_closed",
        "_is_half_close_told",
        "_listener",
        "_max_bytes",
        "_messages",
        "_number",
        "_pending",
        "_trailers",
        "_wire",
        "has_ended",
        "is_touched",
        "num_received",
        "window",
    )

    def __init__(self, wire: Wire, number: int, max_message_bytes: int) -> None:
        self._wire, self._number, self._max_bytes = wire, number, max_message_bytes
        self._buffer = self._trailers = b""
        self._listener: Listener | None = None
        self._messages: list[bytes] = []  # that have come since the last turn
        self._pending: list[bytes] = []  # what has not left yet
        self._has_begun = self._has_half_closed = self._is_half_close_told = False
        self.has_ended = self.is_touched = False
        self.window, self.num_received = wire.first_window, 0

    def listen(self, listener: Listener | None) -> None:
        """Let somebody have the messages."""
        self._listener = listener

    @property
    def has_to_send(self) -> bool:
        """Tell whether something could not leave yet."""
        return bool(self._pending)

    def feed(self, data: bytes, *, is_end: bool) -> None:
        """Take in bytes of the stream; the messages in them are handed over in its next turn."""
        if data and self._listener is not None:
            data = self._buffer + data if self._buffer else data
            self._buffer = self._cut(data)
        self._has_half_closed |= is_end
        self._wire.touch(self)

    def _cut(self, data: bytes) -> bytes:
        """Cut whole messages off; return the rest."""
        at, end = 0, len(data)
        while at + PREFIX.size <= end:
            is_compressed, size = PREFIX.unpack_from(data, at)
            if is_compressed:
                self._break_off(Status.UNIMPLEMENTED, "messages must not be compressed")
                return b""
            if size > self._max_bytes:
                message = f"a message of {size} bytes; at most {self._max_bytes} are taken"
                self._break_off(Status.RESOURCE_EXHAUSTED, message)
                return b""
            start = at + PREFIX.size
            if start + size > end:
                break
            at = start + size
            self._messages.append(data[start:at])
        return data[at:]

    def turn(self) -> None:
        """Hand over what has come, and write what is to leave."""
        self.is_touched = False
        self._hand_over()
        self._send()

    def _hand_over(self) -> None:
        try:
            self._tell()
        except Exception:  # one call's trouble is not that of all others on the connection
            log.exception(FAILED)
            self.fail()

    def _tell(self) -> None:
        """Tell the listener what has come."""
        if self._messages and self._listener is not None:
            messages, self._messages = self._messages, []
            self._listener.receive(messages)
        if self._has_half_closed and not self._is_half_close_told and self._listener is not None:
            self._is_half_close_told = True
            if self._buffer:
                self._break_off(Status.INTERNAL, "a message is cut off")
            else:
                self._listener.half_close()

    def send(self, *messages: bytes) -> None:
        """Send messages; nothing, if the call has ended."""
        if self.has_ended:
            return
        for message in messages:
            self._pending.append(PREFIX.pack(0, len(message)) + message)
        self._wire.touch(self)

    def linger(self) -> None:
        """Note that something will be sent in the next turn of the loop, with which all may go."""
        self._wire.linger()

    def end(self, status: Status = Status.OK, message: str = "") -> None:
        """End the call."""
        if self.has_ended:
            return
        self.has_ended = True
        self._listener, self._buffer = None, b""
        self._messages.clear()
        self._trailers = trailers(status, message)
        self._wire.touch(self)

    def fail(self) -> None:
        """End the call because of an error of our own."""
        self._break_off(Status.INTERNAL, "the router has failed")

    def _break_off(self, status: Status, message: str) -> None:
        """End the call before its listener would."""
        listener = self._listener
        self.end(status, message)
        if listener is not None:
            listener.cancel()

    def cancel(self) -> None:
        """Note that nobody is there any more."""
        if self._messages:  # what came before that counts
            self._is_half_close_told = True
            self._hand_over()
        listener, self._listener = self._listener, None
        was_open, self.has_ended = not self.has_ended, True
        self._pending.clear()
        self._trailers = b""
        if listener is not None and was_open:
            listener.cancel()

    def _send(self) -> None:
        """Write what waits, as far as the windows allow."""
        if self._pending:
            data = b"".join(self._pending)
            rest = data[self._write(data) :]
            self._pending = [rest] if rest else []
        if self._trailers and not self._pending:
            self._close(self._trailers)

    def _write(self, data: bytes) -> int:
        """Write as much as may leave; return how many bytes that is."""
        wire, at = self._wire, 0
        while at < len(data):
            size = min(len(data) - at, self.window, wire.window, wire.frame_size)
            if size <= 0:
                break
            if not self._has_begun:
                self._has_begun = True
                wire.write(frame(Kind.HEADERS, END_HEADERS, self._number, ANSWER_HEADERS))
            wire.write(frame(Kind.DATA, 0, self._number, data[at : at + size]))
            self.window -= size
            wire.window -= size
            at += size
        return at

    def _close(self, block: bytes) -> None:
        self._trailers = b""
        block = block if self._has_begun else ANSWER_HEADERS + block
        self._wire.write(frame(Kind.HEADERS, END_HEADERS | END_STREAM, self._number, block))
        if not self._has_half_closed:  # a server that has answered in full need not hear the rest
            code = struct.pack(">I", ErrorCode.NO_ERROR)
            self._wire.write(frame(Kind.RST_STREAM, 0, self._number, code))
        self._wire.forget(self._number)
