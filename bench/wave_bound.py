"""What waves win by what they could win at most, which is what `br_auto` goes by."""

from __future__ import annotations

import itertools
from dataclasses import replace

from bench.wave_runs import (
    H200_LIKE,
    PAPER,
    TRACE_NAMES,
    WAVE,
    Cell,
    Constants,
    Row,
    figures_of,
    median,
    row,
    saturated_cell,
)

LEVEL = "br_auto,waves=false"
CONSTANTS: dict[str, Constants] = {"A": PAPER, "B": H200_LIKE}
STUDIED = tuple(trace for trace in TRACE_NAMES if trace != "azure2023_code")
RANKS, SHARES = (2, 4, 8), (0.0, 0.5, 0.8, 0.93)
BUDGET, LOAD, WAITING_PER_RANK, REQUESTS_PER_RANK = 2048, 0.85, 16, 1_500
FIGURES = ("tokens_per_s", "tpot_mean_s", "ttft_p50_s", "ttft_p99_s")


def measure_bound() -> list[Row]:
    """Return waves over levelling at once, saturated and at a load, by the bound of what they win.

    The bound is the part of a step's time that other ranks wait for one's prompts, if no two ranks
    prefill at once: ``(G - 1) (1 - sigma) t_p`` times the prompt tokens per second of a rank.
    """
    return [
        line
        for trace, name, num_ranks, shared in itertools.product(STUDIED, CONSTANTS, RANKS, SHARES)
        for line in _lines(trace, name, num_ranks, shared)
    ]


def _lines(trace: str, constants: str, num_ranks: int, shared: float) -> list[Row]:
    cell = saturated_cell(trace, CONSTANTS[constants], BUDGET).but(
        num_seeds=1,
        num_ranks=num_ranks,
        pool_size=WAITING_PER_RANK * num_ranks,
        prefill_shared=shared,
    )
    cell = replace(cell, num_requests=REQUESTS_PER_RANK * num_ranks)
    what = {"constants": constants, "trace": trace, "ranks": num_ranks, "shared": shared}
    at_load = cell.poisson(LOAD * cell.requests_per_s())
    return [
        _line({**what, "load": "saturated"}, cell),
        _line({**what, "load": LOAD}, at_load),
    ]


def _line(what: dict[str, object], cell: Cell) -> Row:
    """Return the bound in a cell, and the figures of waves over those of levelling."""
    result = cell.result(WAVE)
    waves, level = figures_of(result), cell.run(LEVEL)
    ratios = {name: {"median": median(waves, name) / median(level, name)} for name in FIGURES}
    workload, config = result.workload, cell.config
    requests_per_s = median(waves, "tokens_per_s") / workload.output_tokens_mean
    own_s = (1.0 - config.prefill_shared) * config.prefill_s_per_token
    prefill_share = own_s * workload.prompt_tokens_mean * requests_per_s / config.num_ranks
    ratios["bound"] = {"median": prefill_share * (config.num_ranks - 1)}
    return row(what, ratios)
