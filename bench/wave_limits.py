"""Where `br_wave` does nothing, where it harms, and how little it must know."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balanceroute.workload import load
from bench.machine import TRACES
from bench.wave_runs import (
    NUM_SLOTS,
    PAPER,
    TRACE_NAMES,
    VLLM,
    WAVE,
    Cell,
    Row,
    row,
    saturated_cell,
)

BUDGET = 2048
LOAD = 0.85
STUDIED = TRACE_NAMES[:2]
NUM_REQUESTS = 6_000
# What is changed of the group; what `vllm` serves then is the measure of the load.
GROUPS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((f"budget {b}", {"prefill_budget_tokens": b}) for b in (512, 1024, 4096, 8192, 16384)),
    *((f"shared {s:g}", {"prefill_shared": s}) for s in (0.25, 0.5, 0.75, 1.0)),
    *((f"mixed step {m:g} s", {"mixed_step_s": m}) for m in (0.002, 0.005)),
    *((f"stale {s:g} s", {"staleness_s": s}) for s in (0.02, 0.1)),
    ("no barrier", {"has_barrier": False}),
)
# Ranks, waiting requests and requests simulated: as many of each per rank, but for the first.
RANKS = ((1, 16, 4_000), (2, 32, 4_000), (4, 64, 4_000), (64, 1_024, 24_000))
PAPER_COSTS = (9.775e-3, 1.005e-7, 0.0, 2e-5)  # C, t_l, kappa0, t_p of `PAPER`
COSTS = (
    ("prefill taken for 3 times as slow", (1.0, 1.0, 1.0, 3.0)),
    ("prefill taken for 3 times as fast", (1.0, 1.0, 1.0, 1.0 / 3.0)),
    ("decoding taken for 3 times as slow", (3.0, 3.0, 1.0, 1.0)),
    ("decoding taken for 3 times as fast", (1.0 / 3.0, 1.0 / 3.0, 1.0, 1.0)),
)
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SYNTHETIC_LOADS = (0.3, LOAD)
KV_HEADROOM = 1.2  # of the mean load


def measure_limits() -> list[Row]:
    """Return `br_wave` beside `vllm` in groups, on lengths and with costs unlike the usual."""
    rows: list[Row] = []
    for trace in STUDIED:
        cell = replace(saturated_cell(trace, PAPER, BUDGET), num_seeds=1, num_requests=NUM_REQUESTS)
        rows += _pairs({"trace": trace, "what": "as it is"}, cell)
        rows += _kv_cap(trace, cell)
        rows += _settings(trace, cell)
        if trace == STUDIED[0]:
            rows += _groups(trace, cell)
    return rows + _synthetic()


def _groups(trace: str, cell: Cell) -> list[Row]:
    rows: list[Row] = []
    for name, changes in GROUPS:
        rows += _pairs({"trace": trace, "what": name}, cell.but(**changes))
    for num_ranks, pool_size, num_requests in RANKS:
        other = cell.but(num_ranks=num_ranks, pool_size=pool_size)
        other = replace(other, num_requests=num_requests)
        rows += _pairs({"trace": trace, "what": f"{num_ranks} ranks"}, other)
    return rows


def _pairs(what: dict[str, object], cell: Cell, loads: tuple[float, ...] = (LOAD,)) -> list[Row]:
    """Return both policies saturated, and at loads of what `vllm` serves."""
    rows = [
        row({**what, "load": "saturated", "rule": rule}, cell.run(rule)) for rule in (VLLM, WAVE)
    ]
    per_s = cell.requests_per_s()
    for at in loads:
        at_load = cell.poisson(at * per_s)
        rows += [row({**what, "load": at, "rule": r}, at_load.run(r)) for r in (VLLM, WAVE)]
    return rows


def _settings(trace: str, cell: Cell) -> list[Row]:
    """Return `br_wave` with costs that are wrong or learned, and with other strengths."""
    at_load = cell.poisson(LOAD * cell.requests_per_s())
    rules = [(name, f"{WAVE},costs={_costs(factors)}") for name, factors in COSTS]
    rules.append(("costs learned", f"{WAVE},costs=learned"))
    rows = [
        row({"trace": trace, "what": name, "load": told, "rule": rule}, where.run(rule))
        for name, rule in rules
        for told, where in (("saturated", cell), (LOAD, at_load))
    ]
    for strength in STRENGTHS:
        rule = f"{WAVE},strength={strength:g}"
        what: dict[str, object] = {"trace": trace, "what": f"strength {strength:g}", "load": LOAD}
        rows.append(row({**what, "rule": rule}, at_load.run(rule)))
    return rows


def _costs(factors: tuple[float, ...]) -> str:
    figures = [figure * factor for figure, factor in zip(PAPER_COSTS, factors, strict=True)]
    return ":".join(f"{figure:g}" for figure in [*figures, BUDGET])


def _kv_cap(trace: str, cell: Cell) -> list[Row]:
    kv_tokens = int(KV_HEADROOM * _mean_load_tokens(trace))
    return _pairs({"trace": trace, "what": "KV tokens short"}, cell.but(kv_tokens=kv_tokens))


def _mean_load_tokens(trace: str) -> float:
    """Return what a full rank holds in the long run: ``B (E[DP] + E[D(D-1)]/2) / E[D]``."""
    workload = load(str(TRACES / f"{trace}.csv.gz"))
    prompts = workload.prompt_tokens[:NUM_REQUESTS].astype(np.float64)
    outputs = workload.output_tokens[:NUM_REQUESTS].astype(np.float64)
    per_request = np.mean(outputs * prompts + outputs * (outputs - 1.0) / 2.0) / np.mean(outputs)
    return float(NUM_SLOTS * per_request)


def _synthetic() -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, prompts, outputs in _lengths():
            path = Path(folder) / f"{name.replace(' ', '_')}.csv"
            _write(path, prompts, outputs)
            cell = saturated_cell(str(path), PAPER, BUDGET)
            cell = replace(cell, num_seeds=1, num_requests=len(prompts))
            rows += _pairs({"trace": name, "what": "synthetic"}, cell, SYNTHETIC_LOADS)
    return rows


def _lengths() -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield names, prompt tokens and output tokens."""
    rng = np.random.default_rng(0)
    size = NUM_REQUESTS
    outputs = rng.geometric(1.0 / 200.0, size)
    yield "uniform", np.full(size, 1_000), np.full(size, 200)
    yield "tiny prompts", rng.integers(1, 33, size), outputs
    yield "giant prompts", rng.integers(30_000, 60_001, size), outputs


def _write(path: Path, prompts: NDArray[np.int64], outputs: NDArray[np.int64]) -> None:
    lines = [f"{prompt},{output}" for prompt, output in zip(prompts, outputs, strict=True)]
    path.write_text("\n".join(["prompt_tokens,output_tokens", *lines]) + "\n")
