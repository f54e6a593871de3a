"""Clients that take their time: deadlines for what they send, and for what they do not read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http import HttpProcessingError
from prometheus_client import Counter

from balanceroute.live.answers import JSON, Refusal, error_body
from balanceroute.live.carrying import Carrying
from balanceroute.live.config import ServeConfig
from balanceroute.live.deadlines import Deadline, Deadlines

HEADERS, BODY, ANSWER = "headers", "body", "answer"  # what a client may be too slow with
LAST_WORDS_S = 1.0  # to write why an answer ends
SLOW_BODY = "slow_body"
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def read_body(request: web.BaseRequest, limit_s: float) -> bytes:
    """Return the body of a request.

    Raises
    ------
    Refusal
        408 if it does not come within `limit_s` seconds.
    """
    if request.content.is_eof():  # it has come with the headers, as nearly all do
        return await request.read()
    try:
        async with asyncio.timeout(limit_s):
            return await request.read()
    except TimeoutError as error:
        raise Refusal(408, f"the body did not come within {limit_s:g} s", SLOW_BODY) from error


class Connection(web.RequestHandler):
    """A client's connection that is given up if nothing moves on it for too long.

    Its deadlines are for the headers of a request, from their first byte, or from the beginning of
    the connection; and for an answer that the client does not read, from when the buffers are full.

    Parameters
    ----------
    server : ClientServer
        Which it belongs to.
    settings : callable
        Returns the settings in force.
    slow : Counter
        Of slow clients, by what they were slow with.
    deadlines : Deadlines
        Of all connections.
    options
        As of `aiohttp.web.RequestHandler`.
    """

    __slots__ = (
        "_deadlines",
        "_due",
        "_has_begun",
        "_payload",
        "_settings",
        "_slow",
        "_stalled",
        "is_busy",
    )

    def __init__(
        self,
        server: ClientServer,
        *,
        settings: Callable[[], ServeConfig],
        slow: Counter,
        deadlines: Deadlines,
        **options: Any,
    ) -> None:
        super().__init__(server, **options)
        self._settings, self._slow, self._deadlines = settings, slow, deadlines
        self._due: Deadline | None = None  # when the headers must be complete
        self._stalled: asyncio.TimerHandle | None = None  # when it must have read something
        self._payload: Any = None
        self._has_begun = False
        self.is_busy = False  # with a request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect a request."""
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Expect nothing more."""
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in; those behind a request and its answer begin the next one's headers."""
        is_next = not self.is_busy and (self._payload is None or self._payload.is_eof())
        if is_next and data:
            self._has_begun = True
            if self._due is None:
                self._expect_headers()
        super().data_received(data)

    def note_request(self, payload: Any) -> None:
        """Take note that the headers of a request are complete, and where its body comes."""
        self._payload, self.is_busy, self._has_begun = payload, True, False
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Say in one line what a client has sent that is no HTTP; the rest is our own fault."""
        error = options.get("exc_info")
        if isinstance(error, HttpProcessingError):
            self.logger.info("a client's request is no HTTP: %s", repr(error.message)[:200])
        else:
            super().log_exception(*args, **options)

    def pause_writing(self) -> None:
        """Take note that the client has more to read than there is room for."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """Take note that it has read on."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _expect_reading(self) -> None:
        limit_s, num_left = self._settings().stall_timeout_secs, self._num_unread
        self._stalled = asyncio.get_running_loop().call_later(limit_s, self._give_up, num_left)

    @property
    def _num_unread(self) -> int:
        """Return how many bytes are left to be sent, beyond what the system has taken."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def _expect_headers(self) -> None:
        limit_s = self._settings().header_timeout_secs
        self._due = self._deadlines.expect(limit_s, partial(self._refuse, limit_s))

    def _refuse(self, limit_s: float) -> None:
        """End a connection whose headers do not come; there is no request to answer yet."""
        self._due = None
        if self._has_begun and self.transport is not None:
            self._slow.labels(HEADERS).inc()
            self.transport.write(_late_headers(limit_s))
        self.force_close()

    def _give_up(self, num_before: int) -> None:
        """Drop the client unless it reads; by that its request is aborted, on the engine too."""
        self._stalled = None
        if self.transport is None:
            return
        if self._num_unread < num_before:  # an answer in one piece may take it a while
            self._expect_reading()
            return
        self._slow.labels(ANSWER).inc()
        self.transport.abort()

    def _stop_timers(self) -> None:
        for waited_for in (self._due, self._stalled):
            if waited_for is not None:
                waited_for.cancel()
        self._due = self._stalled = None


class ClientServer(web.Server):
    """Serves clients, each for as long as it keeps to the limits.

    Parameters
    ----------
    handler : callable
        Answers any request.
    parts : Carrying
        Of the process; `is_stopping` is set when those that still run are told to end.
    """

    def __init__(self, handler: Handler, parts: Carrying) -> None:
        config = parts.config
        factory = partial(_make_request, max_body_bytes=config.max_body_bytes)
        super().__init__(self._handle, request_factory=factory, handler_cancellation=True)
        self._handler, self._parts = handler, parts
        self._tasks: set[asyncio.Task[Any]] = set()
        self._connect = partial(
            Connection,
            self,
            settings=lambda: parts.config,
            slow=parts.counters.slow_clients,
            deadlines=Deadlines(),
            loop=asyncio.get_running_loop(),
            access_log=None,
            max_line_size=config.max_header_bytes,
            max_field_size=config.max_header_bytes,
            max_headers=config.max_headers,
        )

    def __call__(self) -> Connection:
        """Return what serves a new connection."""
        return self._connect()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task, connection = asyncio.current_task(), request.protocol
        assert task is not None
        assert isinstance(connection, Connection)
        self._tasks.add(task)
        try:
            return await self._handler(request)
        finally:
            self._tasks.discard(task)
            connection.is_busy = False

    async def shutdown(self, timeout: float | None = None) -> None:
        """Let what runs come to its end; who is not done in time is told so."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._parts.config.shutdown_timeout_secs)
        self._parts.is_stopping = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_WORDS_S)
        await super().shutdown(timeout)


def _make_request(
    message: Any, payload: Any, protocol: Any, writer: Any, task: Any, *, max_body_bytes: int
) -> web.BaseRequest:
    protocol.note_request(payload)
    loop = asyncio.get_running_loop()
    return web.BaseRequest(
        message, payload, protocol, writer, task, loop, client_max_size=max_body_bytes
    )


def _late_headers(limit_s: float) -> bytes:
    message = f"the headers did not come within {limit_s:g} s"
    body = msgspec.json.encode(error_body(408, message))
    head = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"
    return f"{head}Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
