"""The public simulator of [B]'s authors and ours on the same requests, side by side.

Their code carries no licence, so none of it is here: a checkout is named, and its package `simlib`
imported from there. ``python -m bench.reproduce.authors CHECKOUT`` prints the comparison.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from balanceroute.types import Workload
from balanceroute.workload import fingerprint, load
from bench.machine import TRACES
from bench.reproduce.kept import kept
from bench.reproduce.runs import CUSTOM_POLICIES, authors_config, run

TRACE = "lengths_burstgpt_8000"
# Step time of [B]: C for B = 72, and seconds per token.
S_PER_SLOT, BASE_S, DIVISOR = 0.6e-3, 35e-3, 16
S_PER_TOKEN = 1.5 * 2 * 576 * 61e-6 / 2**20

#: `br_auto` without its bound on waits, which [B]'s rule has not either.
UNBOUND = "br_auto,patience=1e9,age_weight=0"
BR_H = "br_h,projection=hard,classifier=oracle,gamma=0.86,beta=43"
#: Their policy, its horizon, and ours that comes nearest.
Counterpart = tuple[str, int | None, str]
COUNTERPARTS: tuple[Counterpart, ...] = (
    ("policy_FCFS", None, "fcfs"),
    ("policy_round_robin", None, f"{CUSTOM_POLICIES}:Restarting"),
    ("policy_round_robin", None, "round_robin"),
    ("policy_join_shortest_queue", None, "least_tokens"),
    ("policy_balance_future_h0", 0, "br_0"),
    ("policy_balance_future_h0", 0, "br_0,select_by=margin"),
    ("policy_balance_future", 20, f"{BR_H},horizon=20"),
    ("policy_balance_future", 20, "br_0,select_by=margin"),
    ("policy_balance_future", 20, UNBOUND),
    ("policy_balance_future", 20, "br_auto"),
)
#: What is run at the size of [B]'s main table too, to tell its draws from its simulator.
AT_FULL_SIZE = COUNTERPARTS[:2] + COUNTERPARTS[-3:]


class Authors:
    """Their simulator in a checkout.

    Parameters
    ----------
    checkout : Path
        A clone of github.com/Echoscd/Load-Balancing-Release.
    """

    def __init__(self, checkout: Path) -> None:
        if not (checkout / "simlib" / "scheduler.py").is_file():
            raise SystemExit(
                f"{checkout} holds no simlib/scheduler.py; name a checkout of [B]'s code"
            )
        sys.path.insert(0, str(checkout))
        self.checkout = checkout
        self._simlib: Any = importlib.import_module("simlib")
        self._strategies: Any = importlib.import_module("simlib.strategies")
        self._ahead: Any = importlib.import_module("simlib.strategies.strategy_balance_future")

    def run(
        self,
        policy: str,
        horizon: int | None,
        workload: Workload,
        ranks: int,
        slots: int,
        pool: int,
    ) -> dict[str, float]:
        """Return their figures, true lengths known to their BF-IO."""
        if horizon is not None:
            self._ahead.HORIZON_MAX = horizon
        began_s = time.perf_counter()
        simulator = self._simlib.SchedulerSim(
            n_worker=ranks,
            batch_size=slots,
            C=(slots * S_PER_SLOT + BASE_S) / DIVISOR,
            t_length=S_PER_TOKEN,
            s_list=workload.prompt_tokens,
            o_list=workload.output_tokens,
            o_est_list=workload.output_tokens,
            policy_fn=getattr(self._strategies, policy),
            record_history=False,
            reveal_target=pool,
        )
        metrics = simulator.run()
        return {
            "imbalance_before_refill": float(metrics["avg_gpu_imbalance"]),
            "idle_before_refill": float(metrics["avg_gpu_idle_rate"]),
            "throughput": float(metrics["throughput_tokens_per_sec"]),
            "energy_kj": float(metrics["total_energy"]) / 1e3,
            "num_steps": float(simulator.last_assign_step),
            "wall_s": time.perf_counter() - began_s,
        }

    def lengths(self, file_name: str, num_requests: int, seed: int) -> Workload:
        """Draw requests from one of their length files, with replacement."""
        content = json.loads((self.checkout / file_name).read_text(encoding="utf-8"))
        pairs = [(row["input_length"], row["output_length"]) for row in content["data"]]
        known = np.array([pair for pair in pairs if min(pair) > 0], np.int32)
        rows = np.random.default_rng(seed).integers(len(known), size=num_requests)
        prompts, outputs = known[rows].T
        return Workload(name=file_name, prompt_tokens=prompts, output_tokens=outputs)


def compare(
    checkout: Path,
    *,
    num_requests: int = 20_000,
    pool: int = 128,
    seed: int = 0,
    counterparts: Sequence[Counterpart] = COUNTERPARTS,
) -> list[dict[str, object]]:
    """Return their figures and ours, policy by policy, on the same BurstGPT requests."""
    authors = Authors(checkout)
    workload = load(str(TRACES / f"{TRACE}.csv.gz"), num_requests=num_requests, seed=seed)
    config = authors_config(16, 72, pool)
    rows: list[dict[str, object]] = []
    for policy, horizon, spec in counterparts:
        measure = partial(authors.run, policy, horizon, workload, 16, 72, pool)
        theirs = kept(measure, policy, horizon, fingerprint(workload), 16, 72, pool)
        ours = run(spec, workload, config, seed=seed)
        name = spec.replace(f"{CUSTOM_POLICIES}:Restarting", "round_robin, anew from rank 0")
        rows.append({"theirs": policy, "ours": name, "figures": [theirs, ours]})
    return rows


def main() -> None:
    """Print the comparison as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="a clone of [B]'s simulator")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--pool", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = compare(given.checkout, num_requests=given.requests, pool=given.pool, seed=given.seed)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
