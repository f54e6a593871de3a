"""Settings that are followed, and a picker that cannot be started."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from balanceroute.errors import ConfigError
from balanceroute.live import settings_file
from balanceroute.live.addresses import rank_addresses
from balanceroute.live.picker.endpoints import check_endpoints, endpoint_of
from balanceroute.live.reading import read_config
from tests.live.fake_engine import run, until


def test_a_file_that_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new file counts once, also behind a link that is turned; one that is away does not."""
    monkeypatch.setattr(settings_file, "LOOK_S", 0.01)
    first, second, link = tmp_path / "1", tmp_path / "2", tmp_path / "settings.yaml"
    first.write_text("a: 1\n")
    second.write_text("a: 2\n")
    link.symlink_to(first)
    seen: list[str] = []

    async def test() -> None:
        task = asyncio.create_task(
            settings_file.follow(link, lambda: seen.append(link.read_text()))
        )
        await asyncio.sleep(0.05)
        assert [] == seen
        link.unlink()
        await asyncio.sleep(0.05)
        turned = tmp_path / "turned"
        turned.symlink_to(second)
        os.replace(turned, link)  # noqa: PTH105  # as Kubernetes does it
        await until(lambda: seen == ["a: 2\n"])
        second.write_text("a: 33\n")
        await until(lambda: seen == ["a: 2\n", "a: 33\n"])
        await asyncio.sleep(0.05)
        assert 2 == len(seen)
        task.cancel()

    run(test())


def test_addresses_that_envoy_cannot_be_told() -> None:
    """A name is refused with the URL, before anything is served."""
    check_endpoints(rank_addresses(["http://10.0.0.1:8000@1"]))
    with pytest.raises(ConfigError, match=r"'http://vllm-0:8000'.*must be an IP address"):
        endpoint_of("http://vllm-0:8000")


def test_a_grpc_port_for_nothing() -> None:
    """`serve` has nothing to say over gRPC but decisions."""
    settings = {"worker_urls": ["http://10.0.0.1:8000"], "grpc_port": 0}
    assert 0 == read_config(None, settings, is_picker=True).grpc_port
    with pytest.raises(ConfigError, match="--decisions"):
        read_config(None, settings)
    settings = {"worker_urls": ["http://10.0.0.1:8000"], "grpc_socket": "/run/picker.sock"}
    assert "/run/picker.sock" == read_config(None, settings, is_picker=True).grpc_socket
    with pytest.raises(ConfigError, match="--grpc-port"):
        read_config(None, settings)
