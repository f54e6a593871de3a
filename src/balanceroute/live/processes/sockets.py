"""The sockets of a router in several processes, which outlive each of these."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from balanceroute.live.listening import BACKLOG, taken

FOR_PLANES, FOR_PAGES = "planes.sock", "pages.sock"  # in the folder of a router's sockets


def bind_port(host: str, port: int, num_planes: int) -> list[socket.socket]:
    """Return a socket for each data plane, all bound to one port; port 0 takes a free one.

    On Linux each has a queue of its own, among which the kernel divides connections evenly.
    Elsewhere they share one, from which whoever is free takes the next.

    Raises
    ------
    ConfigError
        If the port is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        first = _bound(family, address, is_shared=False)  # nobody else is there
        if not sys.platform.startswith("linux"):
            return [first] * num_planes
        address = first.getsockname()
        first.close()
        return [_bound(family, address, is_shared=True) for _ in range(num_planes)]
    except OSError as error:
        raise taken(host, port, error) from error


def _bound(family: int, address: object, *, is_shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)  # type: ignore[arg-type]  # as getaddrinfo gives it
    except OSError:
        bound.close()
        raise
    return bound


def listen_at(path: Path) -> socket.socket:
    """Return a Unix socket that listens under a path."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(BACKLOG)
    return listener
