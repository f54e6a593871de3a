"""What a step of co-located ranks takes, from the kernel times that `tables` reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from balanceroute.afd import tables
from balanceroute.afd.tables import S_PER_MS, S_PER_US, Column
from balanceroute.calibrate.fit import PrefillLaw, fit_slope, fit_step_law
from balanceroute.cluster.step_time_file import StepTimeFile
from balanceroute.errors import ConfigError
from balanceroute.specs import unknown

MLA_CONTEXT = "mla/vllm/0.24.0/mla_context_module_perf.parquet"
GQA_CONTEXT = "attention/vllm/0.24.0/context_attention_perf.parquet"
ALL_TO_ALL = "comm/vllm/0.24.0/moe_a2a_perf.parquet"
ALL_TO_ALL_RANKS = 8
# A prompt token's cost is the slope between these chunks: below, kernels wait for weights; above,
# attention to the prompt itself is what grows.
LEAST_CHUNK, MOST_CHUNK = 256, 2048
MOST_DECODED = 1024  # requests of a rank; the all-to-all was measured up to there
NOMINAL_REQUESTS = 64  # of each rank, for which experts' time is counted

LLAMA_LAYERS, LLAMA_HIDDEN = 32, 4096
LLAMA_HEADS = {"num_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "window_size": 0}
LLAMA_QKV, LLAMA_FFN, LLAMA_VOCABULARY = 6144, 14336, 128_256


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTimes:
    """Decode steps of one rank, and prompts of one rank while nothing else runs.

    Attributes
    ----------
    requests, tokens, step_s : float64 array, shape (K,)
        Requests and resident tokens of each rank, and what a step of them takes.
    chunk_tokens, chunk_s : float64 array, shape (P,)
        Prompt tokens, and what it takes to compute them.
    setup : str
        What the times are of.
    """

    requests: Column
    tokens: Column
    step_s: Column
    chunk_tokens: Column
    chunk_s: Column
    setup: str


def step_time_of_tables(name: str, *, root: Path | None = None) -> StepTimeFile:
    """Fit ``C + t_l * (kappa0 * n + L)`` to measured kernel times of a model on a GPU.

    kappa0 is what a request costs its own rank. Experts work for all ranks together, so that their
    time is the same whichever rank a request is on; it is part of C, at `NOMINAL_REQUESTS` on each
    rank. Launch gaps, norms, router, shared experts and sampling are left out, so real steps are
    longer.

    Parameters
    ----------
    name : str
        ``MODEL.DEVICE``, as ``deepseek-v3.h200_sxm``.
    root : Path or None
        As for `balanceroute.afd.tables.measured_profile`, which says what is raised.
    """
    model, _, device = name.rpartition(".")
    if model not in STEP_MODELS:
        raise ConfigError(unknown("model", model or name, STEP_MODELS))
    if device not in tables.DEVICE_BYTES:
        raise ConfigError(unknown("device", device, tables.DEVICE_BYTES))
    times = STEP_MODELS[model]((root or tables.installed_tables()) / device, device)
    law = fit_step_law(times.requests, times.tokens, times.step_s)
    return law.in_file(
        source=f"{model} on {device}, {times.setup}; {tables.VERSION}, kernels only",
        prefills=PrefillLaw(s_per_token=fit_slope(times.chunk_tokens, times.chunk_s)),
    )


def deepseek_v3(folder: Path, device: str) -> KernelTimes:
    """Return attention, experts and all-to-all of ranks of one device, their experts shared."""
    spec = tables.MODELS["deepseek-v3"]
    num_ranks = spec.ffn_devices[device]
    attention = tables.mla(spec, folder)
    experts = tables.experts(spec, folder, num_ranks)
    network = tables.deepep(spec, folder, num_ranks)
    is_kept = attention.requests <= MOST_DECODED
    step_s = (
        attention.time_s
        + _at(network.requests, network.time_s, attention.requests * num_ranks)
        + _at(experts.requests, experts.time_s, np.array([NOMINAL_REQUESTS * num_ranks]))
    )
    prompts = tables.read(
        folder / MLA_CONTEXT,
        batch_size=1, num_heads=128, kv_cache_dtype="fp8", gemm_type="fp8_block",
    )  # fmt: skip
    chunks = _chunks(prompts["isl"])
    layer_s = _at(prompts["isl"], prompts["latency"] * S_PER_MS, chunks) + sum(
        _at(table["num_tokens"], table["latency"] * S_PER_US, chunks)
        for table in (_exchange(folder, phase) for phase in ("dispatch", "combine"))
    )
    return KernelTimes(
        requests=attention.requests[is_kept],
        tokens=attention.tokens[is_kept],
        step_s=step_s[is_kept],
        chunk_tokens=chunks,
        chunk_s=spec.layers * layer_s + _at(experts.requests, experts.time_s, chunks),
        setup=f"{num_ranks} ranks of one GPU, fp8, experts at {NOMINAL_REQUESTS} requests a rank",
    )


def _exchange(folder: Path, phase: str) -> dict[str, Column]:
    spec = tables.MODELS["deepseek-v3"]
    return tables.read(
        folder / ALL_TO_ALL, hidden_size=spec.hidden, num_experts=spec.experts,
        topk=spec.experts_per_token, comm_backend="deepep_ht", ep_size=ALL_TO_ALL_RANKS,
        phase=phase,
    )  # fmt: skip


def llama_3_8b(folder: Path, _device: str) -> KernelTimes:
    """Return attention and products of a dense rank of one device, bf16."""
    table = tables.read(folder / tables.GQA, **LLAMA_HEADS, kv_cache_dtype="bfloat16")
    table = tables.where(
        table,
        (table["batch_size"] >= tables.LEAST_BATCH)
        & (table["batch_size"] <= MOST_DECODED)
        & (table["step"] >= tables.LEAST_CONTEXT),
    )
    requests = table["batch_size"]
    prompts = tables.read(
        folder / GQA_CONTEXT, **LLAMA_HEADS, batch_size=1, kv_cache_dtype="bfloat16"
    )
    chunks = _chunks(prompts["isl"])
    attention_ms = _at(prompts["isl"], prompts["latency"], chunks)
    head_ms = _product_ms(folder, requests, width=LLAMA_VOCABULARY, depth=LLAMA_HIDDEN)
    layer_ms = table["latency"] + _layer_products_ms(folder, requests)
    prompt_ms = attention_ms + _layer_products_ms(folder, chunks)
    return KernelTimes(
        requests=requests,
        tokens=requests * (table["step"] + 1),
        step_s=(LLAMA_LAYERS * layer_ms + head_ms) * S_PER_MS,
        chunk_tokens=chunks,
        chunk_s=LLAMA_LAYERS * prompt_ms * S_PER_MS,
        setup="ranks of one GPU, bf16",
    )


def _layer_products_ms(folder: Path, rows: Column) -> Column:
    shapes = (
        (LLAMA_QKV, LLAMA_HIDDEN),
        (LLAMA_HIDDEN, LLAMA_HIDDEN),
        (2 * LLAMA_FFN, LLAMA_HIDDEN),
        (LLAMA_HIDDEN, LLAMA_FFN),
    )
    total_ms = np.zeros(len(rows))
    for width, depth in shapes:
        total_ms += _product_ms(folder, rows, width=width, depth=depth)
    return total_ms


def _product_ms(folder: Path, rows: Column, *, width: int, depth: int) -> Column:
    """Return the time of a product, by a line through the nearest sizes if it was not measured."""
    name, size, other = ("n", width, depth) if depth == LLAMA_HIDDEN else ("k", depth, width)
    table = tables.read(
        folder / tables.GEMM, gemm_dtype="bfloat16", **{"k" if name == "n" else "n": other}
    )
    sizes = np.unique(table[name])
    last = min(max(1, int(np.searchsorted(sizes, size))), len(sizes) - 1)
    low, high = float(sizes[last - 1]), float(sizes[last])
    at_low, at_high = (
        _at(part["m"], part["latency"], rows)
        for part in (tables.where(table, table[name] == end) for end in (low, high))
    )
    product_ms: Column = at_low + (at_high - at_low) * (size - low) / (high - low)
    return product_ms


def _chunks(lengths: Column) -> Column:
    found: Column = np.unique(lengths)
    return found[(found >= LEAST_CHUNK) & (found <= MOST_CHUNK)]


def _at(sizes: Column, times: Column, wanted: Column) -> Column:
    """Return times between measured sizes; the mean of those that were measured more than once."""
    known, place = np.unique(sizes, return_inverse=True)
    mean = np.bincount(place, times) / np.bincount(place)
    return np.interp(wanted, known, mean)


#: What is known here, by name.
STEP_MODELS: dict[str, Callable[[Path, str], KernelTimes]] = {
    "deepseek-v3": deepseek_v3,
    "llama-3-8b": llama_3_8b,
}
