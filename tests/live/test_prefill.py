"""Prefill on servers of its own: who computes, what is handed over, and when nobody can."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from tests.live.fake_engine import FakeEngine, metrics_of, routing, run, serving, until

HANDLES = {"remote_engine_id": "e", "remote_block_ids": [1, 2], "do_remote_prefill": True}


async def prefill(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
    """Answer as a prefill server does."""
    usage = {"prompt_tokens": 41, "completion_tokens": 1}
    return web.json_response({"choices": [], "usage": usage, "kv_transfer_params": HANDLES})


def test_a_prompt_is_computed_first_and_fetched_by_its_rank() -> None:
    """The probe asks for one token; the decode rank gets the request with the handles."""

    async def test() -> None:
        async with serving(FakeEngine(prefill)) as tier, serving(FakeEngine()) as engine:
            async with routing(engine, prefill_urls=[tier.url]) as client:
                body = {"prompt": "text", "stream": True, "stream_options": {}, "max_tokens": 9}
                status, _, _ = await client.post(body)
                assert 200 == status
                probe, decode = (msgspec.json.decode(e.bodies[0]) for e in (tier, engine))
                assert (1, False) == (probe["max_tokens"], probe["stream"])
                assert probe["kv_transfer_params"]["do_remote_decode"]
                assert "stream_options" not in probe
                assert body | {"kv_transfer_params": HANDLES} == decode
                client.expect_nothing_left()

    run(test())


def test_a_body_that_cannot_be_read_in_full() -> None:
    """It is the client's fault, and no server is taken to compute its prompt for ever."""

    async def test() -> None:
        async with serving(FakeEngine(prefill)) as tier, serving(FakeEngine()) as engine:
            async with routing(engine, prefill_urls=[tier.url]) as client:
                for part in (b'"\xff"', b"1e999"):
                    status, body, _ = await client.post(b'{"prompt": [1], "unknown": %b}' % part)
                    assert 400 == status
                    assert b"the body is not JSON" in body
                parts = client.router.parts
                assert parts.prefill is not None
                assert [0] == [server.due_tokens for server in parts.prefill.servers]
                assert ([], []) == (tier.bodies, engine.bodies)
                client.expect_nothing_left()

    run(test())


def test_prompts_go_to_the_server_with_the_least_to_do() -> None:
    """Two long prompts do not meet."""

    async def slow(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.1)
        return await prefill(engine, request)

    async def test() -> None:
        tiers = [FakeEngine(slow), FakeEngine(slow)]
        async with serving(tiers[0]), serving(tiers[1]), serving(FakeEngine()) as engine:
            async with routing(engine, prefill_urls=[tier.url for tier in tiers]) as client:
                await asyncio.gather(*(client.post({"prompt": [1] * 50}) for _ in range(4)))
                assert [2, 2] == [len(tier.bodies) for tier in tiers]

    run(test())


def test_a_full_server_gets_nothing_until_it_has_room() -> None:
    """Its KV cache holds prompts that no rank has fetched yet."""

    async def test() -> None:
        tier = FakeEngine(prefill)
        tier.metrics = metrics_of([(0, 0)], usage=0.95)
        async with serving(tier), serving(FakeEngine()) as engine:
            async with routing(engine, prefill_urls=[tier.url]) as client:
                asked = asyncio.create_task(client.post())
                await asyncio.sleep(0.1)
                assert [] == tier.bodies
                tier.metrics = metrics_of([(0, 0)], usage=0.5)
                status, _, _ = await asked
                assert 200 == status

    run(test())


def test_no_server_can_do_it() -> None:
    """One answer that says why; the decode ranks are not asked."""

    async def test() -> None:
        async with serving(FakeEngine()) as without_connector, serving(FakeEngine()) as engine:
            async with routing(engine, prefill_urls=[without_connector.url]) as client:
                status, body, _ = await client.post()
                assert 502 == status
                assert b"is a KV connector configured there?" in body
                assert [] == engine.bodies
                client.expect_nothing_left()
        async with serving(FakeEngine()) as engine:
            async with routing(engine, prefill_urls=["http://127.0.0.1:9"]) as client:
                status, body, _ = await client.post()
                assert 502 == status
                assert b"prefill failed: http://127.0.0.1:9" in body
                await until(lambda: client.router.group.num_waiting == 0)

    run(test())
