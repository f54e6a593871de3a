"""One gRPC call: messages in, messages out, and how it ends."""

from __future__ import annotations

import logging
import struct
from collections import deque
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

PREFIX_SIZE = 5  # of a message: whether it is compressed, and its length
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

    def receive(self, message: bytes) -> None:
        """Take in a message."""
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

    def write(self, data: bytes) -> None:
        """Write with what else is written in this turn of the loop."""
        ...

    def forget(self, number: int) -> None:
        """Let go of a call that has ended on both sides."""
        ...


class Call:
    """A call that a client has opened.

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
        "_listener",
        "_max_bytes",
        "_number",
        "_pending",
        "_wire",
        "has_ended",
        "num_received",
        "window",
    )

    def __init__(self, wire: Wire, number: int, max_message_bytes: int) -> None:
        self._wire, self._number, self._max_bytes = wire, number, max_message_bytes
        self._buffer = b""
        self._listener: Listener | None = None
        self._pending: deque[bytes] = deque()  # what the windows do not allow yet
        self._has_begun = self._has_half_closed = self.has_ended = False
        self.window, self.num_received = wire.first_window, 0

    def listen(self, listener: Listener | None) -> None:
        """Let somebody have the messages."""
        self._listener = listener

    def feed(self, data: bytes, *, is_end: bool) -> None:
        """Take in bytes of the stream, and hand over the messages that are complete."""
        if data and self._listener is not None and not self.has_ended:
            data = self._buffer + data if self._buffer else data
            self._buffer = self._hand_over(data)
        if is_end and not self._has_half_closed:
            self._has_half_closed = True
            if self.has_ended:
                self._wire.forget(self._number)
            elif self._buffer:
                self.end(Status.INTERNAL, "a message is cut off")
            elif self._listener is not None:
                self._listener.half_close()

    def _hand_over(self, data: bytes) -> bytes:
        """Hand over whole messages; return the rest."""
        at = 0
        while at + PREFIX_SIZE <= len(data) and not self.has_ended:
            is_compressed, size = struct.unpack_from(">BI", data, at)
            if is_compressed:
                self.end(Status.UNIMPLEMENTED, "messages must not be compressed")
                return b""
            if size > self._max_bytes:
                message = f"a message of {size} bytes; at most {self._max_bytes} are taken"
                self.end(Status.RESOURCE_EXHAUSTED, message)
                return b""
            end = at + PREFIX_SIZE + size
            if end > len(data):
                break
            assert self._listener is not None
            try:
                self._listener.receive(data[at + PREFIX_SIZE : end])
            except Exception:  # one call's trouble is not that of all others on the connection
                log.exception(FAILED)
                self.fail()
            at = end
        return data[at:]

    def send(self, message: bytes) -> None:
        """Send a message; nothing, if the call has ended."""
        if self.has_ended:
            return
        self._begin()
        self._pending.append(struct.pack(">BI", 0, len(message)) + message)
        self.send_more()

    def end(self, status: Status = Status.OK, message: str = "") -> None:
        """End the call."""
        if self.has_ended:
            return
        self.has_ended = True
        self._listener, self._buffer = None, b""
        self._pending.append(trailers(status, message))
        self.send_more()

    def fail(self) -> None:
        """End the call because of an error of our own."""
        listener = self._listener
        if listener is not None:
            listener.cancel()
        self.end(Status.INTERNAL, "the router has failed")

    def cancel(self) -> None:
        """Note that nobody is there any more."""
        listener, self._listener = self._listener, None
        was_open, self.has_ended = not self.has_ended, True
        self._pending.clear()
        if listener is not None and was_open:
            listener.cancel()

    def send_more(self) -> None:
        """Send what waits, as far as the windows allow."""
        wire, pending = self._wire, self._pending
        while pending:
            if self.has_ended and len(pending) == 1:
                self._close(pending.popleft())
                return
            data = pending[0]
            size = min(len(data), self.window, wire.window, wire.frame_size)
            if size <= 0:
                return
            wire.write(frame(Kind.DATA, 0, self._number, data[:size]))
            self.window -= size
            wire.window -= size
            if size == len(data):
                pending.popleft()
            else:
                pending[0] = data[size:]

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._wire.write(frame(Kind.HEADERS, END_HEADERS, self._number, ANSWER_HEADERS))

    def _close(self, block: bytes) -> None:
        block = block if self._has_begun else ANSWER_HEADERS + block
        self._wire.write(frame(Kind.HEADERS, END_HEADERS | END_STREAM, self._number, block))
        if not self._has_half_closed:  # a server that has answered in full need not hear the rest
            code = struct.pack(">I", ErrorCode.NO_ERROR)
            self._wire.write(frame(Kind.RST_STREAM, 0, self._number, code))
        self._wire.forget(self._number)
