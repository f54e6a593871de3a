"""Every kind of failure is counted by its cause, and the run goes on."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from balanceroute.errors import ConfigError
from balanceroute.loadgen import LoadConfig, Measurement, replay
from tests.loadgen.servers import (
    FakeServer,
    Handler,
    event,
    finish,
    measure,
    open_stream,
    requests,
    stream_tokens,
    text_chunk,
)


def status(code: int) -> Handler:
    """Return a handler that refuses as vLLM does."""

    async def refuse(
        server: FakeServer, request: web.Request, body: dict[str, Any]
    ) -> web.StreamResponse:
        error = {"message": "queue full", "type": "x", "code": code}
        return web.json_response({"error": error}, status=code)

    return refuse


def stream_of(*pieces: bytes) -> Handler:
    """Return a handler that sends these bytes and ends the stream."""

    async def send(
        server: FakeServer, request: web.Request, body: dict[str, Any]
    ) -> web.StreamResponse:
        answer = await open_stream(request)
        for piece in pieces:
            await answer.write(piece)
        return answer

    return send


async def reset(
    server: FakeServer, request: web.Request, body: dict[str, Any]
) -> web.StreamResponse:
    """Send two tokens and reset the connection."""
    answer = await open_stream(request)
    await answer.write(text_chunk() + text_chunk())
    await asyncio.sleep(0.02)
    transport = request.transport
    assert transport is not None
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    return answer


async def hang(server: FakeServer, request: web.Request, body: dict[str, Any]) -> web.Response:
    """Answer much too late."""
    await asyncio.sleep(30)
    return web.Response()


async def plain(server: FakeServer, request: web.Request, body: dict[str, Any]) -> web.Response:
    """Answer something else than a stream."""
    return web.json_response({"hello": "world"})


CASES = [
    (status(429), "HTTP 429", "queue full", 429),
    (status(500), "HTTP 500", "queue full", 500),
    (reset, "connection lost", "", 200),
    (hang, "timeout", "", 0),
    (plain, "bad answer", "application/json instead of a stream", 200),
    (stream_of(text_chunk(), b"data: {broken\n\n"), "bad JSON", "{broken", 200),
    (stream_of(text_chunk(), b'data: {"choices": 7}\n\n'), "bad JSON", "choices", 200),
    (stream_of(text_chunk()), "cut off", "ended after 1 tokens", 200),
    (
        stream_of(text_chunk(), event({"error": {"message": "engine died"}}), b"data: [DONE]\n\n"),
        "error in the answer",
        "engine died",
        200,
    ),
]


@pytest.mark.parametrize(("bad", "cause", "example", "code"), CASES)
def test_a_failure_is_counted_and_the_others_are_measured(
    bad: Handler, cause: str, example: str, code: int
) -> None:
    """Every third request fails; the rest have their tokens, and the run ends."""

    async def every_third(
        server: FakeServer, request: web.Request, body: dict[str, Any]
    ) -> web.StreamResponse:
        chosen = bad if len(server.arrived_s) % 3 == 0 else stream_tokens
        return await chosen(server, request, body)

    found = measure(FakeServer(every_third), requests([3] * 6), concurrency=1, timeout_s=0.3)
    assert (4, 2, 6) == (found.num_answered, found.num_failed, found.num_sent)
    (failure,) = found.failures
    assert (cause, 2) == (failure.cause, failure.num_requests)
    assert example in failure.example
    assert [-1, -1, 0] * 2 == found.failure.tolist()
    assert [200, 200, code] * 2 == found.status.tolist()
    for name in ("arrival_s", "first_token_s", "finished_s"):
        missing = np.isnan(getattr(found.records.requests, name))
        assert [False, False, True] * 2 == missing.tolist()


def test_a_server_that_dies_fails_what_is_left() -> None:
    """Connections that are refused in the middle of a run are failures, not the end of it."""

    async def run() -> Measurement:
        server = FakeServer()
        async with server.running():
            config = LoadConfig(url=server.url, concurrency=1)
            running = asyncio.create_task(replay(requests([1] * 400), config))
            while len(server.arrived_s) < 5:
                await asyncio.sleep(0.001)
        return await running

    found = finish(run())
    assert 400 == found.num_answered + found.num_failed
    assert found.num_answered >= 4
    assert "cannot connect" in [failure.cause for failure in found.failures]


def test_the_most_frequent_cause_comes_first() -> None:
    """One 500 and three 429: `failure` counts in the order of `failures`."""

    async def mixed(
        server: FakeServer, request: web.Request, body: dict[str, Any]
    ) -> web.StreamResponse:
        code = 500 if len(server.arrived_s) == 1 else 429
        return await status(code)(server, request, body)

    found = measure(FakeServer(mixed), requests([1] * 4), concurrency=1)
    assert ["HTTP 429", "HTTP 500"] == [failure.cause for failure in found.failures]
    assert [1, 0, 0, 0] == found.failure.tolist()


def test_a_server_that_is_not_there_is_bad_input() -> None:
    """Nothing is sent; the message names the URL and the option."""
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1/v1/models cannot be reached.*--url"):
        finish(replay(requests([1]), LoadConfig(url="http://127.0.0.1:1")))


def test_a_server_without_models_needs_a_name() -> None:
    """A list of no models, and then a name."""

    class Nameless(FakeServer):
        async def models(self, request: web.Request) -> web.Response:
            return web.json_response({"data": []})

    with pytest.raises(ConfigError, match="--model"):
        measure(Nameless(), requests([1]))
    assert 1 == measure(Nameless(), requests([1]), model="m").num_answered


def test_a_key_that_is_refused_is_bad_input() -> None:
    """401 for the list of models comes before anything is sent."""

    class Locked(FakeServer):
        async def models(self, request: web.Request) -> web.Response:
            return web.Response(status=401)

    with pytest.raises(ConfigError, match="--api-key-env"):
        measure(Locked(), requests([1]))


def test_steps_of_a_server_that_is_no_group_are_bad_input() -> None:
    """The fake server has no /emulator/state."""

    async def run() -> Measurement:
        server = FakeServer()
        async with server.running():
            config = LoadConfig(url=server.url, steps_url=server.url)
            return await replay(requests([1]), config)

    with pytest.raises(ConfigError, match="not of an emulated group"):
        finish(run())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost"}, "not a URL"),
        ({"url": "http://h:1/other"}, "paths are fixed"),
        ({"url": "http://h:99999"}, "not a URL"),
        ({"arrivals": "burst"}, "--arrivals must be one of"),
        ({"api": "embeddings"}, "--api must be one of"),
        ({"lengths": "guess"}, "--lengths must be one of"),
        ({"prompts": "images"}, "--prompts must be one of"),
        ({"concurrency": 0}, "--concurrency must be at least 1"),
        ({"concurrency": 4, "arrivals": "poisson"}, "--concurrency is for"),
        ({"concurrency": 4, "pool": 4}, "leave one out"),
        ({"pool": 4}, "--steps-url"),
        ({"rate_per_s": 4.0}, "--rate is for"),
        ({"rate_scale": 0.0, "arrivals": "trace"}, "--rate-scale must be"),
        ({"rate_scale": 2.0}, "--rate-scale is for"),
        ({"timeout_s": 0.0}, "--timeout-secs must be"),
        ({"duration_s": -1.0}, "--duration-secs must be"),
        ({"warmup_s": float("nan")}, "--warmup-secs must be"),
        ({"seed": -1}, "--seed must be"),
        ({"api": "chat", "prompts": "ids"}, "a chat is text"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    """Each is refused with a line that names the option."""
    with pytest.raises(ConfigError, match=message):
        LoadConfig(**({"url": "http://h:1"} | settings))
