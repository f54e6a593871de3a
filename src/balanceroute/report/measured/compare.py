"""A measured run beside the simulation of the policy that it is labelled with."""

from __future__ import annotations

from collections.abc import Sequence

from balanceroute.metrics import compare
from balanceroute.report.measured.folder import MeasuredFolder
from balanceroute.report.measured.notes import list_differences
from balanceroute.report.measurement import figure
from balanceroute.report.result import MeasuredResult, RunResult, SimulationResult

_BALANCE = (
    "mean_imbalance_tokens",
    "mean_imbalance_before_refill_tokens",
    "mean_spread_tokens",
    "idle_ratio",
    "balance_ratio",
)
_TIMES = ("tpot_s", "ttft_s", "wait_s")

#: Figures that do not grow with the window, so that a ratio says something.
RATIO_FIGURES = (
    "efficiency",
    *_BALANCE,
    "throughput_tok_per_s",
    *(f"{name}.{part}" for name in _TIMES for part in ("mean", "p50", "p95", "p99")),
    "longest_wait_ratio",
    *(f"time_weighted.{name}" for name in _BALANCE),
    "mean_step_s",
    "constant_ratio",
    "mean_running_requests",
    "energy_per_token_j",
)


def compare_measured(
    result: SimulationResult, measured: MeasuredFolder, *, same_seeds: Sequence[int]
) -> MeasuredResult:
    """Put a measured run beside the simulated policy of its label.

    Parameters
    ----------
    result : SimulationResult
        At least one run.
    measured : MeasuredFolder
        What was measured.
    same_seeds : sequence of int
        Seeds under which exactly the measured requests were simulated, at the same times.

    Returns
    -------
    MeasuredResult
        Its ratios are over the repeats of `same_seeds`, or over all if there are none, which a
        note then says.
    """
    own = [run for run in result.runs if run.policy == measured.run.policy]
    paired = [run for run in own if run.seed in same_seeds] or own
    return MeasuredResult(
        folder=measured.folder,
        workload=measured.workload,
        endpoint=measured.endpoint,
        run=measured.run,
        simulated_policy=measured.run.policy if own else None,
        simulated_seeds=tuple(run.seed for run in paired),
        ratios=_ratios(measured, paired),
        notes=list_differences(result, measured, paired, is_same=bool(same_seeds)),
    )


def _ratios(measured: MeasuredFolder, paired: Sequence[RunResult]) -> dict[str, float]:
    """Divide each figure by the simulated mean, where both exist and that is not 0."""
    if not paired:
        return {}
    (simulated,) = compare(((run.policy, run.metrics) for run in paired), RATIO_FIGURES)
    pairs = {
        name: (figure(measured.run.metrics, name), simulated.spreads[name].mean)
        for name in RATIO_FIGURES
    }
    return {
        name: ours / theirs for name, (ours, theirs) in pairs.items() if ours is not None and theirs
    }
