"""What `br_wave` is worth: saturated, at a given load, and with constants of real kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from bench.wave_runs import (
    H200_LIKE,
    PAPER,
    TRACE_NAMES,
    VLLM,
    WAVE,
    Cell,
    Constants,
    Figures,
    Row,
    median,
    row,
    saturated_cell,
)

# Constants, budget, and the traces for which the figures are told apart by it.
CELLS: tuple[tuple[str, Constants, int, tuple[str, ...]], ...] = (
    ("A", PAPER, 2048, TRACE_NAMES),
    ("B", H200_LIKE, 2048, TRACE_NAMES),
    ("A", PAPER, 8192, ("azure2023_code", "mooncake_conversation")),
)
DEFAULT_GATES = ("sglang", "trtllm", "vllm,prefill_schedule_interval=2")
GATES = (
    *DEFAULT_GATES,
    *(f"sglang,max_delay_passes={passes}" for passes in (4, 8, 16)),
    *(f"trtllm,batching_wait_iters=0,timeout_iters={steps}" for steps in (4, 8, 16)),
    "vllm,prefill_schedule_interval=96",
)
BUDGETS = (256, 512, 1024, 2048)
LOADS = (0.3, 0.5, 0.7, 0.95, 1.05)
STUDIED, STUDIED_LOAD = ("A", 2048), 0.85
NUM_AT_LOAD = 10_000
REAL_TIMES = TRACE_NAMES[:3]
# A gate or a budget must not pay for short times between tokens with the first one.
TTFT_GRACE_S = 0.5

# DeepSeek-V3 on H200, 16 ranks; docs/waves.md derives these from measured kernels.
REAL = {
    "one GPU per rank": Constants(
        step_time="0.0345,2.24e-8,1400",
        prefill_s_per_token=1.26e-4,
        prefill_shared=0.42,
        mixed_step_s=0.005,
    ),
    "eight GPUs per rank": Constants(
        step_time="0.0217,1.15e-8,810",
        prefill_s_per_token=4.7e-5,
        prefill_shared=0.37,
        mixed_step_s=0.006,
    ),
}
REAL_CELLS = ((2048, (*TRACE_NAMES[:2], *TRACE_NAMES[3:])), (8192, TRACE_NAMES[:1]))

Rule = tuple[str, dict[str, Any]]  # name, and what it changes of the group, under `vllm`


def measure_saturated() -> list[Row]:
    """Return `br_wave`, rules in use, gates and small budgets where requests never run out."""
    rows: list[Row] = []
    for name, constants, budget, traces in CELLS:
        for trace in traces:
            cell = saturated_cell(trace, constants, budget)
            rows += _saturated({"constants": name, "trace": trace, "budget": budget}, cell)
    return rows


def measure_load() -> list[Row]:
    """Return the times to and between tokens at some loads, of what `vllm` serves saturated."""
    rows: list[Row] = []
    for name, constants, budget, traces in CELLS:
        for trace in traces:
            what: dict[str, object] = {"constants": name, "trace": trace, "budget": budget}
            cell = replace(saturated_cell(trace, constants, budget), num_requests=NUM_AT_LOAD)
            capacity_per_s = cell.requests_per_s()
            if (name, budget) == STUDIED:
                rows += _over_loads(what, cell, capacity_per_s)
                rows += _at_studied_load(what, cell, capacity_per_s)
            else:
                at_load = cell.poisson(STUDIED_LOAD * capacity_per_s).but(num_seeds=1)
                what["load"] = STUDIED_LOAD
                rows += [*_pair(what, at_load), _bound(what, at_load)]
    return rows


def measure_real() -> list[Row]:
    """Return gain and loss with constants of measured kernels."""
    rows: list[Row] = []
    for name, constants in REAL.items():
        for budget, traces in REAL_CELLS:
            for trace in traces:
                what: dict[str, object] = {"constants": name, "trace": trace, "budget": budget}
                rows += _real(what, saturated_cell(trace, constants, budget))
    return rows


def _real(what: dict[str, object], cell: Cell) -> list[Row]:
    cell = replace(cell.but(num_seeds=1), num_requests=NUM_AT_LOAD)
    at_load = cell.poisson(STUDIED_LOAD * cell.requests_per_s())
    saturated, loaded = {**what, "load": "saturated"}, {**what, "load": STUDIED_LOAD}
    rows = _pair(saturated, cell) + _pair(loaded, at_load) + [_bound(loaded, at_load)]
    if cell.source == TRACE_NAMES[0]:
        latest_s = median(at_load.run(VLLM), "ttft_p99_s") + TTFT_GRACE_S
        rows += _rules(loaded, at_load, lambda figures: -_slowness(figures, latest_s))
    return rows


def _saturated(what: dict[str, object], cell: Cell) -> list[Row]:
    one = cell.but(num_seeds=1)
    rows = _pair(what, cell)
    rows.append(row({**what, "rule": "br_0"}, one.run("br_0")))
    for gate in DEFAULT_GATES:
        rows.append(row({**what, "rule": gate}, _of_rule(one, _gate(gate)[1])))
    return rows + _rules(what, cell, lambda figures: median(figures, "tokens_per_s"))


def _over_loads(what: dict[str, object], cell: Cell, capacity_per_s: float) -> list[Row]:
    rows: list[Row] = []
    for load in LOADS:
        at_load = cell.poisson(load * capacity_per_s).but(num_seeds=1)
        rows += _pair({**what, "load": load}, at_load)
    return rows


def _at_studied_load(what: dict[str, object], cell: Cell, capacity_per_s: float) -> list[Row]:
    at_load = cell.poisson(STUDIED_LOAD * capacity_per_s)
    one = at_load.but(num_seeds=1)
    what = {**what, "load": STUDIED_LOAD}
    latest_s = median(one.run(VLLM), "ttft_p99_s") + TTFT_GRACE_S
    rows = _pair(what, at_load)
    rows.append(_bound(what, at_load))
    rows += _rules(what, one, lambda figures: -_slowness(figures, latest_s))
    if cell.source in REAL_TIMES:
        timed = cell.as_in_trace(STUDIED_LOAD * capacity_per_s)
        rows += _pair({**what, "arrivals": "trace"}, timed)
        rows.append(_bound({**what, "arrivals": "trace"}, timed))
    return rows


def _pair(what: dict[str, object], cell: Cell) -> list[Row]:
    return [row({**what, "rule": policy}, cell.run(policy)) for policy in (VLLM, WAVE)]


def _rules(what: dict[str, object], cell: Cell, score: Callable[[Figures], float]) -> list[Row]:
    """Return the best gate and the best budget: chosen by seed 0, figures of all seeds."""
    rows: list[Row] = []
    for kind, rules in (("best gate", _gates()), ("best budget", _budgets(cell))):
        name, changes = _best(cell.but(num_seeds=1), rules, score)
        told = {**what, "rule": kind, "setting": name}
        rows.append(row(told, _of_rule(cell, changes)))
    return rows


def _bound(what: dict[str, object], cell: Cell) -> Row:
    """Return what would be if all ranks worked off every prompt together."""
    shared = cell.but(prefill_shared=1.0)
    return row({**what, "rule": "bound"}, shared.run("least_tokens"))


def _gate(gate: str) -> Rule:
    return gate, {"prefill_gate": gate}


def _gates() -> list[Rule]:
    return [_gate(gate) for gate in GATES]


def _budgets(cell: Cell) -> list[Rule]:
    most = cell.config.prefill_budget_tokens or 0
    return [(str(b), {"prefill_budget_tokens": b}) for b in BUDGETS if b < most]


def _of_rule(cell: Cell, changes: dict[str, Any]) -> Figures:
    return cell.but(**changes).run(VLLM)


def _best(cell: Cell, rules: Sequence[Rule], score: Callable[[Figures], float]) -> Rule:
    scores = [score(_of_rule(cell, changes)) for _name, changes in rules]
    return rules[scores.index(max(scores))]


def _slowness(figures: Figures, latest_s: float) -> float:
    """Return the time between tokens, with any first token later than allowed on top of it."""
    return median(figures, "tpot_mean_s") + max(0.0, median(figures, "ttft_p99_s") - latest_s)
