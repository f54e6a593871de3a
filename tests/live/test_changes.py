"""Changes to a running router: administrators, settings read anew, ranks that come and go."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp
import aiohttp.web
import msgspec
import pytest

from balanceroute.errors import ConfigError
from balanceroute.live.addresses import RankAddress
from balanceroute.live.app import running_router
from balanceroute.live.reading import read_config
from tests.live.fake_engine import FakeEngine, chunk, routing, run, serving, stream, until
from tests.live.test_trouble import hang


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_administrators_port_asks_for_its_token() -> None:
    """And changes nothing without it."""

    async def test() -> None:
        port = free_port()
        settings = {"admin_port": port, "admin_token": "x"}
        async with serving(FakeEngine()) as engine:
            async with routing(engine, **settings) as client:
                url = f"http://127.0.0.1:{port}/workers/0/drain"
                for token, status in (("", 401), ("Bearer other", 401), ("Bearer x", 200)):
                    headers = {"Authorization": token}
                    async with client.session.post(url, headers=headers) as answer:
                        assert status == answer.status
                        assert (status == 200) == (not any(client.router.health.is_open))

    run(test())


def test_another_token_of_the_administrators() -> None:
    """Once it is in force the one before is worth nothing; nor are bytes that are no text."""

    async def test() -> None:
        port = free_port()
        async with serving(FakeEngine()) as engine:
            async with routing(engine, admin_port=port, admin_token="x") as client:  # noqa: S106
                parts = client.router.parts
                parts.reload(msgspec.structs.replace(parts.config, admin_token="é"))  # noqa: S106
                found = []
                for token in (b"x", b"\xff", "é".encode()):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    head = b"GET /workers HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                    writer.write(head + b"Authorization: Bearer " + token + b"\r\n\r\n")
                    found.append((await reader.read()).split()[1])
                    writer.close()
                assert [b"401", b"401", b"200"] == found

    run(test())


def test_a_rank_is_drained_without_losing_a_stream() -> None:
    """What runs there goes on; new requests go elsewhere; it may come back."""
    go_on = asyncio.Event()

    async def test() -> None:
        async def script(
            engine: FakeEngine, request: aiohttp.web.Request
        ) -> aiohttp.web.StreamResponse:
            await go_on.wait()
            return await stream(request, [chunk(), b"data: [DONE]\n\n"])

        async with serving(FakeEngine(script)) as one, serving(FakeEngine()) as two:
            async with routing(one, two, barrier=True) as client:
                client.router.health.drain(1, is_draining=True)
                asked = asyncio.create_task(client.post({"prompt": [1], "stream": True}))
                await until(lambda: len(one.bodies) == 1)
                client.router.health.drain(1, is_draining=False)
                client.router.health.drain(0, is_draining=True)
                for _ in range(3):
                    assert 200 == (await client.post())[0]
                assert (1, 3) == (len(one.bodies), len(two.bodies))
                go_on.set()
                assert 200 == (await asked)[0]
                client.expect_nothing_left()

    run(test())


def test_ranks_come_and_go_as_the_file_says(tmp_path: Path) -> None:
    """A stream on a rank that is taken away is brought to its end; another policy sees it."""

    async def test() -> None:
        file = tmp_path / "router.yaml"

        def write(*urls: str, policy: str) -> None:
            file.write_bytes(
                msgspec.yaml.encode(
                    {"worker-urls": list(urls), "policy": policy, "slots": 4, "port": 0}
                    | {"health-check-interval-secs": 0.05, "metrics-interval-secs": 0.05}
                )
            )

        async with serving(FakeEngine(hang)) as one, serving(FakeEngine()) as two:
            write(one.url, policy="fcfs")
            config = read_config(file, {})
            async with running_router(config) as (router, port), aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{port}/v1/completions"
                body = b'{"prompt": [1, 2], "stream": true}'
                async with session.post(url, data=body) as stays:
                    await stays.content.readany()
                    write(two.url, policy="br_auto")
                    router.parts.reload(read_config(file, {}))
                    await until(lambda: router.health.is_open == [False, True])
                    for _ in range(3):
                        async with session.post(url, data=body) as answer:
                            assert 200 == answer.status
                            await answer.read()
                    assert (1, 3) == (len(one.bodies), len(two.bodies))
                    assert 1 == router.group.ledger.num_in_flight
                await until(lambda: router.group.ledger.num_in_flight == 0)
                router.group.check()

    run(test())


def test_settings_that_are_read_again_leave_what_administrators_did() -> None:
    """A rank that is drained stays drained, and one that was added stays; the file's own change."""

    async def test() -> None:
        async with serving(FakeEngine()) as one, serving(FakeEngine()) as two:
            async with serving(FakeEngine()) as added, routing(one, two, barrier=False) as client:
                parts, health = client.router.parts, client.router.health
                health.drain(0, is_draining=True)
                parts.add_rank(RankAddress(added.url))

                def name(*engines: FakeEngine) -> list[bool]:
                    urls = tuple(engine.url for engine in engines)
                    parts.reload(msgspec.structs.replace(parts.config, worker_urls=urls))
                    return list(health.is_draining)

                assert [True, False, False] == name(one, two)
                assert [True, True, False] == name(one)
                assert [True, False, False] == name(one, two)
                assert [True, False, False] == name(two, added)
                assert [False, False, True] == name(one, two)  # each is named, or not, anew

    run(test())


def test_a_rank_that_comes_has_the_limits_of_the_others() -> None:
    """Those that the settings state; without any, those that its engine does."""

    async def test() -> None:
        async with serving(FakeEngine()) as one, serving(FakeEngine()) as two:
            for kv_tokens, expected in ((500, 500), (None, 1600)):
                async with routing(one, kv_tokens=kv_tokens) as client:
                    group = client.router.group
                    client.router.parts.add_rank(RankAddress(two.url))
                    await client.router.watch._read_metrics()
                    assert [expected] * 2 == group.kv_tokens.tolist()
                    assert [4, 4] == group.num_slots.tolist()

    run(test())


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", 1234), ("settle_secs", 0.01), ("prefill_time", 1e-5), ("mixed_step_time", 1e-3)],
)
def test_what_a_running_router_cannot_change(name: str, value: object) -> None:
    """It says so, and stays as it is."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            before = client.router.parts.config
            other = msgspec.structs.replace(before, **{name: value})
            with pytest.raises(ConfigError, match=f"{name} cannot change while the router runs"):
                client.router.parts.reload(other)
            assert before is client.router.parts.config

    run(test())


def test_a_port_that_is_taken() -> None:
    """One clear error, and nothing is left running."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine:
            taken = int(engine.url.rsplit(":", 1)[1])
            with pytest.raises(ConfigError, match="cannot listen on"):
                async with routing(engine, port=taken):
                    pass

    run(test())
