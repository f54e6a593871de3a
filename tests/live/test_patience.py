"""The router over HTTP when clients leave and when things take too long."""

from __future__ import annotations

import asyncio

import msgspec

from tests.live.fake_engine import FakeEngine, routing, run, serving, three_tokens, until
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
