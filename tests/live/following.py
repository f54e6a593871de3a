"""Tests with a discovery that looks at an API server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from balanceroute.live.config import ServeConfig
from balanceroute.live.kubernetes import discovery, reflector
from balanceroute.live.kubernetes.discovery import Discovery, discovering
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
from tests.live.fake_engine import run, until

OF_SERVICE, OF_POOL = {"kubernetes_service": SERVICE}, {"kubernetes_pool": POOL}
BOTH = OF_SERVICE | OF_POOL
TWO = endpoint_slice("vllm-a", ready("10.0.0.1", "vllm-0"), ready("10.0.0.2", "vllm-1"))
URLS = ("http://10.0.0.1:8000", "http://10.0.0.2:8000")

Test = Callable[[FakeApi, Discovery], Coroutine[Any, Any, None]]


@pytest.fixture
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
def follow(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
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
