"""The router over HTTP when clients leave and when things take too long."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest
from aiohttp import web

from tests.live.fake_engine import (
    FakeEngine,
    chunk,
    routing,
    run,
    serving,
    three_tokens,
    until,
)
from tests.live.test_trouble import error_of, hang, never


def test_a_client_that_leaves_aborts_its_request() -> None:
    """At once, on the engine too, and its slot is free again."""

    async def test() -> None:
        async with serving(FakeEngine(hang)) as engine, routing(engine) as client:
            asked = asyncio.create_task(client.post({"prompt": [1], "stream": True}))
            await until(lambda: client.router.group.ledger.ranks["load_tokens"][0] > 0)
            asked.cancel()
            await until(lambda: engine.num_aborted == 1)
            await until(lambda: client.router.group.ledger.num_in_flight == 0)
            client.expect_nothing_left()

    run(test())


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages"])
@pytest.mark.parametrize("num_before", [0, 1])
def test_a_client_that_leaves_as_its_answer_comes(
    path: str, num_before: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not the rank's fault, so the group stays open; and nothing is to be reported."""

    async def test() -> None:
        loop, goes, caught = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

        async def script(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
            answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            if num_before > 0:
                await answer.prepare(request)
                await answer.write(chunk())
            await goes.wait()
            if num_before == 0:
                await answer.prepare(request)
            await answer.write(chunk())  # the router hears of this first, and then
            leaving.close()
            caught.set()
            await asyncio.sleep(60)
            return answer

        async with serving(FakeEngine(script)) as engine:
            async with routing(engine, health_failure_threshold=1) as client:
                with socket.socket() as leaving:
                    leaving.setblocking(False)
                    address = ("127.0.0.1", int(client.url.rsplit(":", 1)[1]))
                    await loop.sock_connect(leaving, address)
                    body = b'{"prompt": [1], "stream": true}'
                    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}"
                    await loop.sock_sendall(leaving, head.encode() + b"\r\n\r\n" + body)
                    await until(lambda: len(engine.bodies) == 1)
                    if num_before > 0:
                        await loop.sock_recv(leaving, 1 << 16)
                    goes.set()
                    await caught.wait()
                await until(lambda: engine.num_aborted == 1)
                assert all(client.router.health.is_open)
                sample = client.router.meters.registry.get_sample_value
                assert 0.0 == sample("balanceroute_cut_streams_total")
                client.expect_nothing_left()
        assert "" == caplog.text

    run(test())


def test_a_client_that_leaves_the_queue() -> None:
    """It is out of the pool, and the others keep their turn."""

    async def test() -> None:
        engine = FakeEngine(hang)
        async with serving(engine), routing(engine, slots=1) as client:
            first = asyncio.create_task(client.post({"prompt": [1], "stream": True}))
            await until(lambda: len(engine.bodies) == 1)
            second = asyncio.create_task(client.post({"prompt": [2], "stream": True}))
            third = asyncio.create_task(client.post({"prompt": [3], "stream": True}))
            await until(lambda: client.router.group.num_waiting == 2)
            second.cancel()
            await until(lambda: client.router.group.num_waiting == 1)
            engine.script = three_tokens
            first.cancel()
            status, _, _ = await third
            assert 200 == status
            assert [1, 3] == [msgspec.json.decode(body)["prompt"][0] for body in engine.bodies]
            client.expect_nothing_left()

    run(test())


def test_a_full_queue_and_one_that_takes_too_long() -> None:
    """429 with a time to come back, and 408."""

    async def test() -> None:
        async with serving(FakeEngine(hang)) as engine:
            settings = {"slots": 1, "queue_size": 1, "queue_timeout_secs": 0.2}
            async with routing(engine, **settings) as client:
                running = asyncio.create_task(client.post({"prompt": [1], "stream": True}))
                await until(lambda: len(engine.bodies) == 1)
                waiting = asyncio.create_task(client.post())
                await until(lambda: client.router.group.num_waiting == 1)
                status, _, headers = await client.post()
                assert 429 == status
                assert "1" == headers["Retry-After"]
                assert "queue_full" == headers["x-balanceroute-dropped-reason"]
                status, body, _ = await waiting
                assert 408 == status
                assert "no rank within 0.2 s" == error_of(body)["message"]
                running.cancel()
                await until(lambda: client.router.group.ledger.num_in_flight == 0)
                client.expect_nothing_left()

    run(test())


def test_a_request_that_takes_too_long() -> None:
    """504 if nothing has come yet, else an error in the stream."""

    async def test() -> None:
        async with serving(FakeEngine(never)) as engine:
            async with routing(engine, request_timeout_secs=0.2) as client:
                status, body, _ = await client.post()
                assert (504, 504) == (status, error_of(body)["code"])
                engine.script = hang
                status, body, _ = await client.post({"prompt": [1], "stream": True})
                assert (200, 504) == (status, error_of(body)["code"])
                client.expect_nothing_left()

    run(test())


@pytest.mark.parametrize("binding", ["pooled", "immediate"])
def test_a_burst_that_free_slots_can_take(binding: str) -> None:
    """It is not turned away although it comes at once and nobody may wait."""

    async def test() -> None:
        async with serving(FakeEngine(hang)) as engine:
            settings = {"slots": 4, "queue_size": 0, "binding": binding}
            async with routing(engine, **settings) as client:
                body = {"prompt": [1], "stream": True}
                running = [asyncio.create_task(client.post(body)) for _ in range(4)]
                await until(lambda: len(engine.bodies) == 4)
                if binding == "pooled":
                    status, _, headers = await client.post()
                    assert (429, "queue_full") == (status, headers["x-balanceroute-dropped-reason"])
                for task in running:
                    task.cancel()
                await until(lambda: client.router.group.ledger.num_in_flight == 0)
                client.expect_nothing_left()

    run(test())
