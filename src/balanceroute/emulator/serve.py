"""Emulated groups that serve: as part of a test, or until a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from aiohttp import web

from balanceroute.emulator.config import ServerConfig
from balanceroute.emulator.group import EmulatedGroup
from balanceroute.emulator.server import GroupServer
from balanceroute.emulator.transfer import KvExchange
from balanceroute.errors import ConfigError

MAX_PENDING_CONNECTIONS = 4096  # a burst of clients connects at once
SHUTDOWN_S = 1.0


@contextlib.asynccontextmanager
async def emulated_groups(config: ServerConfig) -> AsyncIterator[list[EmulatedGroup]]:
    """Serve ``config.num_groups`` groups for the time of the context.

    Parameters
    ----------
    config : ServerConfig
        What is served; with port 0 the operating system chooses the ports.

    Raises
    ------
    ConfigError
        If a port cannot be had.

    Examples
    --------
    >>> from balanceroute.cluster.costs import StepCosts
    >>> from balanceroute.emulator.config import EngineConfig
    >>> async def count_groups() -> int:
    ...     engine = EngineConfig(costs=StepCosts(constant_s=0.01, s_per_token=1e-7))
    ...     async with emulated_groups(ServerConfig(engine=engine, port=0, num_groups=2)) as groups:
    ...         return len({group.url for group in groups})
    >>> asyncio.run(count_groups())
    2
    """
    exchange = KvExchange()
    groups: list[EmulatedGroup] = []
    runners: list[web.AppRunner] = []
    try:
        for index in range(config.num_groups):
            group = EmulatedGroup(config, index, exchange)
            groups.append(group)
            for i in range(config.ports_per_group):
                port = config.port + index * config.ports_per_group + i if config.port else 0
                rank = i if config.has_port_per_rank else None
                runners.append(await _start(group, rank, port))
        yield groups
    finally:
        for group in groups:
            group.stop()
        for runner in runners:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def emulated_group(config: ServerConfig) -> AsyncIterator[EmulatedGroup]:
    """Serve one group for the time of the context; see `emulated_groups`."""
    async with emulated_groups(replace(config, num_groups=1)) as groups:
        yield groups[0]


def serve(config: ServerConfig, announce: Callable[[Sequence[EmulatedGroup]], None]) -> int:
    """Serve until SIGINT or SIGTERM, and return which of them came.

    Parameters
    ----------
    config : ServerConfig
        What is served.
    announce : callable
        Called with the groups when they can be reached.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config, announce))


async def _serve(config: ServerConfig, announce: Callable[[Sequence[EmulatedGroup]], None]) -> int:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()

    def note(number: int) -> None:
        if not stop.done():
            stop.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, note, int(number))
    async with emulated_groups(config) as groups:
        announce(groups)
        return await stop


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where there is one: it writes more chunks per second."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _start(group: EmulatedGroup, rank: int | None, port: int) -> web.AppRunner:
    """Open one port of a group."""
    runner = web.AppRunner(
        GroupServer(group, rank).application(),
        access_log=None,
        handler_cancellation=True,  # so that a request whose client goes away is aborted
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    host = group.config.host
    site = web.TCPSite(runner, host, port, backlog=MAX_PENDING_CONNECTIONS)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --host or "
            "--port (0 takes a free one)"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    group.urls.append(f"http://{shown}:{runner.addresses[0][1]}")
    return runner
