"""What is measured: each function returns a document of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from balanceroute.report.experiment import Experiment
from balanceroute.sim.config import Arrivals, SimConfig, StepTime
from balanceroute.study.gap import gap_rows, measure_gaps
from balanceroute.types import Workload
from balanceroute.workload import load
from bench.machine import TRACES
from bench.reproduce.authors import BR_H, UNBOUND, Authors
from bench.reproduce.kept import kept
from bench.reproduce.runs import Figures, authors_config, mean_of, run, saturated

SEEDS = (0, 1, 2)
BURSTGPT_SEEDS = range(5)  # draws differ by a tenth: a few requests hold most of the tokens
Document = dict[str, object]

BURSTGPT_POLICIES = (
    "fcfs",
    "round_robin",
    "least_tokens",
    "br_0",
    "br_0,select_by=margin",
    f"{BR_H},horizon=20",
    "br_h,gamma=auto",
    UNBOUND,
    "br_auto",
)


def measure_burstgpt() -> Document:
    """[B]'s main table: BurstGPT lengths, 100,000 requests, G = 16, B = 72, pool of 64."""
    config = authors_config(16, 72, 64)
    trace = str(TRACES / "lengths_burstgpt_8000.csv.gz")
    runs: dict[str, list[Figures]] = {spec: [] for spec in BURSTGPT_POLICIES}
    for seed in BURSTGPT_SEEDS:
        workload = load(trace, num_requests=100_000, seed=seed)
        for spec in BURSTGPT_POLICIES:
            runs[spec].append(run(spec, workload, config, seed=seed))
    return {spec: mean_of(figures) for spec, figures in runs.items()}


LONGBENCH_FILE = "longbench_data_8000.json"
LONGBENCH_POLICIES = ("fcfs", "br_0,select_by=margin", "br_auto")


def measure_longbench(checkout: Path) -> Document:
    """[B]'s energy at G = 256, on the lengths of the authors' own file."""
    config = authors_config(256, 72, None)
    authors = Authors(checkout)
    runs: dict[str, list[Figures]] = {spec: [] for spec in LONGBENCH_POLICIES}
    for seed in SEEDS:
        workload = authors.lengths(LONGBENCH_FILE, 80_000, seed)
        for spec in LONGBENCH_POLICIES:
            runs[spec].append(run(spec, workload, config, seed=seed))
    return {spec: mean_of(figures) for spec, figures in runs.items()}


GROWTH_TRACE = "lengths_burstgpt_8000"
GROUPS = ((4, 72), (16, 72), (64, 72), (16, 16), (16, 256))


def measure_growth() -> list[Document]:
    """[B]'s growth of the improvement over FCFS with √(B·log G)."""
    rows: list[Document] = []
    for num_ranks, num_slots in GROUPS:
        config = SimConfig(
            step_time=StepTime.parse("bf-io", num_slots=num_slots),
            num_ranks=num_ranks,
            num_slots=num_slots,
        )
        trace = str(TRACES / f"{GROWTH_TRACE}.csv.gz")
        num_requests = max(20_000, 8 * num_ranks * num_slots)
        workload = load(trace, num_requests=num_requests, seed=0)
        by_policy = {
            spec: run(spec, workload, config)
            for spec in ("fcfs", "br_0", "br_0,select_by=margin", "br_auto")
        }
        fcfs = by_policy["fcfs"]["imbalance"]
        rows.append(
            {
                "ranks": num_ranks,
                "slots": num_slots,
                "scale": math.sqrt(num_slots * math.log(num_ranks)),
                "improvement": {
                    spec: fcfs / figures["imbalance"] for spec, figures in by_policy.items()
                },
            }
        )
    return rows


PRODUCTION_POLICIES = (
    "random",
    "round_robin",
    "least_requests",
    "least_tokens",
    "br_0",
    "br_h",
    "br_h,classifier=oracle",
    "br_auto",
)
IMMEDIATE = ("random", "round_robin", "least_requests", "least_tokens")
LOADS = (0.85, 0.95)  # of the requests per second that br_0 serves, saturated


def measure_production(
    preset: str, num_ranks: int = 8, *, loads: Sequence[float] = LOADS
) -> Document:
    """[A]'s production lengths: saturated, and below, since their rate is not published."""
    saturated = _runs(preset, num_ranks, None)
    workload = load(preset, num_requests=20_000, seed=0, with_arrivals=False)
    tokens_per_s = saturated["br_0"]["throughput"]["mean"]
    assert tokens_per_s is not None
    rate_per_s = tokens_per_s / float(workload.output_tokens.mean())
    return {
        "rate_per_s": rate_per_s,
        "saturated": saturated,
        "saturated, own binding": _runs(preset, num_ranks, None, has_own_binding=True),
        **{f"load {part}": _runs(preset, num_ranks, part * rate_per_s) for part in loads},
    }


def _runs(
    preset: str, num_ranks: int, rate_per_s: float | None, *, has_own_binding: bool = False
) -> dict[str, dict[str, dict[str, float | None]]]:
    arrivals: Arrivals = "saturated" if rate_per_s is None else "poisson"
    config = SimConfig(
        step_time=StepTime.parse("paper", num_slots=72),
        num_ranks=num_ranks,
        num_slots=72,
        arrivals=arrivals,
        start="stationary",
        warmup_steps=None if rate_per_s is None else 1500,
    )
    at_once = replace(config, binding="immediate")
    runs: dict[str, list[Figures]] = {spec: [] for spec in PRODUCTION_POLICIES}
    for seed in SEEDS:
        workload = _requests(preset, config, rate_per_s, seed)
        for spec in PRODUCTION_POLICIES:
            is_at_once = has_own_binding and spec in IMMEDIATE
            runs[spec].append(run(spec, workload, at_once if is_at_once else config, seed=seed))
    return {spec: mean_of(figures) for spec, figures in runs.items()}


def _requests(preset: str, config: SimConfig, rate_per_s: float | None, seed: int) -> Workload:
    experiment = Experiment(
        source=preset,
        config=config,
        policies=("br_0",),
        num_requests=8 * config.num_ranks * config.num_slots,
        rate_per_s=rate_per_s,
        seed=seed,
    )
    _, workload = experiment.requests(seed)
    return workload


GAP_SIZE = (8, 24, 32)
GAP_CELLS = (
    ("azure2023_conv", 3000),
    ("lengths_burstgpt_8000", 3000),
    ("mooncake_conversation", 1200),
)
GAP_POLICIES = ("round_robin", "br_0", "br_auto", "bf_io")


def measure_gap() -> list[Document]:
    """Return the distance of each policy to the step optimum, on groups small enough."""
    rows: list[Document] = []
    for trace, num_requests in GAP_CELLS:
        experiment = saturated(trace, GAP_POLICIES, GAP_SIZE, num_requests)
        rows.append({"trace": trace, "rows": kept(partial(_gaps, experiment), experiment)})
    return rows


def _gaps(experiment: Experiment) -> list[tuple[str, ...]]:
    return gap_rows(measure_gaps(experiment, every=5))
