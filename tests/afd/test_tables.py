from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from balanceroute.afd.tables import measured_profile
from balanceroute.errors import ConfigError, MissingExtraError


def test_lines_through_kernel_times(root: Path) -> None:
    """61 layers of them; small batches, short contexts and huge batches are left out."""
    found = measured_profile("deepseek-v3", "h200_sxm", root=root)
    assert found.attention.s_per_token == pytest.approx(61 * 1e-9, rel=1e-5)
    assert found.attention.s_per_request == pytest.approx(61 * 1e-6, rel=1e-5)
    assert found.ffn.s_per_request == pytest.approx(61 * 2e-7, rel=1e-5)
    assert found.ffn.num_devices == 8
    assert found.network.constant_s == pytest.approx(61 * 30e-6, rel=1e-5)
    assert found.network.s_per_request == pytest.approx(61 * 0.8e-6 / 8, rel=1e-5)
    assert found.attention.fit is not None
    assert found.attention.fit.num_points == 6
    # 90 % of 141 GiB less 15.1 GB of weights, at 61 * 576 bytes a token.
    assert found.attention.kv_tokens == 3_448_000


@pytest.mark.parametrize(
    ("model", "device", "message"),
    [
        ("deepseek-v4", "h200_sxm", "unknown model 'deepseek-v4'; did you mean 'deepseek-v3'"),
        ("deepseek-v3", "h300_sxm", "unknown device 'h300_sxm'"),
        ("deepseek-v3", "b200_sxm", "the tables have no .*b200_sxm"),
        ("qwen3-30b-a3b", "h200_sxm", "the tables have no .*generation_attention"),
    ],
)
def test_what_the_tables_lack(root: Path, model: str, device: str, message: str) -> None:
    """Names, devices and files are named."""
    with pytest.raises(ConfigError, match=message):
        measured_profile(model, device, root=root)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra to install is named."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"balanceroute\[tables\]"):
        measured_profile("deepseek-v3", "h200_sxm")
