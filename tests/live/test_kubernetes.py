"""Endpoints that are found in Kubernetes: what is listed and watched, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from balanceroute.cli.epp import GRPC_PORT, _read
from balanceroute.errors import ConfigError
from balanceroute.live.config import ServeConfig, read_config
from balanceroute.live.kubernetes import discovery, reflector
from balanceroute.live.kubernetes.discovery import Discovery, discovering
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
    serving,
    write_kubeconfig,
)
from tests.live.fake_engine import run, until

pytest.importorskip("kubernetes.aio", reason="Kubernetes' client is not installed")
OF_SERVICE, OF_POOL = {"kubernetes_service": SERVICE}, {"kubernetes_pool": POOL}
BOTH = OF_SERVICE | OF_POOL
TWO = endpoint_slice("vllm-a", ready("10.0.0.1", "vllm-0"), ready("10.0.0.2", "vllm-1"))
URLS = ("http://10.0.0.1:8000", "http://10.0.0.2:8000")

Test = Callable[[FakeApi, Discovery], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "SETTLE_S", 0.01)
    monkeypatch.setattr(reflector, "SHORT_WATCH_S", 0.05)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@contextlib.asynccontextmanager
async def found(
    api: FakeApi, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: str
) -> AsyncIterator[Discovery]:
    async with serving(api):
        write_kubeconfig(folder / "kubeconfig", api)
        monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        async with discovering(ServeConfig(**settings), backoff_s=0.02) as its:  # type: ignore[arg-type]
            yield its


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what runs a test with an API server and a discovery that looks at it."""

    def follow(test: Test, **settings: str) -> None:
        async def whole() -> None:
            api = FakeApi()
            await api.put(SLICES, TWO)
            await api.put(POOLS, pool(8200, 8201))
            async with found(api, tmp_path, monkeypatch, **(settings or OF_SERVICE)) as its:
                await its.wait()
                await until(lambda: len(api.watchers) == len(its.reflectors))
                await test(api, its)

        run(whole())

    return follow


Follow = Callable[..., None]


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


def test_lists_are_read_page_by_page(follow: Follow) -> None:
    """As large ones are given."""

    async def test(api: FakeApi, its: Discovery) -> None:
        api.page = 1
        for number in (3, 4):
            name = f"vllm-{number}"
            await api.put(SLICES, endpoint_slice(name, ready(f"10.0.0.{number}", name)))
        api.oldest = api.version + 1
        api.cut()
        await until(lambda: api.num_lists == 1 + 3)
        await until(lambda: len(its.urls) == 4)

    follow(test)


def test_a_watch_goes_on_where_it_was(follow: Follow) -> None:
    """Whether the server has ended it or the connection broke; nothing is listed anew."""

    async def test(api: FakeApi, its: Discovery) -> None:
        for break_off in (api.end_watches, api.cut):
            await api.bookmark(SLICES)
            await asyncio.sleep(0.1)  # a watch that has lasted
            since = api.version
            api.oldest = since  # what was before the bookmark is forgotten
            await broken_off(api, break_off)
            await api.put(SLICES, endpoint_slice("vllm-b", ready("10.0.0.3", "vllm-2")))
            await until(lambda: len(its.urls) == 3)
            assert str(since) == api.requests[-1][1]["resourceVersion"]
            await api.delete(SLICES, "vllm-b")
            await until(lambda: len(its.urls) == 2)
        assert 1 == api.num_lists

    follow(test)


async def broken_off(api: FakeApi, break_off: Callable[[], None]) -> None:
    num_watches = api.num_watches
    break_off()
    await until(lambda: api.num_watches == num_watches + 1)


@pytest.mark.parametrize("is_event", [True, False])
def test_what_is_too_old_is_listed_anew(follow: Follow, is_event: bool) -> None:
    """Whether the server says so in the watch or instead of it; what has gone meanwhile goes."""

    async def test(api: FakeApi, its: Discovery) -> None:
        await api.put(SLICES, endpoint_slice("vllm-b", ready("10.0.0.3", "vllm-2")))
        await until(lambda: len(its.urls) == 3)
        seen: list[tuple[str, ...]] = []
        its.follow(lambda: seen.append(its.urls))
        seen.clear()
        del api.objects[SLICES]["vllm-b"]
        api.objects[SLICES]["vllm-a"] = endpoint_slice("vllm-a", ready("10.0.0.2", "vllm-1"))
        api.version += 1000
        if is_event:
            api.oldest = api.version
        else:
            api.refusals.append(410)
        api.cut()
        await until(lambda: its.urls == URLS[1:])
        assert 2 == api.num_lists
        assert [URLS[1:]] == seen  # and nobody was told of less in between

    follow(test)


def test_while_the_server_is_away_all_stays(
    follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked again, later each time; then things go on."""

    async def test(api: FakeApi, its: Discovery) -> None:
        api.refusals += [503, 500, 403, 429]
        api.cut()
        await until(lambda: not api.refusals)
        assert URLS == its.urls
        await until(lambda: len(api.watchers) == 1)
        assert "HTTP 403: no; does the service account have the role" in caplog.text
        await api.put(SLICES, endpoint_slice("vllm-a", ready("10.0.0.2", "vllm-1")))
        await until(lambda: its.urls == URLS[1:])
        assert "answers again" in caplog.text
        assert 1 == api.num_lists

    follow(test)


def test_events_that_are_none_are_survived(follow: Follow) -> None:
    """The watch is begun again; what was known stays."""

    async def test(api: FakeApi, its: Discovery) -> None:
        await api.say(SLICES, {"type": "SOMETHING", "object": {"metadata": {}}})
        await until(lambda: api.num_watches == 2)
        await api.say(SLICES, {"kind": "Status"})
        await until(lambda: api.num_watches == 3)
        assert URLS == its.urls

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


def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a pod nor a kubeconfig: said at once, with the cure."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))

    async def test() -> None:
        with pytest.raises(ConfigError, match="name a kubeconfig in KUBECONFIG"):
            async with discovering(ServeConfig(kubernetes_service=SERVICE)):
                pass

    run(test())
