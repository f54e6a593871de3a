"""The router as an HTTP server: its paths, its background work, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from balanceroute import __version__
from balanceroute.cluster.costs import StepCosts
from balanceroute.errors import ConfigError, MissingExtraError
from balanceroute.live.admin import Admin, workers
from balanceroute.live.answers import Refusal, json_response
from balanceroute.live.clients import BODY, SLOW_BODY, ClientServer
from balanceroute.live.config import ServeConfig
from balanceroute.live.dashboard import EVENTS_PATH, FILES, Dashboard, show_file
from balanceroute.live.decision_api.faces import http_paths
from balanceroute.live.decision_api.reservations import Reservations
from balanceroute.live.endings import refusal_of
from balanceroute.live.parts import Parts
from balanceroute.live.passing import PassThrough
from balanceroute.live.proxy import Proxy
from balanceroute.live.services import serving_grpc
from balanceroute.live.tenants import check_key
from balanceroute.live.upstream import open_session
from balanceroute.live.watch import Watch
from balanceroute.live.wire import PATHS

if TYPE_CHECKING:
    from balanceroute.live.tracing import Tracing

CLOSE_S = 1.0  # for connections, once all requests have ended
CONTINUE, BACKLOG = "100-continue", 1024
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Router:
    """A running router; make it with `running_router`."""

    def __init__(self, parts: Parts, tracing: Tracing | None) -> None:
        self.parts, self.group, self.health = parts, parts.group, parts.health
        self.meters, self.watch = parts.meters, Watch(parts)
        proxy, self.dashboard = Proxy(parts, tracing), Dashboard(parts)
        self._paths: dict[tuple[str, str], Handler] = {
            ("GET", "/health"): self._liveness,
            ("GET", "/liveness"): self._liveness,
            ("GET", "/readiness"): self._readiness,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/workers"): self._workers,
            ("GET", "/version"): self._version,
        }
        self._paths.update({("GET", path): show_file for path in FILES})
        self._paths["GET", EVENTS_PATH] = self.dashboard.events
        self._paths.update({("POST", path): proxy.generate for path in PATHS})
        self.reservations = Reservations(parts)
        if parts.config.decisions:
            self._paths.update(http_paths(self.reservations, parts))
        self._pass_through = PassThrough(parts).answer
        self.grpc_port: int | None = None  # once it is served

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer any request."""
        handler = self._paths.get((request.method, request.path), self._pass_through)
        if request.headers.get("Expect", "").lower() == CONTINUE and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if handler not in (self._liveness, self._readiness, show_file):
                check_key(request, self.parts.config)
            answer = await handler(request)
        except Refusal as refusal:
            answer = self._refuse(refusal)
        except web.HTTPException as error:  # a body beyond the limit
            answer = self._refuse(Refusal(error.status, error.text or error.reason, "bad_request"))
        except Exception as error:
            failure = refusal_of(error, request, limit_s=0.0, is_stopping=False)
            if failure is None:
                raise
            answer = self._refuse(failure)
        self.meters.requests.labels(str(answer.status)).inc()
        return answer

    def _refuse(self, refusal: Refusal) -> web.Response:
        if refusal.reason == SLOW_BODY:
            self.meters.slow_clients.labels(BODY).inc()
        self.meters.dropped.labels(refusal.reason).inc()
        return refusal.response()

    async def _liveness(self, _: web.BaseRequest) -> web.StreamResponse:
        return json_response({"status": "ok"})

    async def _readiness(self, _: web.BaseRequest) -> web.StreamResponse:
        is_open = self.health.is_open
        return json_response(
            {"status": "ready" if any(is_open) else "no rank is fit", "open": is_open},
            200 if any(is_open) else 503,
        )

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
            await _listen(stack, admin, config.host, config.admin_port)
        if config.grpc_port is not None:
            router.grpc_port = await stack.enter_async_context(
                serving_grpc(parts, router.reservations, is_picker=is_picker)
            )
        server = ClientServer(router.handle, parts)
        runner = web.ServerRunner(server, shutdown_timeout=CLOSE_S)
        port = await _listen(stack, runner, config.host, config.port)
        stack.callback(router.dashboard.leave)  # first, so that nobody waits for open pages
        yield router, port


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


async def _listen(
    stack: contextlib.AsyncExitStack, runner: web.BaseRunner, host: str, port: int
) -> int:
    """Serve on a port until the stack is left; return the port."""
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another port"
        ) from error
    return int(runner.addresses[0][1])
