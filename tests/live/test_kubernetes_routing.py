"""A router and a picker whose ranks Kubernetes names: they enter, drain, and may all be gone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.live import fake_engine
from tests.live.cluster import (
    POOL,
    POOLS,
    SERVICE,
    SLICES,
    FakeApi,
    endpoint_slice,
    pool,
    ready,
    serving,
    write_kubeconfig,
)
from tests.live.fake_engine import DONE, FakeEngine, chunk, run, until
from tests.live.starting import LIMIT_S, Process, started

pytest.importorskip("kubernetes.aio", reason="Kubernetes' client is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one loopback address only"),
]

PODS = ("127.0.0.2", "127.0.0.3")
BODY = {"prompt": [1, 2, 3], "stream": True, "max_tokens": 3}


class Pod(FakeEngine):
    """An engine at an address of its own; its streams go on until it is let go."""

    def __init__(self) -> None:
        super().__init__(self.slow_stream)
        self.go_on = asyncio.Event()

    async def slow_stream(self, engine: FakeEngine, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(chunk())
        await self.go_on.wait()
        await answer.write(chunk() + chunk() + DONE)
        return answer


def free_port() -> int:
    with socket.socket() as found:
        found.bind((PODS[0], 0))
        return int(found.getsockname()[1])


@contextlib.asynccontextmanager
async def pods(port: int) -> AsyncIterator[list[Pod]]:
    """Run an engine at each address, all on one port, as the pods of a deployment are."""
    async with contextlib.AsyncExitStack() as stack:
        engines = [Pod() for _ in PODS]
        for engine, address in zip(engines, PODS, strict=True):
            await stack.enter_async_context(fake_engine.serving(engine, port, address))
        yield engines


def slice_of(*addresses: str, port: int) -> dict[str, object]:
    its = [ready(address, f"vllm-{address[-1]}") for address in addresses]
    return endpoint_slice("vllm-a", *its, port=port)


async def stream_one(session: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    async with session.post(f"{url}/v1/completions", json=BODY) as answer:
        return answer.status, await answer.read()


async def is_open(session: aiohttp.ClientSession, url: str) -> list[bool]:
    async with session.get(f"{url}/readiness") as answer:
        found: list[bool] = (await answer.json())["open"]
        return found


async def settled(session: aiohttp.ClientSession, url: str, expected: list[bool]) -> None:
    async with asyncio.timeout(20.0):
        while await is_open(session, url) != expected:
            await asyncio.sleep(0.05)


def test_ranks_enter_drain_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream on an endpoint that has gone comes to its end; without any, requests get 503."""

    async def test() -> None:
        api, port, admin_port = FakeApi(), free_port(), free_port()
        async with serving(api), pods(port) as engines:
            write_kubeconfig(tmp_path / "kubeconfig", api)
            monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
            monkeypatch.setenv("BALANCEROUTE_ADMIN_TOKEN", "t")
            await api.put(POOLS, pool(port))
            arguments = ["--kubernetes-service", SERVICE, "--kubernetes-pool", POOL, "--no-barrier"]
            arguments += ["--port", "0", "--slots", "4", "--health-check-interval-secs", "0.1"]
            arguments += ["--admin-port", str(admin_port)]
            async with (
                started(*arguments, log=tmp_path / "log") as process,
                aiohttp.ClientSession() as session,
            ):
                await process.said("waiting for endpoints of service vllm in namespace models")
                await api.put(SLICES, slice_of(PODS[0], port=port))
                await process.wait_ready()
                policy = f"http://127.0.0.1:{admin_port}/policy"
                token = {"Authorization": "Bearer t"}
                async with session.post(policy, json={"policy": "fcfs"}, headers=token) as answer:
                    assert 200 == answer.status
                await follow_changes(api, port, engines, process, session)

    run(test(), LIMIT_S)


async def follow_changes(
    api: FakeApi,
    port: int,
    engines: list[Pod],
    process: Process,
    session: aiohttp.ClientSession,
) -> None:
    url = process.url
    first = asyncio.create_task(stream_one(session, url))
    await until(lambda: len(engines[0].bodies) == 1)
    await api.put(SLICES, slice_of(*PODS, port=port))
    await settled(session, url, [True, True])
    await api.put(SLICES, slice_of(PODS[1], port=port))
    await settled(session, url, [False, True])
    second = asyncio.create_task(stream_one(session, url))
    await until(lambda: len(engines[1].bodies) == 1)
    await api.put(SLICES, slice_of(port=port))
    await settled(session, url, [False, False])
    assert 503 == (await stream_one(session, url))[0]
    await process.said("has no endpoint that is ready; requests are refused (503)")
    for engine, answer in zip(engines, (first, second), strict=True):
        engine.go_on.set()
        status, body = await answer
        assert (200, 3) == (status, body.count(b'"text"'))
    await api.put(SLICES, slice_of(*PODS, port=port))
    await settled(session, url, [True, True])
    assert 200 == (await stream_one(session, url))[0]
    assert 3 == sum(len(engine.bodies) for engine in engines)
    async with session.get(f"{url}/metrics") as page:  # endpoints have no say in who chooses
        assert 'balanceroute_policy_info{policy="fcfs"} 1.0' in await page.text()
    process.process.send_signal(signal.SIGTERM)
    assert 0 == await process.process.wait()


def test_one_that_waits_for_endpoints_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes at once, as a pod is told to."""

    async def test() -> None:
        api = FakeApi()
        async with serving(api):
            write_kubeconfig(tmp_path / "kubeconfig", api)
            monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
            log = tmp_path / "log"
            async with started("--kubernetes-service", SERVICE, log=log) as process:
                await process.said("waiting for endpoints")
                process.process.send_signal(signal.SIGTERM)
                assert 0 == await process.process.wait()

    run(test(), LIMIT_S)
