"""The router against requests that no client should make."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from balanceroute.live.comparing import Comparison
from balanceroute.live.wire import PATHS
from tests.live.fake_engine import FakeEngine, routing, run, serving, until

NUM_REQUESTS = int(os.environ.get("BALANCEROUTE_MUTATIONS", "400"))  # 10,000 take two minutes
BODY = b'{"prompt": [1, 2], "stream": true, "max_tokens": 5}'
SEEDS = (
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5\r\n{"pro\r\n7\r\nmpt":1}\r\n0\r\n\r\n',
    b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-data-parallel-rank: 3\r\n\r\n",
    b"DELETE /workers/0 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
)
PIECES = (b"\r\n", b"\x00", b"\xff\xfe", b"{" * 50, b"-1", b"9" * 30, b":", b" " * 9000, b"%2e%2e/")


def mutated(rng: np.random.Generator) -> bytes:
    """Return a request with some bytes changed, cut out, doubled or put in."""
    data = bytearray(SEEDS[rng.integers(len(SEEDS))])
    for _ in range(rng.integers(1, 4)):
        at, kind = int(rng.integers(len(data) + 1)), rng.integers(5)
        if kind == 0 and at < len(data):
            data[at] = int(rng.integers(256))
        elif kind == 1:
            del data[at : at + int(rng.integers(1, 20))]
        elif kind == 2:
            data[at:at] = PIECES[rng.integers(len(PIECES))]
        elif kind == 3:
            data[at:at] = data[at : at + int(rng.integers(1, 60))]
        else:
            del data[max(at, 1) :]  # and the client leaves
    return bytes(data)


async def exchange(port: int, data: bytes, patience_s: float) -> bytes:
    """Send bytes and return what comes back before the other side closes or patience ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(1 << 16), patience_s)
    except (TimeoutError, ConnectionError):
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("field", ["prompt", "unknown"])
def test_a_body_that_is_nested_without_end(field: str) -> None:
    """It is the client's fault, and is not read to its end."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            deep = b'{"%b":' % field.encode() + b"[" * 200_000 + b"]" * 200_000 + b"}"
            for path in PATHS:
                status, body, _ = await client.post(deep, path)
                assert 400 == status
                assert b"nested too deeply" in body
            assert [] == engine.bodies
            client.expect_nothing_left()

    run(test())


def test_it_goes_on_serving_whatever_comes() -> None:
    """No answer is a 500 or shows a traceback, nothing is left booked, and good requests pass."""

    async def test() -> None:
        rng = np.random.default_rng(1)
        async with serving(FakeEngine()) as engine, routing(engine, max_body_bytes=4096) as client:
            port = int(client.url.rsplit(":", 1)[1])
            for _ in range(NUM_REQUESTS // 20):
                batch = [exchange(port, mutated(rng), 0.1) for _ in range(20)]
                for answer in await asyncio.gather(*batch):
                    assert b"Traceback" not in answer
                    assert not answer.startswith(b"HTTP/1.1 5"), answer
            await until(lambda: client.router.group.ledger.num_in_flight == 0)
            client.expect_nothing_left()
            assert 200 == (await client.post())[0]

    run(test(), within_s=600.0)


NO_TEXT = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nX-Request-Id: caf\xe9\r\nX-Tenant: \xff\r\n"


def test_headers_that_are_no_text(tmp_path: Path) -> None:
    """Their request is served; the log of decisions and the page go on, and show them."""
    log = tmp_path / "log"

    async def test() -> None:
        async with serving(FakeEngine()) as engine:
            settings = {"decision_log": str(log), "tenant_header": "X-Tenant"}
            async with routing(engine, **settings) as client:
                port = int(client.url.rsplit(":", 1)[1])
                async with client.session.get(client.url + "/dashboard/events") as page:
                    await page.content.readuntil(b"\n\n")
                    sent = NO_TEXT + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
                    assert (await exchange(port, sent, 5.0)).startswith(b"HTTP/1.1 200 ")
                    while b"caf\\\\xe9" not in await page.content.readuntil(b"\n\n"):
                        pass
                assert 200 == (await client.post())[0]
                assert client.router.parts.queue.num_tokens("\\xff") > 0
        found = Comparison.of(log, about="caf\\xe9")
        assert (2, 0, "") == (found.num_plans, found.num_differing, found.cut)
        assert 1 == len(found.reasons)

    run(test())
