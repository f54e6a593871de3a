"""What `br_auto` reaches: all lengths, its parts switched off one by one, and below saturation."""

from __future__ import annotations

from collections.abc import Sequence

from balanceroute.metrics import Metrics
from balanceroute.report.experiment import Experiment
from balanceroute.sim.config import Arrivals, SimConfig, StepTime
from bench.machine import TRACES, spread

NUM_SLOTS = 72
NUM_REPEATS = 3
LENGTHS = (
    "azure2023_conv",
    "azure2023_code",
    "mooncake_conversation",
    "servegen_m-large_day0_0400",
    "servegen_deepseek-r1_00-12h",
    "lengths_burstgpt_8000",
    "lengths_bwb",
    "lengths_sharegpt_8k",
    "lengths_arxiv_summarization",
)
# Ranks, waiting requests, and requests simulated, of one cell, and who is compared.
CELLS = (
    (8, 128, 30_000, ("br_auto", "br_0", "br_0,select_by=margin")),
    (16, 256, 60_000, ("br_auto",)),
    (144, 1024, 240_000, ("br_auto",)),
)
ABLATED = (
    "br_auto",
    "br_auto,look_ahead=false",
    "br_auto,exchange_passes=0",
    "br_auto,berths=false",
    "br_auto,age_weight=0",
    "br_auto,patience=1e9",
    "br_auto,patience=1e9,age_weight=0",
    "br_auto,classifier=survival:by=global",
    "br_auto,classifier=oracle",
)
UNEQUAL = ("br_auto", "br_auto,time_load=false")
# Trace, requests per second: two rates below what 16 ranks can serve, the second near it.
RATES = (
    ("azure2023_conv", 230.0),
    ("azure2023_conv", 270.0),
    ("mooncake_conversation", 22.0),
    ("mooncake_conversation", 30.0),
)
IN_USE = ("br_auto", "least_tokens", "vllm")


def measure_lengths() -> list[dict[str, object]]:
    """Return efficiency, longest wait and time per plan on each trace, saturated."""
    cells: list[dict[str, object]] = []
    for num_ranks, pool_size, num_requests, policies in CELLS:
        for trace in LENGTHS:
            config = _config(num_ranks, pool_size=pool_size)
            cells += _cells(trace, config, policies, num_requests)
    return cells


def measure_ablation() -> list[dict[str, object]]:
    """Return what each part of `br_auto` is worth."""
    cells: list[dict[str, object]] = []
    for trace in ("azure2023_conv", "mooncake_conversation", "lengths_bwb"):
        cells += _cells(trace, _config(16, pool_size=256), ABLATED, 60_000)
    speeds = (1.0,) * 12 + (0.8,) * 4
    config = _config(16, pool_size=256, step_time="h200-deepseek-v3", rank_speeds=speeds)
    return cells + _cells("azure2023_conv", config, UNEQUAL, 60_000)


def measure_unsaturated() -> list[dict[str, object]]:
    """Return the times to and between tokens below saturation."""
    cells: list[dict[str, object]] = []
    for trace, rate_per_s in RATES:
        cells += _cells(trace, _config(16, arrivals="poisson"), IN_USE, 20_000, rate_per_s)
    return cells


def _config(
    num_ranks: int,
    *,
    pool_size: int | None = None,
    step_time: str = "paper",
    rank_speeds: tuple[float, ...] = (),
    arrivals: Arrivals = "saturated",
) -> SimConfig:
    return SimConfig(
        step_time=StepTime.parse(step_time, num_slots=NUM_SLOTS),
        num_ranks=num_ranks,
        num_slots=NUM_SLOTS,
        pool_size=pool_size,
        rank_speeds=rank_speeds,
        arrivals=arrivals,
    )


def _cells(
    trace: str,
    config: SimConfig,
    policies: Sequence[str],
    num_requests: int,
    rate_per_s: float | None = None,
) -> list[dict[str, object]]:
    experiment = Experiment(
        source=str(TRACES / f"{trace}.csv.gz"),
        config=config,
        policies=tuple(policies),
        num_requests=num_requests,
        num_repeats=NUM_REPEATS,
        rate_per_s=rate_per_s,
    )
    runs = experiment.run()[0].runs
    return [
        {
            "trace": trace,
            "ranks": config.num_ranks,
            "pool": config.pool_size,
            "rate_per_s": rate_per_s,
            "policy": policy,
            **_figures([run.metrics for run in runs if run.policy == policy]),
        }
        for policy in policies
    ]


def _figures(metrics: list[Metrics]) -> dict[str, object]:
    waits = [m.longest_wait_ratio for m in metrics if m.longest_wait_ratio is not None]
    return {
        "repeats": len(metrics),
        "efficiency": spread([m.efficiency for m in metrics]),
        "longest_wait_ratio": spread(waits),
        "ttft_p99_s": spread([m.ttft_s.p99 for m in metrics if m.ttft_s.p99 is not None]),
        "tpot_p99_s": spread([m.tpot_s.p99 for m in metrics if m.tpot_s.p99 is not None]),
        "plan_p50_us": spread(
            [m.decision_us.p50 for m in metrics if m.decision_us.p50 is not None]
        ),
        "plan_p99_us": spread(
            [m.decision_us.p99 for m in metrics if m.decision_us.p99 is not None]
        ),
    }
