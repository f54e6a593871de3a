"""The connections that the router keeps to engines."""

from __future__ import annotations

import pytest
from aiohttp import web

from balanceroute.live import upstream
from tests.live.fake_engine import FakeEngine, routing, run, serving, three_tokens


@pytest.mark.parametrize(("idle_s", "num_connections"), [(None, 1), (0.0, 3)])
def test_a_connection_that_was_idle_for_long_is_not_used_again(
    idle_s: float | None, num_connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine may be closing it; that is after 5 s, as uvicorn does it in all of them."""
    assert upstream.IDLE_S < 5.0
    if idle_s is not None:
        monkeypatch.setattr(upstream, "IDLE_S", idle_s)
    seen = set()

    async def script(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        seen.add(request.transport.get_extra_info("peername"))
        return await three_tokens(engine, request)

    async def test() -> None:
        # Nobody else may use or keep a connection.
        settings = {"health_check_interval_secs": 60.0, "metrics_interval_secs": 60.0}
        async with serving(FakeEngine(script)) as engine, routing(engine, **settings) as client:
            for _ in range(3):
                assert 200 == (await client.post())[0]

    run(test())
    assert num_connections == len(seen)


def test_what_several_requests_share_is_no_id_of_a_request() -> None:
    """An engine may refuse an id twice; those of traces and correlations are just passed on."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            shared = {"X-Correlation-Id": "a", "X-Trace-Id": "b"}
            own_ids: list[dict[str, str]] = [{}, {}, {"Request-Id": "c"}, {"X-Request-Id": "d"}]
            for own in own_ids:
                assert 200 == (await client.post(headers=shared | own))[0]
            ids = [headers["X-Request-Id"] for headers in engine.headers]
            assert ["c", "d"] == ids[2:]
            assert 4 == len({*ids, "a", "b"}) - 2
            assert {("a", "b")} == {
                (headers["X-Correlation-Id"], headers["X-Trace-Id"]) for headers in engine.headers
            }

    run(test())
