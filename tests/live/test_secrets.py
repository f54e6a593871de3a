"""Keys, tokens and passwords: never in a log, an answer or an error."""

from __future__ import annotations

import logging

import aiohttp
import pytest
from aiohttp import web

from balanceroute.errors import ConfigError
from balanceroute.live.addresses import rank_addresses
from tests.live.fake_engine import Client, FakeEngine, routing, run, serving
from tests.live.test_changes import free_port
from tests.live.test_trouble import refuse, reset

SECRET = "s3cr3t"  # noqa: S105
KEY = {"Authorization": f"Bearer {SECRET}-key"}


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@127.0.0.1:9",
        f"http://user:{SECRET}@127.0.0.1:9@3",
        f"http://{SECRET}@host",
        f"http://user:{SECRET}@",
        f"user:{SECRET}@host:1",
        f"http://user:{SECRET}@host/path",
    ],
)
def test_a_password_in_a_worker_url(url: str) -> None:
    """It is refused, with the host and without the password."""
    with pytest.raises(ConfigError, match="no user name") as failure:
        rank_addresses([url])
    assert SECRET not in str(failure.value)
    assert SECRET not in str(failure.value.__cause__)


async def use(client: Client, port: int) -> list[bytes]:
    """Ask for all sorts of things, with good keys and bad ones, and return what came back."""
    seen: list[bytes] = []
    for headers in (KEY, {"Authorization": f"Bearer {SECRET}-other"}):
        bodies = ({"prompt": [1], "stream": True}, {"prompt": [1]}, b"{")
        seen += [(await client.post(body, headers=headers))[1] for body in bodies]
        for path in ("/workers", "/metrics", "/nowhere", "/v1/models"):
            async with client.session.get(client.url + path, headers=headers) as answer:
                seen.append(await answer.read())
        url = f"http://127.0.0.1:{port}/workers"
        async with client.session.post(url, data=b"{", headers=headers) as answer:
            seen.append(await answer.read())
    return seen


@pytest.mark.parametrize("script", [refuse, reset, None])
def test_keys_of_requests_that_fail(script: object, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the clients' nor the administrators' appear anywhere, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.INFO)

    async def broken(engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        raise RuntimeError("in the engine")

    async def test() -> None:
        port = free_port()
        settings = {
            "api_keys": [f"{SECRET}-key"],
            "tenants": {"a": {"keys": [f"{SECRET}-a"]}},
            "admin_port": port,
            "admin_token": f"{SECRET}-admin",
        }
        async with serving(FakeEngine(script or broken)) as engine:  # type: ignore[arg-type]
            async with routing(engine, **settings) as client:
                seen = await use(client, port)
        async with routing(engine, queue_timeout_secs=0.2, **settings) as client:  # it is away
            seen += await use(client, port)
        assert not any(SECRET.encode() in data for data in seen)
        assert not any(b"Traceback" in data for data in seen)

    run(test())
    assert "rank http://127.0.0.1" in caplog.text
    assert SECRET not in caplog.text


def test_an_error_of_our_own(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets a 500 in the usual form; the traceback is in the log, without the key."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:

            def fail(_: object) -> None:
                raise RuntimeError("on purpose")

            client.router.parts.prompts.count = fail  # type: ignore[assignment,method-assign]
            status, body, _ = await client.post(headers=KEY)
            assert 500 == status
            assert b'"message":"the router has failed","type":"InternalServerError"' in body
            client.expect_nothing_left()
            async with aiohttp.ClientSession() as session:  # and it serves on
                async with session.get(client.url + "/health") as answer:
                    assert 200 == answer.status

    run(test())
    assert "on purpose" in caplog.text
    assert SECRET not in caplog.text
