"""Profiles from the measured kernel times of aiconfigurator-core; nothing else imports it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from balanceroute.afd.fit import Measurements, fit_attention, fit_ffn, fit_network
from balanceroute.afd.profile import DeviceProfile
from balanceroute.errors import ConfigError, MissingExtraError
from balanceroute.specs import unknown

VERSION = "aiconfigurator-core 0.12, vLLM 0.24.0"
# Sizes that lines are fitted to: what attention workers and FFN workers see in a bundle.
LEAST_BATCH, LEAST_CONTEXT = 8, 255
LEAST_TOKENS, MOST_TOKENS = 64, 16384
EXPERT_LOAD = "power_law_1.01"  # how unevenly tokens choose experts
MEMORY_USED_RATIO = 0.9
DEVICE_BYTES = {
    "h100_sxm": 85_899_345_920,
    "h200_sxm": 151_397_597_184,
    "b200_sxm": 193_273_528_320,
}
MLA = "mla/vllm/0.24.0/mla_generation_module_perf.parquet"
GQA = "attention/vllm/0.24.0/generation_attention_perf.parquet"
GEMM = "gemm/vllm/0.24.0/gemm_perf.parquet"
MOE = "moe/vllm/0.24.0/moe_perf.parquet"
DEEPEP = "comm/sglang/0.5.12/wideep_deepep_ll_perf.parquet"
DEEPEP_RANKS = 8
NCCL = "comm/nccl/2.29.2/nccl_perf.parquet"
NCCL_RANKS = 8
S_PER_MS, S_PER_US = 1e-3, 1e-6
Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What is looked up for a model.

    Attributes
    ----------
    layers, hidden, expert_width, experts, experts_per_token : int
        Of its architecture.
    moe_dtype : str
        Precision of the experts.
    weight_bytes, kv_bytes_per_token : int
        Of attention, embeddings and output layer; of one token's KV cache, all layers.
    ffn_devices : dict of str to int
        Devices that share the experts, by device: as few as hold them.
    """

    layers: int
    hidden: int
    expert_width: int
    experts: int
    experts_per_token: int
    moe_dtype: str
    weight_bytes: int
    kv_bytes_per_token: int
    ffn_devices: dict[str, int]


MODELS = {
    # 187 M attention weights a layer in fp8, embedding and head of 0.93 G each in bf16; latent KV
    # cache of 576 bytes a layer in fp8. 650 GB of experts do not fit on 8 H100.
    "deepseek-v3": Model(
        layers=61, hidden=7168, expert_width=2048, experts=256, experts_per_token=8,
        moe_dtype="fp8_block", weight_bytes=15_100_000_000, kv_bytes_per_token=61 * 576,
        ffn_devices={"h100_sxm": 16, "h200_sxm": 8, "b200_sxm": 8},
    ),
    # 18.9 M attention weights a layer, embedding and head of 0.31 G each, all bf16; 4 KV heads of
    # 128 in bf16. 57 GB of experts fit on one device.
    "qwen3-30b-a3b": Model(
        layers=48, hidden=2048, expert_width=768, experts=128, experts_per_token=8,
        moe_dtype="bfloat16", weight_bytes=3_100_000_000, kv_bytes_per_token=48 * 2 * 4 * 128 * 2,
        ffn_devices=dict.fromkeys(DEVICE_BYTES, 1),
    ),
}  # fmt: skip


def measured_profile(model: str, device: str, *, root: Path | None = None) -> DeviceProfile:
    """Fit a profile to measured kernel times.

    Parameters
    ----------
    model, device : str
        Keys of `MODELS` and `DEVICE_BYTES`.
    root : Path or None
        Folder with a folder per device; None: the one of the installed package.

    Raises
    ------
    ConfigError
        If the model or device is not known here, or the tables lack it.
    MissingExtraError
        If the package is not installed.
    """
    if model not in MODELS:
        raise ConfigError(unknown("model", model, MODELS))
    if device not in DEVICE_BYTES:
        raise ConfigError(unknown("device", device, DEVICE_BYTES))
    spec, folder = MODELS[model], (root or installed_tables()) / device
    ffn_devices = spec.ffn_devices[device]
    is_mla = model == "deepseek-v3"
    attention = mla(spec, folder) if is_mla else _gqa(spec, folder)
    network = deepep(spec, folder, ffn_devices) if is_mla else _all_to_all(spec, folder)
    free_bytes = MEMORY_USED_RATIO * DEVICE_BYTES[device] - spec.weight_bytes
    return DeviceProfile(
        model=model,
        device=device,
        attention=fit_attention(
            attention, kv_tokens=int(free_bytes / spec.kv_bytes_per_token / 1000) * 1000
        ),
        ffn=fit_ffn(experts(spec, folder, ffn_devices), num_devices=ffn_devices),
        network=fit_network(network),
        notes=_notes(is_mla, ffn_devices),
    )


def _notes(is_mla: bool, ffn_devices: int) -> tuple[str, ...]:
    notes = [
        "Kernel times without launch gaps; norms, router, shared experts and sampling left out."
    ]
    if is_mla:
        notes.append("The first three layers, which are dense, count as layers with experts.")
    if ffn_devices > DEEPEP_RANKS:
        notes.append(f"Network times were measured in one node of {DEEPEP_RANKS} devices.")
    return tuple(notes)


def mla(spec: Model, folder: Path) -> Measurements:
    """Return decode attention with latent KV and its projections, fp8."""
    table = read(folder / MLA, num_heads=128, kv_cache_dtype="fp8", gemm_type="fp8_block")
    table = where(table, (table["batch_size"] >= LEAST_BATCH) & (table["step"] >= LEAST_CONTEXT))
    return Measurements(
        requests=table["batch_size"],
        tokens=table["batch_size"] * table["step"],
        time_s=table["latency"] * S_PER_MS * spec.layers,
        source=f"{VERSION}: {MLA}, fp8 KV cache",
    )


def _gqa(spec: Model, folder: Path) -> Measurements:
    shape = {"num_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "window_size": 0}
    table = read(folder / GQA, **shape, kv_cache_dtype="bfloat16")
    table = where(table, (table["batch_size"] >= LEAST_BATCH) & (table["step"] >= LEAST_CONTEXT))
    layer_ms = table["latency"].copy()
    for width, depth in ((5120, spec.hidden), (spec.hidden, 4096)):  # QKV and output projections
        products = read(folder / GEMM, gemm_dtype="bfloat16", n=width, k=depth)
        layer_ms += _interpolated(products, "m", table["batch_size"])
    return Measurements(
        requests=table["batch_size"],
        tokens=table["batch_size"] * (table["step"] + 1),
        time_s=layer_ms * S_PER_MS * spec.layers,
        source=f"{VERSION}: {GQA} and {GEMM}, bf16",
    )


def experts(spec: Model, folder: Path, num_devices: int) -> Measurements:
    """Return the routed experts of so many devices together, by the tokens of all of them."""
    table = read(
        folder / MOE, hidden_size=spec.hidden, inter_size=spec.expert_width,
        num_experts=spec.experts, topk=spec.experts_per_token, moe_tp_size=1,
        moe_ep_size=num_devices, moe_dtype=spec.moe_dtype, distribution=EXPERT_LOAD,
    )  # fmt: skip
    tokens = table["num_tokens"]
    table = where(table, (tokens >= LEAST_TOKENS) & (tokens <= MOST_TOKENS))
    return Measurements(
        requests=table["num_tokens"],
        tokens=np.zeros(len(table["num_tokens"])),
        time_s=table["latency"] * S_PER_MS * spec.layers,
        source=f"{VERSION}: {MOE}, {spec.moe_dtype}, EP {num_devices}, {EXPERT_LOAD}",
    )


def deepep(spec: Model, folder: Path, num_devices: int) -> Measurements:
    """Dispatch and combine; each FFN device gets its share of all requests' copies."""
    table = read(
        folder / DEEPEP, hidden_size=spec.hidden, num_experts=spec.experts,
        num_topk=spec.experts_per_token, node_num=1,
    )  # fmt: skip
    requests = table["num_token"] * num_devices
    return Measurements(
        requests=requests,
        tokens=np.zeros(len(requests)),
        time_s=(table["dispatch_avg_t_us"] + table["combine_avg_t_us"]) * S_PER_US * spec.layers,
        source=f"{VERSION.partition(',')[0]}: {DEEPEP}",
    )


def _all_to_all(spec: Model, folder: Path) -> Measurements:
    """Bf16 activations to one FFN device and back; a rank of an all-to-all keeps its own share."""
    table = read(folder / NCCL, op_name="alltoall", nccl_dtype="int8", num_gpus=NCCL_RANKS)
    request_bytes = 2 * spec.hidden
    requests = table["message_size"] * (NCCL_RANKS - 1) / NCCL_RANKS / request_bytes
    table = where(table, (requests >= LEAST_TOKENS) & (requests <= MOST_TOKENS))
    requests = table["message_size"] * (NCCL_RANKS - 1) / NCCL_RANKS / request_bytes
    return Measurements(
        requests=requests,
        tokens=np.zeros(len(requests)),
        time_s=2 * table["latency"] * S_PER_MS * spec.layers,
        source=f"{VERSION.partition(',')[0]}: {NCCL}, alltoall",
    )


def read(path: Path, **filters: str | int) -> dict[str, Column]:
    """Return the numeric columns of the rows that have these values."""
    from pyarrow import parquet

    if not path.is_file():
        raise ConfigError(f"the tables have no {path}; install aiconfigurator-core 0.12")
    terms = [(name, "=", value) for name, value in filters.items()]
    table = parquet.read_table(path, filters=terms)
    if table.num_rows == 0:
        raise ConfigError(f"{path} has no rows with {filters}")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return {
        name: values.astype(np.float64)
        for name, values in columns.items()
        if values.dtype.kind in "iuf"
    }


def where(table: dict[str, Column], is_kept: NDArray[np.bool_]) -> dict[str, Column]:
    """Return some rows of a table."""
    return {name: values[is_kept] for name, values in table.items()}


def _interpolated(table: dict[str, Column], name: str, at: Column) -> Column:
    order = np.argsort(table[name], kind="stable")
    return np.interp(at, table[name][order], table["latency"][order])


def installed_tables() -> Path:
    """Return the folder of the installed tables, with a folder per device."""
    found = importlib.util.find_spec("aiconfigurator_core")
    if found is None or found.origin is None:
        raise MissingExtraError(
            "measured kernel times need aiconfigurator-core; install it with: "
            "pip install 'balanceroute[tables]'"
        )
    return Path(found.origin).parent / "systems" / "data"
