"""Prompts that are longer than what any rank can hold."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from aiohttp import web

from tests.live.fake_engine import FakeEngine, routing, run, serving, three_tokens, until

HOLDS = 1600  # tokens, as the engine's metrics say
FITS, TOO_LONG = {"prompt": [1] * 10}, {"prompt": [1] * (HOLDS + 1)}


async def refuse_long(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
    """Answer as engines do that know how long a request may be."""
    if len(msgspec.json.decode(await request.read())["prompt"]) > HOLDS:
        return web.json_response({"error": {"message": "too long", "code": 400}}, status=400)
    return await three_tokens(engine, request)


@pytest.mark.parametrize("policy", ["fcfs", "br_auto"])
def test_the_engine_says_that_a_prompt_is_too_long(policy: str) -> None:
    """At once; neither it nor anybody behind it waits for room that there will never be."""

    async def test() -> None:
        engines = FakeEngine(refuse_long), FakeEngine(refuse_long)
        async with serving(engines[0]), serving(engines[1]):
            async with routing(*engines, policy=policy) as client:
                await until(lambda: (client.router.group.kv_tokens == HOLDS).all())
                asked = [client.post(body) for body in (TOO_LONG, FITS, TOO_LONG, FITS)]
                answers = await asyncio.gather(*asked)
                assert [400, 200, 400, 200] == [status for status, _, _ in answers]
                client.expect_nothing_left()

    run(test())


def test_it_waits_while_no_rank_is_open() -> None:
    """As all others do; then a rank gets it that is."""

    async def test() -> None:
        async with serving(FakeEngine()) as one, serving(FakeEngine()) as two:
            async with routing(one, two, kv_tokens=HOLDS, barrier=False) as client:
                group = client.router.group
                for rank in range(2):
                    group.set_open(rank, is_open=False)
                asked = asyncio.create_task(client.post(TOO_LONG))
                await until(lambda: group.num_waiting == 1)
                asked.cancel()
                await until(lambda: group.num_waiting == 0)
                group.set_open(1, is_open=True)
                assert 200 == (await client.post(TOO_LONG))[0]
                assert (0, 1) == (len(one.bodies), len(two.bodies))
                client.expect_nothing_left()

    run(test())
