"""Traces: spans of a request at a collector, and the engine in the same trace."""

from __future__ import annotations

import asyncio
import builtins
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from balanceroute.errors import ConfigError, MissingExtraError
from balanceroute.live.reading import read_config
from tests.live.fake_engine import FakeEngine, chunk, routing, run, serving, stream, three_tokens

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.live.collector import attributes, collecting
from tests.live.test_disaggregated import split

CLIENTS_TRACE, CLIENTS_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{CLIENTS_TRACE}-{CLIENTS_SPAN}-01", "tracestate": "a=1"}
SAMPLED = 1  # of the flags
REQUEST = "POST /v1/completions"


def test_a_request_is_a_trace_that_the_engine_goes_on_with() -> None:
    """Of the client's trace: the request, in it the wait and the send, whose span is passed on."""

    async def test() -> None:
        async with collecting() as collector, serving(FakeEngine()) as engine:
            async with routing(engine, otlp_traces_endpoint=collector.url) as client:
                body = {"prompt": [1, 2], "stream": True}
                status, _, _ = await client.post(body, headers=TRACEPARENT)
                assert 200 == status
        (whole,), (wait,) = collector.named(REQUEST), collector.named("wait in pool")
        (send,) = collector.named("send to rank")
        assert {CLIENTS_TRACE} == {span.trace_id.hex() for span in collector.spans}
        assert CLIENTS_SPAN == whole.parent_span_id.hex()
        assert [whole.span_id] * 2 == [wait.parent_span_id, send.parent_span_id]
        assert Span.SPAN_KIND_SERVER == whole.kind
        assert Span.SPAN_KIND_CLIENT == send.kind
        assert whole.start_time_unix_nano <= wait.start_time_unix_nano <= wait.end_time_unix_nano
        assert wait.end_time_unix_nano <= send.start_time_unix_nano
        assert send.end_time_unix_nano <= whole.end_time_unix_nano
        passed_on = f"00-{CLIENTS_TRACE}-{send.span_id.hex()}-01"
        assert passed_on == engine.headers[0]["traceparent"]
        assert "a=1" == engine.headers[0]["tracestate"]
        assert 200 == attributes(whole)["http.response.status_code"]
        told = {"balanceroute.policy": "fcfs", "gen_ai.usage.input_tokens": 2}
        assert told | {"balanceroute.rank": 0} == attributes(wait)
        assert 3 == attributes(send)["gen_ai.usage.output_tokens"]
        assert engine.url == attributes(send)["balanceroute.worker"]
        assert "balanceroute" == collector.resource["service.name"]

    run(test())


def test_an_address_without_a_path_means_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As operators write it; headers of the environment go along."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b")

    async def test() -> None:
        async with collecting() as collector, serving(FakeEngine()) as engine:
            url = collector.url.removesuffix("/v1/traces")
            async with routing(engine, otlp_traces_endpoint=url) as client:
                await client.post()
            assert 1 == len(collector.named(REQUEST))
            assert "a b" == collector.headers["x-tenant"]

    run(test())


def test_another_try_is_another_wait_and_another_send() -> None:
    """The send that is tried again says so, and the request is no error."""

    async def test() -> None:
        async def busy_once(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
            if len(engine.bodies) == 1:
                return web.Response(status=429)
            return await three_tokens(engine, request)

        async with collecting() as collector, serving(FakeEngine(busy_once)) as engine:
            async with routing(engine, otlp_traces_endpoint=collector.url) as client:
                status, _, _ = await client.post()
                assert 200 == status
        assert 2 == len(collector.named("wait in pool"))
        first, second = collector.named("send to rank")
        assert (Status.STATUS_CODE_ERROR, "retried") == (
            first.status.code,
            attributes(first)["error.type"],
        )
        assert Status.STATUS_CODE_UNSET == second.status.code
        (whole,) = collector.named(REQUEST)
        assert Status.STATUS_CODE_UNSET == whole.status.code
        assert b"" == whole.parent_span_id
        assert first.span_id.hex() in engine.headers[0]["traceparent"]
        assert second.span_id.hex() in engine.headers[1]["traceparent"]

    run(test())


def test_a_prompt_computed_elsewhere_is_a_span_of_its_own() -> None:
    """Before the wait for a rank, in the same request."""

    async def test() -> None:
        async with collecting() as collector:
            async with split(otlp_traces_endpoint=collector.url) as groups:
                status, _, _ = await groups.post()
                assert 200 == status
        (whole,), (wait,) = collector.named(REQUEST), collector.named("wait in pool")
        (prefill,) = collector.named("prefill")
        assert whole.span_id == prefill.parent_span_id
        assert Span.SPAN_KIND_CLIENT == prefill.kind
        assert prefill.end_time_unix_nano <= wait.start_time_unix_nano

    run(test())


def test_what_goes_wrong_is_said_where_it_does() -> None:
    """A stream that is broken off, a body that is none, and nobody who could serve."""

    async def test() -> None:
        async def half(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
            return await stream(request, [chunk()])

        async with collecting() as collector, serving(FakeEngine(half)) as engine:
            async with routing(engine, otlp_traces_endpoint=collector.url) as client:
                await client.post({"prompt": [1], "stream": True})
                status, _, _ = await client.post(b"no JSON")
                assert 400 == status
                client.router.health.drain(0, is_draining=True)
                status, _, _ = await client.post()
                assert 503 == status
        (send,) = collector.named("send to rank")
        assert "broken_off" == attributes(send)["error.type"]
        codes = [attributes(span).get("error.type") for span in collector.named(REQUEST)]
        assert [None, "bad_body", "no_worker"] == codes
        _, refused, unserved = collector.named(REQUEST)
        assert Status.STATUS_CODE_UNSET == refused.status.code
        assert Status.STATUS_CODE_ERROR == unserved.status.code

    run(test())


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """And may leave out spans, after which engines are told so."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "east")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")

    async def test() -> None:
        async with collecting() as collector, serving(FakeEngine()) as engine:
            async with routing(engine, otlp_traces_endpoint=collector.url) as client:
                await client.post()
            flags = int(engine.headers[0]["traceparent"][-2:], 16)
            assert 0 == flags & SAMPLED
            assert [] == collector.spans
            monkeypatch.delenv("OTEL_TRACES_SAMPLER")
            async with routing(engine, otlp_traces_endpoint=collector.url) as client:
                await client.post()
            assert "east" == collector.resource["service.name"]

    run(test())


def test_a_collector_that_is_away_costs_spans_only() -> None:
    """Requests are answered, and the end does not wait for it."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine:
            async with routing(
                engine, otlp_traces_endpoint="http://127.0.0.1:9/v1/traces"
            ) as client:
                status, _, _ = await client.post()
                assert 200 == status
                began_s = time.monotonic()
            assert time.monotonic() - began_s < 12.0

    run(test())


def test_without_traces_nothing_of_them_is_there() -> None:
    """What clients say of their trace passes as it is, and nothing of OpenTelemetry is loaded."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            await client.post(headers=TRACEPARENT)
            for name, value in TRACEPARENT.items():
                assert value == engine.headers[0][name]

    run(test())
    script = (
        "import sys, balanceroute.live.app; print([n for n in sys.modules if 'telemetry' in n])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert b"[]" == told.stdout.strip()


@pytest.fixture
def no_sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "balanceroute.live.tracing", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    yield
    monkeypatch.undo()


def test_the_extra_is_named_that_is_not_there(no_sdk: None) -> None:
    """Before anybody is served."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine:
            with pytest.raises(MissingExtraError, match=r"pip install 'balanceroute\[otel\]'"):
                async with routing(engine, otlp_traces_endpoint="http://127.0.0.1:9/v1/traces"):
                    pass

    run(test())


def test_an_address_that_is_none_is_refused() -> None:
    """With what it should look like."""
    flags = {"worker_urls": ["http://127.0.0.1:1"], "otlp_traces_endpoint": "127.0.0.1:4317"}
    with pytest.raises(ConfigError, match=r"as http://127.0.0.1:4318/v1/traces, got '127"):
        read_config(None, flags)


def test_spans_of_requests_at_the_same_time_do_not_mix() -> None:
    """Each send is within its own request."""

    async def test() -> None:
        async with collecting() as collector, serving(FakeEngine()) as engine:
            async with routing(engine, otlp_traces_endpoint=collector.url, slots=2) as client:
                body = {"prompt": [1, 2], "stream": True}
                await asyncio.gather(*(client.post(body) for _ in range(8)))
        parents = {span.span_id: span.trace_id for span in collector.named(REQUEST)}
        assert 8 == len(parents) == len(set(parents.values()))
        for name in ("wait in pool", "send to rank"):
            told = {span.parent_span_id: span.trace_id for span in collector.named(name)}
            assert parents == told

    run(test())
