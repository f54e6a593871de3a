"""What the simulator says of the runs that `vllm_ranks` measured, with a step time of `calibrate`.

Same lengths, slots and requests under way; prompts share the steps with what decodes, and a request
that is sent in a step is computed in the one after the next: vLLM schedules a step ahead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from balanceroute.cluster.step_time_file import read_step_time
from balanceroute.metrics import BalanceMeans, Metrics
from balanceroute.report.experiment import Experiment
from balanceroute.sim.config import BindingChoice, SimConfig, StepTime
from tests_vllm.load import mixed_lengths

# How each arm binds, and the policy that does in the simulator what it does.
POLICIES: dict[str, tuple[str, BindingChoice]] = {
    "vllm": ("vllm", "immediate"),
    "balanceroute": ("br_auto", "pooled"),
    "level": ("br_auto,waves=false", "pooled"),
}
BUDGET_TOKENS = 2048  # vLLM's own on a CPU
SEND_S = 0.06  # from a plan until a step is scheduled anew: a step of these runs, about


def main() -> None:
    """Print measured and simulated figures of each arm, medians over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step-time", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("bench/out/vllm_ranks.json"))
    given = parser.parse_args()
    measured = json.loads(given.runs.read_text())
    for arm, (policy, binding) in POLICIES.items():
        runs = [run for run in measured["runs"] if run["arm"] == arm]
        simulated = [
            simulate(given.step_time, measured["settings"], policy, binding, run["seed"])
            for run in runs
        ]
        for name, told in (("measured", runs), ("simulated", simulated)):
            print(f"{arm:14} {name:10} {medians(told)}", flush=True)


def simulate(
    step_time: Path, settings: dict[str, Any], policy: str, binding: BindingChoice, seed: int
) -> dict[str, Any]:
    """Return the simulated figures of one run, named as the measured ones."""
    measured = read_step_time(step_time)
    num_ranks, slots = int(settings["ranks"]), int(settings["slots"])
    config = SimConfig(
        step_time=StepTime.parse(str(step_time), num_slots=slots),
        num_ranks=num_ranks,
        num_slots=slots,
        prefill_budget_tokens=BUDGET_TOKENS,
        prefill_s_per_token=measured.prefill_s_per_token,
        prefill_shared=measured.prefill_shared,
        mixed_step_s=measured.mixed_step_s,
        pool_size=int(settings["concurrency"]) - num_ranks * slots,
        delivery_s=SEND_S,
        binding=binding,
    )
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as trace:
        lengths = mixed_lengths(int(settings["requests"]), seed)
        rows = [f"{number},{prompt},{output}" for number, (prompt, output) in enumerate(lengths)]
        trace.write("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows, ""]))
        trace.flush()
        experiment = Experiment(
            source=trace.name, config=config, policies=(policy,), num_requests=len(lengths)
        )
        metrics: Metrics = experiment.run()[0].runs[0].metrics
    balance = metrics.time_weighted
    assert metrics.tpot_s is not None
    assert metrics.tpot_s.mean is not None
    return {
        "middle_tokens_per_s": metrics.throughput_tok_per_s,
        "tpot_ms": {"mean": metrics.tpot_s.mean * 1e3},
        "spread": spread_ratio(balance, num_ranks),
    }


def spread_ratio(balance: BalanceMeans, num_ranks: int) -> float:
    """Return how far the ranks are apart over their mean.

    What the fullest has above the mean, over the mean, follows from the balance ratio; how many
    times that the spread is, from both in tokens: twice on two ranks.
    """
    times = balance.mean_spread_tokens / (balance.mean_imbalance_tokens / num_ranks)
    return times * (1.0 / balance.balance_ratio - 1.0)


def medians(runs: Sequence[dict[str, Any]]) -> str:
    """Return the figures of some runs in words."""

    def median(values: list[float]) -> float:
        return statistics.median(values)

    return (
        f"{median([run['middle_tokens_per_s'] for run in runs]):6.0f} tokens/s, "
        f"TPOT {median([run['tpot_ms']['mean'] for run in runs]):5.1f} ms, "
        f"spread {median([run['spread'] for run in runs]):.3f} of the mean"
    )


if __name__ == "__main__":
    main()
