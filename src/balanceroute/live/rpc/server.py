"""A gRPC server: its methods, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

from balanceroute.errors import ConfigError
from balanceroute.live.answers import Refusal
from balanceroute.live.rpc.calls import Call, Listener, Opening
from balanceroute.live.rpc.connection import Connection
from balanceroute.live.rpc.frames import Status
from balanceroute.live.rpc.methods import Open, end_refused

BACKLOG = 1024


class RpcServer:
    """Serves methods by their paths.

    Parameters
    ----------
    methods : dict
        What opens a call, by ``/package.Service/Method``.
    max_message_bytes : int
        The longest message that is taken.
    """

    def __init__(self, methods: dict[str, Open], *, max_message_bytes: int) -> None:
        self._methods, self.max_message_bytes = methods, max_message_bytes
        self.connections: set[Connection] = set()

    def open(self, call: Call, opening: Opening) -> Listener | None:
        """Return who gets the messages of a call; None if it has been ended already."""
        method = self._methods.get(opening.path)
        if method is None or not opening.content_type.startswith("application/grpc"):
            call.end(Status.UNIMPLEMENTED, f"there is no method {opening.path}")
            return None
        try:
            return method(call, opening)
        except Refusal as refusal:
            end_refused(call, refusal)
            return None

    async def stop(self, timeout_s: float) -> None:
        """Let what runs come to its end, and close the connections."""
        for connection in list(self.connections):
            connection.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.connections:
                    await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.close()


@contextlib.asynccontextmanager
async def listening(
    server: RpcServer,
    host: str,
    port: int,
    *,
    shutdown_s: Callable[[], float],
    path: str | None = None,
) -> AsyncIterator[int]:
    """Serve on a port, and on a Unix socket if it has a path, and give the port.

    Raises
    ------
    ConfigError
        If the port is taken, or the socket cannot be made.
    """
    connect = partial(Connection, server)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(lambda: server.stop(shutdown_s()))
        loop = asyncio.get_running_loop()
        with _told_as(f"{host}:{port}", "--grpc-port"):
            listener = await loop.create_server(connect, host, port, backlog=BACKLOG)
        stack.callback(listener.close)
        if path is not None:  # one that a server has left there is replaced
            with _told_as(path, "--grpc-socket"):
                local = await loop.create_unix_server(connect, path, backlog=BACKLOG)
            stack.callback(local.close)
            stack.callback(_remove, Path(path), _identity(Path(path)))
        yield int(listener.sockets[0].getsockname()[1])


def _identity(path: Path) -> tuple[int, int]:
    its = path.stat()
    return its.st_ino, its.st_mtime_ns  # numbers of files that are gone are given again


def _remove(path: Path, identity: tuple[int, int]) -> None:
    """Remove a server's socket, unless another server has put its own there."""
    with contextlib.suppress(FileNotFoundError):
        if _identity(path) == identity:
            path.unlink()


@contextlib.contextmanager
def _told_as(where: str, flag: str) -> Iterator[None]:
    """Say in one line that there can be no listening there."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {where}: {error.strerror or error}; choose another {flag}"
        ) from error
