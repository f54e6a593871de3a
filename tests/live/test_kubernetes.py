"""Endpoints that are found in Kubernetes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from balanceroute.cli.epp import GRPC_PORT, _read
from balanceroute.errors import ConfigError
from balanceroute.live.config import ServeConfig
from balanceroute.live.kubernetes.discovery import Discovery, discovering
from balanceroute.live.reading import read_config
from tests.live.cluster import (
    POOL,
    POOLS,
    SERVICE,
    SLICES,
    FakeApi,
    endpoint,
    endpoint_slice,
    pool,
    ready,
)
from tests.live.fake_engine import run, until
from tests.live.following import BOTH, OF_POOL, OF_SERVICE, TWO, URLS, Follow, found

pytest.importorskip("kubernetes.aio", reason="Kubernetes' client is not installed")


def test_endpoints_come_and_go(follow: Follow) -> None:
    """What is listed first, then each change, until nothing is left; and something again."""

    async def test(api: FakeApi, its: Discovery) -> None:
        assert URLS == its.urls
        more = endpoint_slice("vllm-b", ready("10.0.0.3", "vllm-2"))
        await api.put(SLICES, more)
        await until(lambda: its.urls == (*URLS, "http://10.0.0.3:8000"))
        one = endpoint_slice("vllm-a", ready("10.0.0.2", "vllm-1"))
        await api.put(SLICES, one)
        await until(lambda: its.urls == (URLS[1], "http://10.0.0.3:8000"))
        await api.delete(SLICES, "vllm-b")
        await until(lambda: its.urls == URLS[1:])
        await api.put(SLICES, endpoint_slice("vllm-a"))
        await until(lambda: its.urls == ())
        await api.put(SLICES, one)
        await until(lambda: its.urls == URLS[1:])
        assert 1 == api.num_lists == api.num_watches

    follow(test)


@pytest.mark.parametrize(
    ("conditions", "is_in"),
    [
        ({}, True),  # unknown is to be taken for ready
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": False, "serving": False, "terminating": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),  # it drains
        ({"ready": True, "serving": True, "terminating": True}, False),  # publishNotReadyAddresses
    ],
)
def test_only_endpoints_that_are_ready_count(
    follow: Follow, conditions: dict[str, bool], is_in: bool
) -> None:
    """By the conditions of the slice."""

    async def test(api: FakeApi, its: Discovery) -> None:
        its_slice = endpoint_slice("vllm-b", endpoint("10.0.0.3", "vllm-2", **conditions))
        await api.put(SLICES, its_slice)
        await api.put(SLICES, endpoint_slice("vllm-c", ready("10.0.0.9", "vllm-9")))
        await until(lambda: "http://10.0.0.9:8000" in its.urls)
        assert is_in == ("http://10.0.0.3:8000" in its.urls)

    follow(test)


def test_each_target_port_is_a_rank(follow: Follow) -> None:
    """In the order of the pool; the ports of the slices do not count then."""

    async def test(api: FakeApi, its: Discovery) -> None:
        hosts, ports = ("http://10.0.0.1", "http://10.0.0.2"), (8200, 8201)
        assert [f"{host}:{port}" for host in hosts for port in ports] == list(its.urls)
        await api.put(POOLS, pool(8300))
        await until(lambda: its.urls == ("http://10.0.0.1:8300", "http://10.0.0.2:8300"))
        await api.delete(POOLS, POOL)
        await until(lambda: its.urls == ())

    follow(test, **BOTH)


def test_a_pod_counts_once(follow: Follow) -> None:
    """Though it is in two slices while it moves, and has addresses of two kinds."""

    async def test(api: FakeApi, its: Discovery) -> None:
        await api.put(SLICES, endpoint_slice("vllm-b", ready("10.0.0.2", "vllm-1")))
        await api.put(SLICES, endpoint_slice("vllm-6", ready("fd00::2", "vllm-1"), family="IPv6"))
        six = endpoint_slice("vllm-7", ready("fd00::3", "vllm-2"), family="IPv6")
        await api.put(SLICES, six)
        await until(lambda: its.urls == (*URLS, "http://[fd00::3]:8000"))

    follow(test)


def test_an_empty_set_is_said_aloud(follow: Follow, caplog: pytest.LogCaptureFixture) -> None:
    """With where it was looked for; a pool that is missing is named."""

    async def test(api: FakeApi, its: Discovery) -> None:
        await api.delete(SLICES, "vllm-a")
        await until(lambda: its.urls == ())
        expected = "service vllm in namespace models has no endpoint that is ready"
        assert expected in caplog.text
        assert () == its.applied_to(ServeConfig(kubernetes_service=SERVICE)).worker_urls

    follow(test)


@pytest.mark.usefixtures("quick")
def test_a_start_waits_for_the_first_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to serve before."""

    async def test() -> None:
        api = FakeApi()
        async with found(api, tmp_path, monkeypatch, **OF_SERVICE) as its:
            waiting = asyncio.create_task(its.wait())
            await until(lambda: len(api.watchers) == 1)
            await api.put(SLICES, endpoint_slice("vllm-a", endpoint("10.0.0.1", "a", ready=False)))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await api.put(SLICES, TWO)
            await waiting
            assert URLS == its.urls

    run(test())


def test_what_is_asked_of_the_server(follow: Follow) -> None:
    """Only the service's slices and the one pool, with bookmarks and an end."""

    async def test(api: FakeApi, its: Discovery) -> None:
        for path, query in api.requests:
            if path == SLICES:
                assert f"kubernetes.io/service-name={SERVICE}" == query["labelSelector"]
            if "watch" in query:
                assert "true" == query["allowWatchBookmarks"]
                assert 100 <= int(query["timeoutSeconds"]) <= 150

    follow(test)


def test_settings_that_contradict_each_other() -> None:
    """Ranks are named or found; where they are found stays."""
    with pytest.raises(ConfigError, match="leave one"):
        read_config(None, {"worker_urls": ["http://10.0.0.1:8000"], **OF_SERVICE})
    assert read_config(None, OF_POOL).is_discovered
    assert GRPC_PORT == _read(None, dict(OF_POOL)).grpc_port  # as `epp` reads them


@pytest.mark.usefixtures("quick")
def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a pod nor a kubeconfig: said at once, with the cure."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))

    async def test() -> None:
        with pytest.raises(ConfigError, match="name a kubeconfig in KUBECONFIG"):
            async with discovering(ServeConfig(kubernetes_service=SERVICE)):
                pass

    run(test())
