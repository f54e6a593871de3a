"""Step times from kernel tables whose lines are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balanceroute.afd import step_times, tables
from balanceroute.afd.step_times import step_time_of_tables
from balanceroute.errors import ConfigError
from tests.afd.kernel_tables import grid, write

LENGTHS = np.array([16, 256, 1024, 2048, 8192])


def test_a_model_with_experts(root: Path) -> None:
    """61 layers of attention and all-to-all by request, of experts at 64 requests on 8 ranks."""
    mla = {"num_heads": 128, "kv_cache_dtype": "fp8", "gemm_type": "fp8_block", "batch_size": 1}
    write(root, step_times.MLA_CONTEXT, {**mla, "isl": LENGTHS, "latency": 0.2 + 1e-3 * LENGTHS})
    exchange: dict[str, Any] = {
        "hidden_size": 7168, "num_experts": 256, "topk": 8, "comm_backend": "deepep_ht",
        "ep_size": 8, "phase": np.repeat(["dispatch", "combine"], len(LENGTHS)),
    }  # fmt: skip
    both = np.tile(LENGTHS, 2)
    write(root, step_times.ALL_TO_ALL, {**exchange, "num_tokens": both, "latency": 50 + 0.1 * both})
    found = step_time_of_tables("deepseek-v3.h200_sxm", root=root)
    experts_s = 0.3e-3 + 2e-7 * 64 * 8
    assert found.constant_s == pytest.approx(61 * (0.1e-3 + 30e-6 + experts_s), rel=1e-6)
    assert found.s_per_token == pytest.approx(61 * 1e-9, rel=1e-6)
    assert found.kappa0_tokens == pytest.approx((1e-6 + 0.8e-6) / 1e-9, rel=1e-6)
    assert found.prefill_s_per_token == pytest.approx(61 * (1e-6 + 0.2e-6 + 2e-7), rel=1e-6)
    assert found.largest_error_ratio < 1e-9
    assert 6 == found.num_samples


def test_a_dense_model(root: Path) -> None:
    """Products that were not measured lie on the line through their neighbours."""
    batch, step = grid()
    heads = step_times.LLAMA_HEADS | {"kv_cache_dtype": "bfloat16"}
    attention = 0.01 + 1e-4 * batch + 1e-5 * batch * (step + 1)
    write(root, tables.GQA, {**heads, "batch_size": batch, "step": step, "latency": attention})
    write(
        root, step_times.GQA_CONTEXT,
        {**heads, "batch_size": 1, "isl": LENGTHS, "latency": 0.01 + 2e-5 * LENGTHS},
    )  # fmt: skip
    m, n, k = (
        axis.ravel()
        for axis in np.meshgrid([1, 128, 4096], [1024, 4096, 16384, 65536], [4096, 12288, 16384])
    )
    product_ms = 1e-9 * n * k + 1e-12 * m * n * k
    write(
        root, tables.GEMM, {"gemm_dtype": "bfloat16", "m": m, "n": n, "k": k, "latency": product_ms}
    )
    found = step_time_of_tables("llama-3-8b.h200_sxm", root=root)
    weights = 32 * (6144 + 4096 + 28672 + 14336) * 4096
    with_head = weights + 128_256 * 4096
    assert found.constant_s == pytest.approx(32 * 0.01e-3 + 1e-12 * with_head, rel=1e-6)
    assert found.s_per_token == pytest.approx(32 * 1e-8, rel=1e-6)
    per_request_s = 32 * 1e-7 + 1e-15 * with_head
    assert found.kappa0_tokens == pytest.approx(per_request_s / (32 * 1e-8), rel=1e-6)
    assert found.prefill_s_per_token == pytest.approx(32 * 2e-8 + 1e-15 * weights, rel=1e-6)


def test_what_the_tables_lack(root: Path) -> None:
    """The file is named."""
    with pytest.raises(ConfigError, match=r"the tables have no .*mla_context_module_perf"):
        step_time_of_tables("deepseek-v3.h200_sxm", root=root)
