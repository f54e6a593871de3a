"""The router as an HTTP server: its paths, its background work, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from balanceroute import __version__
from balanceroute.cluster.costs import StepCosts
from balanceroute.errors import MissingExtraError
from balanceroute.live.admin import Admin, workers
from balanceroute.live.answers import json_response
from balanceroute.live.booking import Booking
from balanceroute.live.clients import ClientServer
from balanceroute.live.config import ServeConfig
from balanceroute.live.dashboard import EVENTS_PATH, FILES, Dashboard, show_file
from balanceroute.live.decision_api.faces import http_paths
from balanceroute.live.decision_api.reservations import Reservations
from balanceroute.live.handling import Handler, Handling, liveness
from balanceroute.live.listening import CLOSE_S, listen
from balanceroute.live.parts import Parts
from balanceroute.live.passing import PassThrough
from balanceroute.live.proxy import Proxy
from balanceroute.live.services import serving_grpc
from balanceroute.live.upstream import open_session
from balanceroute.live.watch import Watch
from balanceroute.live.wire import PATHS

if TYPE_CHECKING:
    from balanceroute.live.tracing import Tracing


class Router:
    """A running router; make it with `running_router`."""

    def __init__(self, parts: Parts, tracing: Tracing | None) -> None:
        self.parts, self.group, self.health = parts, parts.group, parts.health
        self.meters, self.watch = parts.meters, Watch(parts)
        proxy, self.dashboard = Proxy(parts, Booking(parts), tracing), Dashboard(parts)
        paths: dict[tuple[str, str], Handler] = {
            ("GET", "/health"): liveness,
            ("GET", "/liveness"): liveness,
            ("GET", "/readiness"): self._readiness,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/workers"): self._workers,
            ("GET", "/version"): self._version,
        }
        paths.update({("GET", path): show_file for path in FILES})
        paths["GET", EVENTS_PATH] = self.dashboard.events
        paths.update({("POST", path): proxy.generate for path in PATHS})
        self.reservations = Reservations(parts)
        if parts.config.decisions:
            paths.update(http_paths(self.reservations, parts))
        self.handle = Handling(
            parts,
            paths,
            PassThrough(parts).answer,
            is_public=(liveness, self._readiness, show_file),
            is_counted=lambda _: (
                parts.processes is None
            ),  # else they are counted where they are given
        ).handle
        self.grpc_port: int | None = None  # once it is served

    async def _readiness(self, _: web.BaseRequest) -> web.StreamResponse:
        is_open, processes = self.health.is_open, self.parts.processes
        missing = processes.missing() if processes is not None else ""
        missing = missing or ("" if any(is_open) else "no rank is fit")
        status = {"status": missing or "ready", "open": is_open}
        return json_response(status, 503 if missing else 200)

    async def _version(self, _: web.BaseRequest) -> web.StreamResponse:
        return json_response({"version": __version__})

    async def _metrics(self, _: web.BaseRequest) -> web.StreamResponse:
        text = self.meters.text()
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _workers(self, _: web.BaseRequest) -> web.StreamResponse:
        return json_response(workers(self.parts))


@contextlib.asynccontextmanager
async def running_router(
    config: ServeConfig,
    costs: StepCosts | None = None,
    reread: Callable[[], ServeConfig] | None = None,
    *,
    is_picker: bool = False,
) -> AsyncIterator[tuple[Router, int]]:
    """Run a router, and give it with the port that it listens on.

    Parameters
    ----------
    config, costs
        The settings, and what a step costs if that is known.
    reread : callable or None
        Returns the settings as they are written now, for a reload.
    is_picker : bool
        Whether Envoy may ask over gRPC which rank a request of its own should go to.

    Raises
    ------
    ConfigError
        If a port is taken, or the engines are not what the settings say.
    """
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session())
        parts = Parts.of(config, costs, session)
        router = await start_router(stack, parts, reread, is_picker=is_picker)
        yield router, await serve_clients(stack, router)


async def start_router(
    stack: contextlib.AsyncExitStack,
    parts: Parts,
    reread: Callable[[], ServeConfig] | None,
    *,
    is_picker: bool = False,
) -> Router:
    """Start all of a router but what clients reach, until the stack is left."""
    config = parts.config
    stack.callback(parts.planner.stop)
    stack.callback(parts.counting.stop)
    if parts.decisions is not None:
        stack.callback(parts.decisions.close)
    router = Router(parts, await stack.enter_async_context(_tracing(parts)))
    stack.push_async_callback(router.dashboard.stop)
    stack.callback(router.reservations.stop)
    stack.push_async_callback(router.watch.stop)
    await router.watch.start()
    if parts.shadow is not None:
        stack.push_async_callback(parts.shadow.stop)
        await parts.shadow.start()
    if config.admin_port is not None:
        pages = Admin(parts, reread, router.dashboard).app()
        admin = web.AppRunner(pages, access_log=None, shutdown_timeout=CLOSE_S)
        await listen(stack, admin, config.host, config.admin_port)
    if config.grpc_port is not None:
        router.grpc_port = await stack.enter_async_context(
            serving_grpc(parts, router.reservations, is_picker=is_picker)
        )
    return router


@contextlib.asynccontextmanager
async def _tracing(parts: Parts) -> AsyncIterator[Tracing | None]:
    """Give what the settings ask to be told of requests; what it still knows is sent at the end."""
    url = parts.config.otlp_traces_endpoint
    if url is None:
        yield None
        return
    try:
        from balanceroute.live.tracing import Tracing
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"traces need {error.name}; install it with: pip install 'balanceroute[otel]'"
        ) from error
    tracing = Tracing(url, policy_now=lambda: parts.policy_now)
    try:
        yield tracing
    finally:
        await asyncio.to_thread(tracing.stop)


async def serve_clients(stack: contextlib.AsyncExitStack, router: Router) -> int:
    """Let clients in until the stack is left; return the port."""
    config = router.parts.config
    runner = web.ServerRunner(ClientServer(router.handle, router.parts), shutdown_timeout=CLOSE_S)
    port = await listen(stack, runner, config.host, config.port)
    stack.callback(router.dashboard.leave)  # first, so that nobody waits for open pages
    return port
