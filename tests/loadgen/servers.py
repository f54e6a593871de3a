"""Small servers on the loopback, and runs against them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import numpy as np
from aiohttp import web

from balanceroute.loadgen import LoadConfig, Measurement, replay
from balanceroute.types import Workload

DEADLINE_S = 15.0
T = TypeVar("T")
Handler = Callable[["FakeServer", web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


class FakeServer:
    """An engine that answers as it is told, and remembers what it was asked."""

    def __init__(
        self, handler: Handler | None = None, *, first_s: float = 0.0, gap_s: float = 0.0
    ) -> None:
        self._handler = handler or stream_tokens
        self.first_s, self.gap_s = first_s, gap_s
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.arrived_s: list[float] = []
        self.num_open = 0
        self.num_open_seen: list[int] = []
        self.workers: list[str] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for output."""
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.arrived_s.append(asyncio.get_running_loop().time())
        self.num_open += 1
        self.num_open_seen.append(self.num_open)
        try:
            return await self._handler(self, request, body)
        finally:
            self.num_open -= 1

    async def models(self, request: web.Request) -> web.Response:
        """Name two models."""
        return web.json_response({"data": [{"id": "first"}, {"id": "second"}]})

    async def ranks(self, request: web.Request) -> web.Response:
        """Name ranks as a router does, if there are any."""
        if not self.workers:
            raise web.HTTPNotFound
        return web.json_response({"workers": [{"worker": name} for name in self.workers]})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FakeServer]:
        """Serve on a free port for the time of the context."""
        app = web.Application(client_max_size=1 << 26)
        app.add_routes(
            [
                web.post("/v1/completions", self.answer),
                web.post("/v1/chat/completions", self.answer),
                web.get("/v1/models", self.models),
                web.get("/workers", self.ranks),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


def event(document: object) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def text_chunk(text: str = " a", finish: str | None = None) -> bytes:
    """Return a chunk of a completion."""
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish}]})


async def open_stream(
    request: web.Request, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Begin a stream."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"} | (headers or {}))
    await answer.prepare(request)
    return answer


async def stream_tokens(
    server: FakeServer, request: web.Request, body: dict[str, Any]
) -> web.StreamResponse:
    """Send the tokens that the header, or max_tokens, asks for, then usage and the end."""
    wanted = request.headers.get("X-Emulated-Output-Tokens")
    num_tokens = int(body["max_tokens"] if wanted is None else wanted)
    worker = len(server.arrived_s) % len(server.workers) if server.workers else 0
    headers = {"x-balanceroute-worker": server.workers[worker]} if server.workers else {}
    answer = await open_stream(request, headers)
    await asyncio.sleep(server.first_s)
    for i in range(num_tokens):
        await answer.write(text_chunk(finish="stop" if i == num_tokens - 1 else None))
        if i < num_tokens - 1:
            await asyncio.sleep(server.gap_s)
    usage = {"prompt_tokens": len(body.get("prompt", "")), "completion_tokens": num_tokens}
    await answer.write(event({"choices": [], "usage": usage}))
    await answer.write(b"data: [DONE]\n\n")
    await answer.write_eof()
    return answer


def requests(outputs: list[int], *, prompts: list[int] | None = None, **columns: Any) -> Workload:
    """Return requests of these lengths."""
    prompt_tokens = np.array(prompts or [4] * len(outputs), np.int32)
    output_tokens = np.array(outputs, np.int32)
    return Workload(
        name="small", prompt_tokens=prompt_tokens, output_tokens=output_tokens, **columns
    )


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, within the deadline."""

    async def limited() -> T:
        async with asyncio.timeout(DEADLINE_S):
            return await coroutine

    return asyncio.run(limited())


def measure(server: FakeServer, workload: Workload, **settings: Any) -> Measurement:
    """Replay requests against a server that runs for so long."""

    async def run() -> Measurement:
        async with server.running():
            return await replay(workload, LoadConfig(url=server.url, **settings))

    return finish(run())


@contextlib.contextmanager
def in_thread(server: FakeServer) -> Iterator[str]:
    """Serve from another thread, for what runs an event loop of its own; give the URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    context = server.running()
    asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(DEADLINE_S)
    try:
        yield server.url
    finally:
        leave = context.__aexit__(None, None, None)
        asyncio.run_coroutine_threadsafe(leave, loop).result(DEADLINE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()
