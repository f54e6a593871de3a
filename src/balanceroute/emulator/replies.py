"""Answers under way: told token by token, or as a whole at the end."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Protocol

from balanceroute.emulator.dialects import Dialect
from balanceroute.emulator.request import FinishReason


class Reply(Protocol):
    """Somebody who waits for the tokens of a request.

    Attributes
    ----------
    done : asyncio.Future
        Resolves when everything has been told; cancelled if the answer is cut off.
    """

    done: asyncio.Future[bytes]

    def push(self, end: FinishReason | None) -> None:
        """Take one more token; with the last one, why it is."""

    def withhold(self, is_withheld: bool) -> None:
        """Keep tokens back from now on, or let those kept back go."""

    def cut(self) -> None:
        """Break off the answer, with its connection."""


class WholeReply:
    """An answer that is given at the end; `done` resolves to its body.

    Parameters
    ----------
    dialect : Dialect
        Form of the answer.
    is_withheld : bool
        Whether it is kept back at first.
    """

    def __init__(self, dialect: Dialect, *, is_withheld: bool = False) -> None:
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._dialect = dialect
        self._num_tokens = 0
        self._is_withheld = is_withheld
        self._end: FinishReason | None = None

    def push(self, end: FinishReason | None) -> None:
        """Count a token; with the last one, answer."""
        self._num_tokens += 1
        if end is not None:
            self._end = end
            self._answer()

    def withhold(self, is_withheld: bool) -> None:
        """Keep the answer back from now on, or let it go."""
        self._is_withheld = is_withheld
        self._answer()

    def cut(self) -> None:
        """Give no answer."""
        self.done.cancel()

    def _answer(self) -> None:
        if self._end is not None and not self._is_withheld and not self.done.done():
            self.done.set_result(self._dialect.body(self._num_tokens, self._end))


class StreamReply:
    """A stream of server-sent events, written to the connection as the tokens come.

    Nobody is woken up for a chunk: the bytes of a stream's ordinary chunk are made once, and go
    straight to the transport.

    Parameters
    ----------
    dialect : Dialect
        Form of the events.
    transport : asyncio.Transport
        The connection; the response's headers have been sent.
    is_chunked : bool
        Whether the body has HTTP/1.1's chunked encoding.
    interval : int
        Tokens per chunk, at least 1; the first and the last token come at once.
    is_withheld : bool
        Whether tokens are kept back at first.
    reset_after : int
        Chunks after which the connection is reset; 0 for never.
    is_garbled : bool
        Whether the first chunk is no JSON.
    """

    def __init__(
        self,
        dialect: Dialect,
        transport: asyncio.Transport,
        *,
        is_chunked: bool = True,
        interval: int = 1,
        is_withheld: bool = False,
        reset_after: int = 0,
        is_garbled: bool = False,
    ) -> None:
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._dialect = dialect
        self._transport = transport
        self._is_chunked = is_chunked
        self._interval = interval
        self._is_withheld = is_withheld
        self._reset_after = reset_after
        self._is_garbled = is_garbled
        self._num_tokens = 0
        self._num_pending = 0
        self._num_chunks = 0
        self._frames: dict[int, bytes] = {}
        self._end: FinishReason | None = None

    def push(self, end: FinishReason | None) -> None:
        """Take one more token, and write a chunk if it is time for one."""
        self._num_tokens += 1
        self._num_pending += 1
        self._end = end
        if self._is_withheld:
            return
        if end is not None or self._num_pending >= self._interval or self._num_chunks == 0:
            self._write()

    def withhold(self, is_withheld: bool) -> None:
        """Keep tokens back from now on, or write those kept back."""
        self._is_withheld = is_withheld
        if not is_withheld and self._num_pending > 0:
            self._write()

    def cut(self) -> None:
        """Reset the connection."""
        if not self._transport.is_closing():
            reset(self._transport)
        self.done.cancel()

    def _write(self) -> None:
        num_tokens, self._num_pending = self._num_pending, 0
        if self.done.done() or self._transport.is_closing():
            return
        self._transport.write(self._frame(num_tokens))
        self._num_chunks += 1
        if self._num_chunks == self._reset_after:
            self.cut()
        elif self._end is not None:
            self.done.set_result(b"")

    def _frame(self, num_tokens: int) -> bytes:
        if self._end is not None:
            events = self._dialect.last(num_tokens, self._num_tokens, self._end)
        elif self._num_chunks > 0 and num_tokens in self._frames:
            return self._frames[num_tokens]
        else:
            events = self._dialect.chunk(num_tokens, self._num_tokens)
        if self._num_chunks == 0:
            return self._framed(garbled(events) if self._is_garbled else events)
        frame = self._framed(events)
        if self._end is None and self._dialect.has_constant_chunks:
            self._frames[num_tokens] = frame
        return frame

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data


def garbled(events: bytes) -> bytes:
    r"""Cut the first of some events in half.

    Examples
    --------
    >>> garbled(b'data: {"a":1}\n\ndata: [DONE]\n\n')
    b'data: \n\ndata: [DONE]\n\n'
    """
    first, gap, rest = events.partition(b"\n\n")
    return first[: len(first) // 2] + gap + rest


def reset(transport: asyncio.Transport) -> None:
    """Break off a connection so that the other side sees a reset, not an end."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        at_once = struct.pack("ii", 1, 0)  # lingers on, for 0 seconds: what is left is dropped
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    transport.abort()
