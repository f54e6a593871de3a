"""Where clients come in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from balanceroute.errors import ConfigError

CLOSE_S = 1.0  # for connections, once all requests have ended
BACKLOG = 1024
RETRY_S = 0.1  # after a connection that could not be taken in

log = logging.getLogger(__name__)


async def listen(
    stack: contextlib.AsyncExitStack, runner: web.BaseRunner, host: str, port: int
) -> int:
    """Serve on a port until the stack is left; return the port.

    Raises
    ------
    ConfigError
        If it is taken.
    """
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
    except OSError as error:
        raise taken(host, port, error) from error
    return int(runner.addresses[0][1])


async def listen_on(
    stack: contextlib.AsyncExitStack, runner: web.BaseRunner, inherited: socket.socket
) -> None:
    """Serve on a socket that another process has bound, until the stack is left."""
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, inherited, backlog=BACKLOG).start()


def taken(host: str, port: int, error: OSError) -> ConfigError:
    """Return what to say of a port that cannot be had."""
    return ConfigError(
        f"cannot listen on {host}:{port}: {error.strerror or error}; choose another port"
    )


@contextlib.asynccontextmanager
async def accepting(
    inherited: socket.socket, connect: Callable[[], asyncio.BaseProtocol]
) -> AsyncIterator[None]:
    """Serve on a socket that outlives this process, for the time of the context.

    A server of asyncio's would remove a Unix socket's path at its end, and with it the way of
    others to whoever comes next.
    """
    loop = asyncio.get_running_loop()

    async def accept() -> None:
        while True:
            try:
                accepted, _ = await loop.sock_accept(inherited)
                await loop.connect_accepted_socket(connect, accepted)
            except OSError as error:  # too many open files, or whoever came has left again
                log.error("cannot take in a connection: %s", error.strerror or error)
                await asyncio.sleep(RETRY_S)

    accepts = asyncio.create_task(accept())
    try:
        yield
    finally:
        accepts.cancel()
        await asyncio.gather(accepts, return_exceptions=True)
