from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from balanceroute.afd import tables
from tests.afd.kernel_tables import grid, write


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
