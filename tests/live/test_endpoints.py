"""Each endpoint through the router, on the emulated group, and what ends its streams."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tests.live.fake_engine import FakeEngine, chunk, routing, run, serving, stream, until
from tests.live.test_faults import Bench, bench

CHAT, RESPONSES, COMPLETIONS = "/v1/chat/completions", "/v1/responses", "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": "Hello there", "max_tokens": 6, "ignore_eos": True},
    CHAT: {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6, "ignore_eos": True},
    RESPONSES: {"input": "Hello", "max_output_tokens": 6},
}


async def post(it: Bench, path: str, body: dict[str, Any], tokens: int = 0) -> tuple[int, bytes]:
    """Send a request through the router."""
    headers = {"X-Emulated-Output-Tokens": str(tokens)} if tokens else {}
    body = {"model": "emulated"} | body
    async with it.session.post(it.url + path, json=body, headers=headers) as answer:
        return answer.status, await answer.read()


def payloads(data: bytes) -> list[dict[str, Any]]:
    """Return the JSON of each event; every one of them must be whole."""
    *events, rest = data.split(b"\n\n")
    assert b"" == rest
    found = []
    for event in events:
        name, _, text = event.rpartition(b"data: ")
        if text != b"[DONE]":
            found.append(msgspec.json.decode(text))
        if name.startswith(b"event: "):
            assert name == b"event: %b\n" % found[-1]["type"].encode()
    return found


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(("asked", "tokens"), [(3, 3), (9, 6)])
def test_streams_of_each_endpoint(path: str, asked: int, tokens: int) -> None:
    """Also those that end at their limit: complete, without an error, and all tokens counted."""

    async def test() -> None:
        async with bench() as it:
            status, data = await post(it, path, BODIES[path] | {"stream": True}, asked)
            assert 200 == status
            assert b'"error":{' not in data
            events = payloads(data)
            if path == RESPONSES:
                kind = "response.completed" if tokens == 3 else "response.incomplete"
                assert kind == events[-1]["type"]
                assert list(range(len(events))) == [event["sequence_number"] for event in events]
                assert tokens == events[-1]["response"]["usage"]["output_tokens"]
            assert b"balanceroute_output_tokens_total %d.0" % tokens in it.router.meters.text()
            assert b"balanceroute_cut_streams_total 0.0" in it.router.meters.text()
            await it.expect_order()

    run(test())


@pytest.mark.parametrize("path", BODIES)
def test_whole_answers_of_each_endpoint(path: str) -> None:
    """As the engine gives them."""

    async def test() -> None:
        async with bench() as it:
            status, data = await post(it, path, BODIES[path], 6)
            assert 200 == status
            usage = msgspec.json.decode(data)["usage"]
            assert 6 == usage.get("completion_tokens", usage.get("output_tokens"))
            await it.expect_order()

    run(test())


def test_other_endpoints() -> None:
    """Models, embeddings and token counts come from some rank as they are, errors as well."""

    async def test() -> None:
        async with bench() as it:
            async with it.session.get(it.url + "/v1/models") as answer:
                assert "emulated" == (await answer.json())["data"][0]["id"]
            others: tuple[tuple[str, dict[str, Any]], ...] = (
                ("/v1/embeddings", {"input": ["a", "b c"]}),
                ("/tokenize", {"prompt": "Hello there"}),
            )
            for path, body in others:
                status, data = await post(it, path, body)
                url, named = it.group.url + path, body | {"model": "emulated"}
                async with it.session.post(url, json=named) as answer:
                    assert (answer.status, await answer.read()) == (status, data)
            status, data = await post(it, "/v1/embeddings", {"input": []})
            assert (400, 400) == (status, msgspec.json.decode(data)["error"]["code"])

    run(test())


@pytest.mark.parametrize("path", BODIES)
def test_streams_that_break_off(path: str) -> None:
    """One error in the endpoint's own form, behind nothing but whole events."""

    async def test() -> None:
        async with bench(health_failure_threshold=1000) as it:
            await it.fault(reset_after_chunks=3)
            status, data = await post(it, path, BODIES[path] | {"stream": True}, 6)
            assert 200 == status
            *events, last = payloads(data)
            assert len(events) > 0
            if path == RESPONSES:
                assert ("error", "502") == (last["type"], last["code"])
                assert events[-1]["sequence_number"] + 1 == last["sequence_number"]
                assert {"type", "code", "message", "param", "sequence_number"} == set(last)
            else:
                assert 502 == last["error"]["code"]
            assert b"Traceback" not in data
            await it.fault()
            await it.expect_order()

    run(test())


@pytest.mark.parametrize("path", [*BODIES, "/v1/messages"])
@pytest.mark.parametrize("end", [b'data: {"choices": [{"te', b"data: {}\n", b"data: {}\r\n\r"])
def test_an_event_that_breaks_off_in_the_middle(path: str, end: bytes) -> None:
    """Nobody gets half of it; the error stands by itself."""

    async def script(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(chunk())
        await answer.write(chunk()[:10])
        await asyncio.sleep(0.02)
        await answer.write(chunk()[10:] + end)
        await asyncio.sleep(0.02)
        assert request.transport is not None
        request.transport.abort()
        return answer

    async def test() -> None:
        async with serving(FakeEngine(script)) as engine, routing(engine) as client:
            body = {"prompt": [1], "messages": [], "input": "x", "stream": True}
            _, data, _ = await client.post(body, path)
            assert data.startswith(2 * chunk())
            (error,) = payloads(data.removeprefix(2 * chunk()))
            assert "broke off this stream" in str(error)
            client.expect_nothing_left()

    run(test())


@pytest.mark.parametrize("kind", ["response.failed", "error"])
def test_an_engine_that_reports_a_failure_itself(kind: str) -> None:
    """Its words are the last ones."""
    events = [
        b'event: response.created\ndata: {"type":"response.created","sequence_number":0}\n\n',
        b'event: %b\ndata: {"type":"%b","sequence_number":1}\n\n' % ((kind.encode(),) * 2),
    ]

    async def script(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        return await stream(request, events)

    async def test() -> None:
        async with serving(FakeEngine(script)) as engine, routing(engine) as client:
            _, data, _ = await client.post({"input": "x", "stream": True}, RESPONSES)
            assert b"".join(events) == data
            client.expect_nothing_left()

    run(test())


def test_other_streams_are_passed_on_as_they_come() -> None:
    """The first event is there while the last one is still to be made."""
    go_on = asyncio.Event()

    async def script(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"event: a\ndata: 1\n\n")
        await go_on.wait()
        await answer.write(b"event: b\ndata: 2\n\n")
        return answer

    async def test() -> None:
        async with serving(FakeEngine(script)) as engine, routing(engine) as client:
            url = client.url + "/v1/messages"
            async with client.session.post(url, data=b"{}") as answer:
                assert b"event: a\ndata: 1\n\n" == await answer.content.readany()
                go_on.set()
                assert b"event: b\ndata: 2\n\n" == await answer.read()
            await until(lambda: engine.bodies == [b"{}"])

    run(test())


def test_a_compressed_body_goes_on_as_it_was_read() -> None:
    """Nothing says of it any more that it is compressed."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            plain = b'{"prompt": [1, 2]}'
            encoding = {"Content-Encoding": "gzip"}
            status, _, _ = await client.post(gzip.compress(plain), headers=encoding)
            assert (200, [plain]) == (status, engine.bodies)
            assert "Content-Encoding" not in engine.headers[0]

    run(test())


def test_streams_are_asked_for_uncompressed() -> None:
    """What is compressed could not be read on its way."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            await client.post(headers={"Accept-Encoding": "gzip"})
            assert "Accept-Encoding" not in engine.headers[0]

    run(test())
