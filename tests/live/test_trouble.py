"""The router over HTTP when engines, clients and policies misbehave."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import msgspec
import pytest
from aiohttp import web

from balanceroute.policies.base import Binding, Plan
from tests.live.fake_engine import (
    DONE,
    FakeEngine,
    chunk,
    routing,
    run,
    serving,
    stream,
    until,
)


def error_of(body: bytes) -> dict[str, object]:
    """Return the error in an answer, or in the last event of a stream."""
    text = body.rsplit(b"data: ", 1)[-1] if b"data: " in body else body
    error: dict[str, object] = msgspec.json.decode(text)["error"]
    return error


async def refuse(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
    """Answer 500."""
    return web.json_response({"error": {"message": "broken", "code": 500}}, status=500)


async def reset(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
    """Begin a stream and drop the connection."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    await answer.write(chunk())
    assert request.transport is not None
    request.transport.abort()
    return answer


async def end_early(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
    """End a stream that has not said that it is complete."""
    return await stream(request, [chunk(), chunk()])


async def hang(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
    """Begin a stream and give nothing more."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    await answer.write(chunk())
    await asyncio.sleep(60)
    return answer


async def never(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
    """Give no answer."""
    await asyncio.sleep(60)
    return web.Response()


def test_a_failed_send_is_tried_again_elsewhere() -> None:
    """Nothing has been passed on yet, so the client sees one good answer."""

    async def test() -> None:
        async with serving(FakeEngine(refuse)) as bad, serving(FakeEngine()) as good:
            # Its health is good, and would bring it back between two tries on a slow machine.
            terms = {"health_failure_threshold": 1, "health_check_interval_secs": 60.0}
            async with routing(bad, good, barrier=False, **terms) as client:
                answers = await asyncio.gather(*(client.post() for _ in range(6)))
                assert [200] * 6 == [status for status, _, _ in answers]
                assert 6 == len(good.bodies)
                client.expect_nothing_left()

    run(test())


def test_an_engines_last_error_comes_through_untouched() -> None:
    """After the last attempt the engine's own words go to the client."""

    async def test() -> None:
        async with serving(FakeEngine(refuse)) as engine:
            async with routing(engine, health_failure_threshold=100) as client:
                status, body, _ = await client.post()
                assert (500, "broken") == (status, error_of(body)["message"])
                assert 3 == len(engine.bodies)
                client.expect_nothing_left()

    run(test())


def test_errors_of_a_request_are_not_tried_again() -> None:
    """A 400 is the request's own fault."""

    async def script(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "too long", "code": 400}}, status=400)

    async def test() -> None:
        async with serving(FakeEngine(script)) as engine, routing(engine) as client:
            status, body, _ = await client.post()
            assert (400, "too long") == (status, error_of(body)["message"])
            assert 1 == len(engine.bodies)
            client.expect_nothing_left()

    run(test())


@pytest.mark.parametrize("script", [reset, end_early])
def test_a_stream_that_breaks_off_ends_in_an_error(
    script: object,
) -> None:
    """What has come is passed on, then one error event, and nothing is tried again."""

    async def test() -> None:
        async with serving(FakeEngine(script)) as engine, routing(engine) as client:  # type: ignore[arg-type]
            status, body, _ = await client.post({"prompt": [1], "stream": True})
            assert 200 == status
            assert body.startswith(chunk())
            assert 502 == error_of(body)["code"]
            assert 1 == body.count(b'"error"')
            assert 1 == len(engine.bodies)
            client.expect_nothing_left()

    run(test())


def test_a_group_fails_and_comes_back_as_one() -> None:
    """One rank away closes all that share its barrier, until it is back."""

    async def test() -> None:
        async with serving(FakeEngine()) as one, serving(FakeEngine()) as two:
            async with routing(one, two) as client:
                two.is_healthy = False
                await until(lambda: not any(client.router.health.is_open))
                status, _, headers = await client.post()
                assert (503, "no_worker") == (status, headers["x-balanceroute-dropped-reason"])
                assert 503 == (await client.get("/readiness"))[0]
                two.is_healthy = True
                await until(lambda: all(client.router.health.is_open))
                assert 200 == (await client.post())[0]

    run(test())


def test_independent_ranks_fail_alone() -> None:
    """Without a barrier the others go on."""

    async def test() -> None:
        async with serving(FakeEngine()) as one, serving(FakeEngine()) as two:
            async with routing(one, two, barrier=False) as client:
                two.is_healthy = False
                await until(lambda: client.router.health.is_open == [True, False])
                for _ in range(3):
                    assert 200 == (await client.post())[0]
                assert (3, 0) == (len(one.bodies), len(two.bodies))

    run(test())


def test_an_engine_that_is_not_there() -> None:
    """502 after all attempts, and its rank is closed."""

    async def test() -> None:
        engine = FakeEngine()
        async with serving(engine):
            pass
        async with routing(engine, health_failure_threshold=100) as client:
            status, body, _ = await client.post()
            assert 502 == status
            assert "cannot be reached" in str(error_of(body)["message"])
            client.expect_nothing_left()

    run(test())


def test_metrics_that_vanish_are_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    """In the log, once, and in a metric of the router's own."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            engine.metrics = ""
            await until(lambda: "metrics cannot be read" in caplog.text)
            assert b"balanceroute_load_signals_up 0.0" in (await client.get("/metrics"))[1]
            assert 200 == (await client.post())[0]
            assert 1 == caplog.text.count("metrics cannot be read")

    run(test())


@pytest.mark.parametrize(("old", "new"), [("} 0.0\n", "} NaN\n"), ("} 0\n", "} zero\n")])
def test_metrics_that_are_none(old: str, new: str, caplog: pytest.LogCaptureFixture) -> None:
    """They count as metrics that cannot be read, and are read again once they can be."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            good = engine.metrics
            engine.metrics = good.replace(old, new)
            assert good != engine.metrics
            await until(lambda: b"load_signals_up 0.0" in client.router.meters.text())
            engine.metrics = good
            await until(lambda: b"load_signals_up 1.0" in client.router.meters.text())
            assert "please report" not in caplog.text

    run(test())


class Broken:
    """A policy that raises when it is first asked about three requests."""

    binding: ClassVar[Binding] = "pooled"

    def plan(self, view: object, pool: object) -> Plan:
        """Raise."""
        raise RuntimeError("what a policy may do")


def test_a_policy_that_raises_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """Every request is answered, and the log says why they were placed otherwise."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            client.router.group.replace_policy(Broken())
            answers = await asyncio.gather(*(client.post() for _ in range(3)))
            assert [200] * 3 == [status for status, _, _ in answers]
            assert "what a policy may do" in caplog.text
            client.expect_nothing_left()

    run(test())


def test_a_stream_whose_end_is_not_read_frees_its_slot() -> None:
    """The slot is free as soon as the engine says that the answer is complete."""

    async def script(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(chunk() + DONE)
        await asyncio.sleep(0.5)  # the connection stays open
        return answer

    async def test() -> None:
        async with serving(FakeEngine(script)) as engine, routing(engine, slots=1) as client:
            both = await asyncio.gather(
                *(client.post({"prompt": [1], "stream": True}) for _ in range(2))
            )
            assert [200, 200] == [status for status, _, _ in both]
            assert 2 == len(engine.bodies)

    async def timed() -> None:
        async with asyncio.timeout(0.95):  # half a second each, side by side
            await test()

    run(timed())


@pytest.mark.parametrize("last", [DONE, b'data: {"error": {"message": "no", "code": 500}}\n\n'])
def test_a_connection_that_breaks_behind_the_end_of_a_stream(last: bytes) -> None:
    """The answer is complete, or has its error: nothing follows it, and no rank is to blame."""

    async def script(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(chunk() + last)
        assert request.transport is not None
        request.transport.close()
        return answer

    async def test() -> None:
        async with serving(FakeEngine(script)) as engine:
            async with routing(engine, health_failure_threshold=1) as client:
                status, body, _ = await client.post({"prompt": [1], "stream": True})
                assert (200, chunk() + last) == (status, body)
                assert all(client.router.health.is_open)
                client.expect_nothing_left()

    run(test())


def test_tokens_after_the_end_of_a_stream() -> None:
    """They are passed on, and change no account."""

    async def script(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        return await stream(request, [chunk(), DONE, chunk(), chunk()])

    async def test() -> None:
        async with serving(FakeEngine(script)) as engine, routing(engine) as client:
            status, body, _ = await client.post({"prompt": [1], "stream": True})
            assert (200, chunk() + DONE + 2 * chunk()) == (status, body)
            client.expect_nothing_left()

    run(test())
