"""Plan time against ranks, waiting requests, running requests and horizon, with a fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.reproduce.runs import run, saturated

Document = dict[str, object]
TRACE = "azure2023_conv"
# Ranks, waiting per rank, slots.
SIZES = (
    (4, 4, 72),
    (16, 4, 72),
    (64, 4, 72),
    (256, 4, 72),
    (16, 1, 72),
    (16, 16, 72),
    (16, 64, 72),
    (64, 16, 72),
    (16, 4, 18),
    (16, 4, 288),
)
HORIZONS = (0, 20, 80)
POLICIES = ("br_0", "br_0,select_by=margin", "br_auto")
PLANS_PER_RUN = 150
REPEATS = 3


def measure_speed() -> list[Document]:
    """Return the time of a plan of each policy and size: the least of the runs' medians."""
    rounds = [_measure(seed) for seed in range(REPEATS)]  # each busy spell spoils one at most
    return [
        {**row[0], "plan_us": min(each["plan_us"] for each in row)}
        for row in zip(*rounds, strict=True)
    ]


def _measure(seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for num_ranks, per_rank, num_slots in SIZES:
        pool = per_rank * num_ranks
        # A rank of 72 slots is refilled every third step on this trace.
        num_requests = pool + num_ranks * num_slots * PLANS_PER_RUN // 200
        size = (num_ranks, num_slots, pool)
        experiment = saturated(TRACE, POLICIES, size, num_requests, warmup_steps=10)
        _, workload = experiment.requests(0)
        specs = [(spec, 0) for spec in POLICIES]
        specs += [(f"br_h,horizon={horizon}", horizon) for horizon in HORIZONS]
        for spec, horizon in specs:
            figures = run(spec, workload, experiment.config, seed=seed)
            rows.append(
                {
                    "policy": spec.partition(",horizon")[0],
                    "ranks": num_ranks,
                    "waiting": pool,
                    "active": num_ranks * num_slots,
                    "horizon": horizon,
                    "plan_us": figures["plan_us"],
                }
            )
    return rows


def fit(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Fit ``log t = log t0 + a log G + b log waiting + c log active + d log(1 + H)``.

    Returns
    -------
    dict
        The exponents of what varies, t0 in microseconds, and the largest factor by which the fit
        is off a row.
    """
    columns = {
        "ranks": [np.log(row["ranks"]) for row in rows],
        "waiting": [np.log(row["waiting"]) for row in rows],
        "active": [np.log(row["active"]) for row in rows],
        "horizon": [np.log1p(row["horizon"]) for row in rows],
    }
    used = {name: values for name, values in columns.items() if len(set(values)) > 1}
    design = np.column_stack([np.ones(len(rows)), *used.values()])
    times = np.log([row["plan_us"] for row in rows])
    solution, *_ = np.linalg.lstsq(design, times, rcond=None)
    off = float(np.exp(np.abs(design @ solution - times).max()))
    exponents = dict(zip(used, solution[1:].tolist(), strict=True))
    return {"t0_us": float(np.exp(solution[0])), **exponents, "largest_factor_off": off}
