"""A scripted engine on a loopback port, and a router in front of some of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDictProxy

from balanceroute.cluster.costs import StepCosts
from balanceroute.live.app import Router, running_router
from balanceroute.live.reading import read_config
from balanceroute.live.wire import PATHS

DEADLINE_S = 30.0
Script = Callable[["FakeEngine", web.Request], Awaitable[web.StreamResponse]]


def run(test: Coroutine[Any, Any, None], within_s: float = DEADLINE_S) -> None:
    """Run an asynchronous test, with a deadline."""
    asyncio.run(asyncio.wait_for(test, within_s))


def chunk(text: str = "a", **more: object) -> bytes:
    """Return an event of a completions stream with one token."""
    choice = {"index": 0, "text": text, "finish_reason": None}
    return b"data: " + msgspec.json.encode({"choices": [choice], **more}) + b"\n\n"


DONE = b"data: [DONE]\n\n"


async def stream(request: web.Request, events: list[bytes]) -> web.StreamResponse:
    """Answer with server-sent events."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for event in events:
        await answer.write(event)
    await answer.write_eof()
    return answer


async def three_tokens(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
    """Answer any request with three tokens, and state the usage."""
    try:
        body = msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError):  # in a part that routing does not read
        return web.json_response({"error": {"message": "bad JSON", "code": 400}}, status=400)
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    if body.get("stream"):
        last = b"data: " + msgspec.json.encode({"choices": [], "usage": usage}) + b"\n\n"
        return await stream(request, [chunk(), chunk(), chunk(), last, DONE])
    answer = {"choices": [{"index": 0, "text": "abc"}], "usage": usage, "odd": 1.50}
    return web.json_response(answer, headers={"x-engine": "fake"})


class FakeEngine:
    """Answers generating requests as its script says, and remembers what it was asked."""

    def __init__(self, script: Script = three_tokens) -> None:
        self.script = script
        self.bodies: list[bytes] = []
        self.headers: list[CIMultiDictProxy[str]] = []
        self.questions: list[dict[str, Any]] = []  # about the length of a prompt
        self.tokenize_s = 0.0
        self.num_aborted = 0
        self.is_healthy = True
        self.metrics = metrics_of([(0, 0)])
        self.url = ""

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Answer a request to one of the generating endpoints."""
        self.bodies.append(await request.read())
        self.headers.append(request.headers)
        try:
            return await self.script(self, request)
        except asyncio.CancelledError:
            self.num_aborted += 1
            raise

    async def health(self, request: web.Request) -> web.Response:
        """Answer a health check."""
        return web.Response(status=200 if self.is_healthy else 503)

    async def show_metrics(self, request: web.Request) -> web.Response:
        """Answer with the metrics that were set."""
        return web.Response(text=self.metrics) if self.metrics else web.Response(status=404)

    async def tokenize(self, request: web.Request) -> web.Response:
        """Count a prompt, after some time."""
        self.questions.append(msgspec.json.decode(await request.read()))
        await asyncio.sleep(self.tokenize_s)
        return web.json_response({"count": 123, "max_model_len": 4096, "tokens": []})

    async def models(self, request: web.Request) -> web.Response:
        """List a model."""
        return web.json_response({"data": [{"id": "fake"}], "query": dict(request.query)})


def metrics_of(ranks: list[tuple[int, int]], *, usage: float = 0.0) -> str:
    """Return vLLM's metrics for ranks that run and queue so many requests each."""
    lines = []
    for rank, (num_running, num_waiting) in enumerate(ranks):
        labels = f'{{engine="{rank}",model_name="fake"}}'
        lines += [
            f"vllm:num_requests_running{labels} {num_running}",
            f"vllm:num_requests_waiting{labels} {num_waiting}",
            f"vllm:kv_cache_usage_perc{labels} {usage}",
            f'vllm:cache_config_info{{block_size="16",engine="{rank}",num_gpu_blocks="100"}} 1.0',
        ]
    return "\n".join(lines) + "\n"


@contextlib.asynccontextmanager
async def serving(
    engine: FakeEngine, port: int = 0, host: str = "127.0.0.1"
) -> AsyncIterator[FakeEngine]:
    """Run an engine on a free port, or on the one given."""
    app = web.Application(client_max_size=1 << 30)
    for path in (*PATHS, "/v1/messages"):
        app.router.add_post(path, engine.generate)
    app.router.add_get("/health", engine.health)
    app.router.add_get("/metrics", engine.show_metrics)
    app.router.add_get("/v1/models", engine.models)
    app.router.add_post("/tokenize", engine.tokenize)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        engine.url = f"http://{host}:{runner.addresses[0][1]}"
        yield engine
    finally:
        await runner.cleanup()


class Client:
    """Talks to the router under test."""

    def __init__(self, session: aiohttp.ClientSession, router: Router, url: str) -> None:
        self.session, self.router, self.url = session, router, url

    async def post(
        self,
        body: object = None,
        path: str = "/v1/completions",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes, CIMultiDictProxy[str]]:
        """Send a request and return status, body and headers of the answer."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body or {"prompt": [1, 2]})
        async with self.session.post(self.url + path, data=data, headers=headers) as answer:
            return answer.status, await answer.read(), answer.headers

    async def get(self, path: str) -> tuple[int, bytes]:
        """Fetch a page."""
        async with self.session.get(self.url + path) as answer:
            return answer.status, await answer.read()

    def expect_nothing_left(self) -> None:
        """Assert that no request is booked anywhere, and that the ledger adds up."""
        group = self.router.group
        group.check()
        assert 0 == group.ledger.num_in_flight
        assert 0 == group.num_waiting


@contextlib.asynccontextmanager
async def routing(*engines: FakeEngine, **settings: object) -> AsyncIterator[Client]:
    """Run a router in front of engines that run; every time is short unless it is given."""
    costs = settings.pop("costs", None)
    assert costs is None or isinstance(costs, StepCosts)
    flags: dict[str, object] = {
        "worker_urls": [engine.url for engine in engines],
        "policy": "fcfs",
        "slots": 4,
        "port": 0,
        "health_check_interval_secs": 0.05,
        "metrics_interval_secs": 0.05,
        "retry_initial_backoff_secs": 0.01,
    }
    config = read_config(None, flags | settings)
    async with running_router(config, costs) as (router, port), aiohttp.ClientSession() as session:
        yield Client(session, router, f"http://127.0.0.1:{port}")


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until something is the case."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
