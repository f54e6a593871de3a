from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from balanceroute.afd import tables
from balanceroute.afd.tables import measured_profile
from balanceroute.errors import ConfigError, MissingExtraError

BATCHES, STEPS = (4, 8, 32, 128), (16, 512, 4096)


def write(root: Path, name: str, columns: dict[str, Any]) -> None:
    """Write a table of the H200."""
    path = root / "h200_sxm" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    length = max(len(values) for values in columns.values() if isinstance(values, np.ndarray))
    full = {
        key: values if isinstance(values, np.ndarray) else [values] * length
        for key, values in columns.items()
    }
    parquet.write_table(pa.table(full), path)


def grid() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return batch sizes and context lengths, each with each."""
    batch, step = np.meshgrid(BATCHES, STEPS)
    return batch.ravel(), step.ravel()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return tables whose times lie on lines, beside rows that are not to be read."""
    batch, step = grid()
    tokens = np.array([16, 64, 512, 4096, 16384, 32768])
    mla = {"num_heads": 128, "kv_cache_dtype": "fp8", "gemm_type": "fp8_block"}
    write(
        tmp_path, tables.MLA,
        {**mla, "batch_size": batch, "step": step,
         "latency": 0.1 + 1e-3 * batch + 1e-6 * batch * step},
    )  # fmt: skip
    write(
        tmp_path, tables.MOE,
        {"hidden_size": 7168, "inter_size": 2048, "num_experts": 256, "topk": 8,
         "moe_tp_size": 1, "moe_ep_size": 8, "moe_dtype": "fp8_block",
         "distribution": tables.EXPERT_LOAD, "num_tokens": tokens,
         "latency": np.where(tokens > 20_000, 1e9, 0.3 + 2e-4 * tokens)},
    )  # fmt: skip
    per_rank = np.array([8, 64, 512])
    write(
        tmp_path, tables.DEEPEP,
        {"hidden_size": 7168, "num_experts": 256, "num_topk": 8, "node_num": 1,
         "num_token": per_rank, "dispatch_avg_t_us": 10 + 0.2 * per_rank,
         "combine_avg_t_us": 20 + 0.6 * per_rank},
    )  # fmt: skip
    return tmp_path


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
