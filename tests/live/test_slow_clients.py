"""Clients that send too slowly, do not read, or send headers beyond the limits."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from tests.live.fake_engine import Client, FakeEngine, chunk, routing, run, serving, until

BODY = b'{"prompt": [1, 2]}'
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % len(BODY)


@contextlib.asynccontextmanager
async def connected(
    client: Client, buffer_bytes: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to the router without a client's library."""
    its = socket.socket()
    if buffer_bytes is not None:
        its.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    its.setblocking(False)
    address = ("127.0.0.1", int(client.url.rsplit(":", 1)[1]))
    await asyncio.get_running_loop().sock_connect(its, address)
    reader, writer = await asyncio.open_connection(sock=its)
    try:
        yield reader, writer
    finally:
        writer.close()


def slow_clients(client: Client, what: str) -> float:
    counter = client.router.meters.registry.get_sample_value
    return counter("balanceroute_slow_clients_total", {"what": what}) or 0.0


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """Read one answer with a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    return head + await reader.readexactly(length)


@pytest.mark.parametrize("num_requests", [0, 2])
def test_headers_that_do_not_come(num_requests: int) -> None:
    """408, also behind requests on the same connection; bytes that trickle are no excuse."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine:
            async with routing(engine, header_timeout_secs=1.0) as client:
                async with connected(client) as (reader, writer):
                    for _ in range(num_requests):
                        writer.write(HEAD + b"\r\n" + BODY)
                        assert b" 200 " in await read_answer(reader)
                        await asyncio.sleep(1.2)  # nobody is in a hurry between two requests
                    writer.write(HEAD)
                    for _ in range(5):
                        writer.write(b"X")
                        await asyncio.sleep(0.05)
                    answer = await reader.read()
                    assert answer.startswith(b"HTTP/1.1 408 ")
                    error = msgspec.json.decode(answer.split(b"\r\n\r\n")[1])["error"]
                    assert 408 == error["code"]
                    assert num_requests == len(engine.bodies)
                    assert 1.0 == slow_clients(client, "headers")

    run(test())


def test_a_connection_on_which_nothing_comes() -> None:
    """It is closed, without an answer to what nobody has asked."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine:
            async with routing(engine, header_timeout_secs=0.2) as client:
                async with connected(client) as (reader, _):
                    assert b"" == await reader.read()

    run(test())


@pytest.mark.parametrize("path", [b"/v1/completions", b"/v1/embeddings"])
def test_a_body_that_does_not_come(path: bytes) -> None:
    """408, and no engine has heard of it."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine:
            async with routing(engine, body_timeout_secs=0.2) as client:
                async with connected(client) as (reader, writer):
                    writer.write(HEAD.replace(b"/v1/completions", path) + b"\r\n" + BODY[:5])
                    answer = await read_answer(reader)
                    assert answer.startswith(b"HTTP/1.1 408 ")
                    assert b"the body did not come within 0.2 s" in answer
                    assert 1.0 == slow_clients(client, "body")
                    assert [] == engine.bodies
                    client.expect_nothing_left()

    run(test())


def test_a_client_that_does_not_read() -> None:
    """It is dropped, its request aborted on the engine, and its slot free."""

    async def flood(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        while True:
            await answer.write(chunk() * 1000)
            await asyncio.sleep(0)

    async def test() -> None:
        async with serving(FakeEngine(flood)) as engine:
            async with routing(engine, stall_timeout_secs=0.3, kv_tokens=1 << 40) as client:
                with socket.socket() as deaf:
                    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    deaf.setblocking(False)
                    address = ("127.0.0.1", int(client.url.rsplit(":", 1)[1]))
                    loop = asyncio.get_running_loop()
                    await loop.sock_connect(deaf, address)
                    body = b'{"prompt": [1], "stream": true}'
                    head = HEAD.replace(b"%d" % len(BODY), b"%d" % len(body))
                    await loop.sock_sendall(deaf, head + b"\r\n" + body)
                    await until(lambda: client.router.group.ledger.num_in_flight == 1)
                    await until(lambda: engine.num_aborted == 1)
                    await until(lambda: client.router.group.ledger.num_in_flight == 0)
                    assert 1.0 == slow_clients(client, "answer")
                    client.expect_nothing_left()

    run(test())


def test_a_client_that_reads_slowly_but_does() -> None:
    """Nothing happens to it, however long its answer takes in all."""
    size, stall_s = 16 << 20, 1.0

    async def big(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * size)

    async def test() -> None:
        async with serving(FakeEngine(big)) as engine:
            async with routing(engine, stall_timeout_secs=stall_s) as client:
                async with connected(client, buffer_bytes=1 << 16) as (reader, writer):
                    writer.write(HEAD + b"\r\n" + BODY)
                    await reader.readuntil(b"\r\n\r\n")
                    num_read, began_s = 0, time.monotonic()
                    while data := await reader.read(1 << 16):
                        num_read += len(data)
                        if num_read == size:
                            break
                        await asyncio.sleep(0.01)
                    assert size == num_read
                    assert time.monotonic() - began_s > 2 * stall_s
                    assert 0.0 == slow_clients(client, "answer")

    run(test())


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        ({"max_header_bytes": 1000}, b"X: " + b"a" * 1001 + b"\r\n"),
        ({"max_headers": 10}, b"".join(b"X-%d: a\r\n" % n for n in range(11))),
    ],
    ids=["one that is too long", "too many"],
)
def test_headers_beyond_the_limits(settings: dict[str, int], headers: bytes) -> None:
    """400, without a traceback; with fewer of them the same request is served."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine, **settings) as client:
            async with connected(client) as (reader, writer):
                writer.write(HEAD + headers + b"\r\n" + BODY)
                answer = await reader.read()
                assert answer[len("HTTP/1.1") :].startswith(b" 400 ")
                assert b"Traceback" not in answer
                assert [] == engine.bodies
            async with connected(client) as (reader, writer):
                writer.write(HEAD + headers[:8].partition(b"\r\n")[0] + b"\r\n\r\n" + BODY)
                assert b" 200 " in await read_answer(reader)

    run(test())


def test_a_request_that_is_no_http_is_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Anybody can send such, and as many as they like."""
    caplog.set_level("INFO")

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            async with connected(client) as (reader, writer):
                writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nno colon here\r\n\r\n")
                assert b" 400 " in await reader.readuntil(b"\r\n")

    run(test())
    lines = [record for record in caplog.records if "no HTTP" in record.getMessage()]
    assert len(lines) == 1
    assert all(record.exc_info is None for record in caplog.records)
