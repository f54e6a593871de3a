"""The router over HTTP, with engines that do as they should."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from aiohttp import web

from balanceroute.errors import ConfigError
from tests.live.fake_engine import (
    DONE,
    FakeEngine,
    chunk,
    metrics_of,
    routing,
    run,
    serving,
    stream,
    until,
)


def test_an_answer_in_one_piece_comes_through_byte_for_byte() -> None:
    """Body, status and the engine's headers are its own; the request's bytes reach it unchanged."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            sent = b'{"prompt":  [1,2] , "unknown": 1.50}'
            status, body, headers = await client.post(sent, headers={"X-Request-Id": "mine"})
            assert 200 == status
            assert b'"odd": 1.5' in body
            assert sent == engine.bodies[0]
            assert "fake" == headers["x-engine"]
            assert "mine" == headers["X-Request-Id"]
            assert engine.url == headers["x-balanceroute-worker"]
            assert "mine" == engine.headers[0]["X-Request-Id"]
            client.expect_nothing_left()

    run(test())


def test_a_stream_comes_through_byte_for_byte() -> None:
    """And its tokens are in the ledger while it lasts."""

    async def script(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(3):
            await answer.write(chunk())
        await go_on.wait()
        await answer.write(DONE)
        return answer

    async def test() -> None:
        async with serving(FakeEngine(script)) as engine, routing(engine) as client:
            asked = asyncio.create_task(client.post({"prompt": [1] * 10, "stream": True}))
            ranks = client.router.group.ledger.ranks
            await until(lambda: ranks["load_tokens"][0] == 13)
            go_on.set()
            status, body, _ = await asked
            assert (200, 3 * chunk() + DONE) == (status, body)
            client.expect_nothing_left()

    go_on = asyncio.Event()
    run(test())


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
def test_each_generating_endpoint_is_routed(path: str) -> None:
    """They all take part in the balance, and other paths go to some rank."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            status, _, headers = await client.post({"messages": [], "input": "x"}, path)
            assert 200 == status
            assert "x-balanceroute-worker" in headers
            status, body = await client.get("/v1/models?a=1")
            assert (200, {"a": "1"}) == (status, msgspec.json.decode(body)["query"])
            assert 404 == (await client.get("/nowhere"))[0]

    run(test())


def test_requests_wait_for_a_slot_in_the_pool() -> None:
    """No rank gets more than its slots; the rest follow as others end."""
    running: list[int] = []
    most: list[int] = []

    async def script(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        running.append(1)
        most.append(len(running))
        await asyncio.sleep(0.02)
        running.pop()
        return await stream(request, [chunk(), DONE])

    async def test() -> None:
        async with serving(FakeEngine(script)) as engine, routing(engine, slots=2) as client:
            answers = await asyncio.gather(
                *(client.post({"prompt": [1], "stream": True}) for _ in range(9))
            )
            assert [200] * 9 == [status for status, _, _ in answers]
            assert 2 == max(most)
            client.expect_nothing_left()

    run(test())


@pytest.mark.parametrize(
    ("field", "header", "body"),
    [
        ("header", "1", b'{"prompt":[1],"stream":false}'),
        ("body", None, b'{"prompt":[1],"stream":false,"data_parallel_rank":1}'),
    ],
)
def test_ranks_behind_one_port(field: str, header: str | None, body: bytes) -> None:
    """A rank is named in a header or in the body; what a client says of it is left out."""

    async def test() -> None:
        engine = FakeEngine()
        engine.metrics = metrics_of([(0, 0), (0, 0)])
        async with serving(engine):
            async with routing(engine, intra_node_data_parallel_size=2, rank_field=field) as client:
                client.router.group.set_open(0, is_open=False)
                sent = b'{"prompt":[1],"stream":false}'
                await client.post(sent, headers={"X-data-parallel-rank": "0"})
                assert header == engine.headers[0].get("X-data-parallel-rank")
                assert body == engine.bodies[0]

    run(test())


@pytest.mark.parametrize(
    ("field", "sent", "changed"),
    [
        ("body", b'{"data_parallel_rank":0,"prompt":[1]}', {"data_parallel_rank": 1}),
        ("body", b'{"prompt":[1],"data_parallel_rank":0}\n', {"data_parallel_rank": 1}),
        (
            "body",
            b'{"routed_dp_rank":0,"prompt":[1]}',
            {"data_parallel_rank": 1, "routed_dp_rank": 1},
        ),
        ("header", b'{"routed_dp_rank":0,"prompt":[1]}', {"routed_dp_rank": 1}),
        ("body", b'{"prompt":"}","user":{"a":[]} } \r\n', {"data_parallel_rank": 1}),
    ],
)
def test_a_rank_that_a_client_names_in_the_body_does_not_count(
    field: str, sent: bytes, changed: dict[str, int]
) -> None:
    """The engine reads the router's, and the rest as it was sent."""

    async def test() -> None:
        engine = FakeEngine()
        engine.metrics = metrics_of([(0, 0), (0, 0)])
        async with serving(engine):
            settings = {"intra_node_data_parallel_size": 2, "rank_field": field}
            async with routing(engine, **settings) as client:
                client.router.group.set_open(0, is_open=False)
                assert 200 == (await client.post(sent))[0]
                assert json.loads(sent) | changed == json.loads(engine.bodies[0])

    run(test())


def test_a_client_may_choose_a_rank_where_that_is_allowed() -> None:
    """A rank that is out of range gets an error that says what is allowed."""

    async def test() -> None:
        async with serving(FakeEngine()) as one, serving(FakeEngine()) as two:
            async with routing(one, two, allows_rank_header=True) as client:
                for _ in range(3):
                    await client.post(headers={"X-data-parallel-rank": "1"})
                assert (0, 3) == (len(one.bodies), len(two.bodies))
                status, body, _ = await client.post(headers={"X-data-parallel-rank": "2"})
                assert 400 == status
                assert b"must be in 0..1, got '2'" in body
                status, _, _ = await client.post(headers={"X-data-parallel-rank": "1" * 5000})
                assert 400 == status

    run(test())


def test_a_wrong_addressing_mode_is_refused_with_the_cure() -> None:
    """One URL that stands for two ranks, and a rank that the server does not have."""

    async def test() -> None:
        engine = FakeEngine()
        engine.metrics = metrics_of([(0, 0), (0, 0)])
        async with serving(engine):
            with pytest.raises(ConfigError, match="--intra-node-data-parallel-size 2"):
                async with routing(engine):
                    pass
            with pytest.raises(ConfigError, match="has no data-parallel rank 2"):
                async with routing(engine, worker_urls=[f"{engine.url}@2"]):
                    pass

    run(test())


def test_keys() -> None:
    """Without one of the keys nothing but the probes is answered; keys do not reach the engine."""

    async def test() -> None:
        async with (
            serving(FakeEngine()) as engine,
            routing(engine, api_keys=["k1", "k2"]) as client,
        ):
            for headers in ({}, {"Authorization": "Bearer k3"}, {"Authorization": "Basic k1"}):
                status, body, _ = await client.post(headers=headers)
                assert 401 == status
                assert b"AuthenticationError" in body
            status, _, _ = await client.post(headers={"Authorization": "Bearer k2"})
            assert 200 == status
            assert "Authorization" not in engine.headers[0]
            assert 200 == (await client.get("/liveness"))[0]
            assert 401 == (await client.get("/workers"))[0]

    run(test())


def test_bad_bodies() -> None:
    """They get an error in the form that OpenAI's clients know, and reach no engine."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine, max_body_bytes=1000) as client:
            for body, expected in ((b"", 400), (b"[1]", 400), (b'{"a":', 400), (b"x" * 1001, 413)):
                status, answer, _ = await client.post(body)
                assert expected == status
                assert expected == msgspec.json.decode(answer)["error"]["code"]
            assert [] == engine.bodies
            client.expect_nothing_left()

    run(test())


def test_what_it_tells_of_itself() -> None:
    """Readiness, workers and metrics."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            await client.post()
            assert 200 == (await client.get("/readiness"))[0]
            _, body = await client.get("/workers")
            worker = msgspec.json.decode(body)["workers"][0]
            assert (engine.url, True, 4) == (
                worker["worker"],
                worker["is_open"],
                worker["num_slots"],
            )
            _, text = await client.get("/metrics")
            assert b'balanceroute_requests_total{code="200"} 3.0' in text
            assert b"balanceroute_load_signals_up 1.0" in text

    run(test())


def test_requests_of_an_earlier_router_count() -> None:
    """What the engines run and this router has not sent takes slots and weighs."""

    async def test() -> None:
        busy, idle = FakeEngine(), FakeEngine()
        busy.metrics = metrics_of([(3, 0)], usage=0.5)
        async with serving(busy), serving(idle), routing(busy, idle, policy="br_0") as client:
            view = client.router.group.view()
            assert [3, 0] == view.num_inflight_reqs.tolist()
            assert [800, 0] == view.load_tokens.tolist()
            for _ in range(3):
                await client.post()
            assert (0, 3) == (len(busy.bodies), len(idle.bodies))
            busy.metrics = metrics_of([(0, 0)])
            await until(lambda: not client.router.group.foreign_reqs.any())

    run(test())


def test_slots_are_learned_from_where_a_queue_begins() -> None:
    """As many as run while others wait; more are tried when all of them run and none waits."""

    async def test() -> None:
        engine = FakeEngine()
        async with serving(engine), routing(engine, slots=None) as client:
            num_slots = client.router.group.num_slots
            assert 256 == num_slots[0]
            engine.metrics = metrics_of([(72, 5)])
            await until(lambda: num_slots[0] == 72)
            engine.metrics = metrics_of([(72, 0)])
            await until(lambda: num_slots[0] > 72)

    run(test())
