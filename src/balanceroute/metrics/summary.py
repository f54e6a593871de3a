"""From the records of a run to its figures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balanceroute.metrics import requests as by_request
from balanceroute.metrics import steps as by_step
from balanceroute.metrics.energy import EnergyModel
from balanceroute.metrics.figures import DecisionTimes, Metrics
from balanceroute.types import RunRecords

DEFAULT_ENERGY = EnergyModel()

_NS_PER_US = 1000.0


def summarize(run: RunRecords, *, energy: EnergyModel = DEFAULT_ENERGY) -> Metrics:
    """Compute every figure of a run over its window.

    Parameters
    ----------
    run : RunRecords
        Records of a simulated or a live run, and the window to count.
    energy : EnergyModel
        Power of a rank.

    Returns
    -------
    Metrics
        None where the window holds nothing to measure.

    Raises
    ------
    ConfigError
        If no step starts in the window.

    Notes
    -----
    Temporaries stay below three float64 columns of the requests.

    Examples
    --------
    One step with loads [100, 90, 70, 60], 10 ms constant and 0.1 ms per token, so 20 ms, of which
    the ranks need 18 ms on average; one request of four tokens finishes in it, and has waited 1 s:

    >>> from balanceroute.types import LoadSamples, RequestRecords, StepRecords
    >>> tokens = lambda *values: np.array(values, dtype=np.int64)
    >>> small = lambda *values: np.array(values, dtype=np.int32)
    >>> time = lambda *values: np.array(values, dtype=np.float64)
    >>> steps = StepRecords(
    ...     start_s=time(1),
    ...     duration_s=time(0.02),
    ...     max_work_s=time(0.01),
    ...     mean_work_s=time(0.008),
    ...     sum_usage_pow=time(3.5),
    ...     max_load_tokens=tokens(100),
    ...     min_load_tokens=tokens(60),
    ...     sum_load_tokens=tokens(320),
    ...     refill_max_load_tokens=tokens(50),
    ...     refill_sum_load_tokens=tokens(150),
    ...     num_tokens=tokens(4),
    ...     num_running=tokens(4),
    ...     num_waiting=tokens(0),
    ... )
    >>> requests = RequestRecords(
    ...     arrival_s=time(0),
    ...     admitted_s=time(1),
    ...     first_token_s=time(1.02),
    ...     finished_s=time(1.02),
    ...     prompt_tokens=small(100),
    ...     output_tokens=small(1),
    ...     rank=small(0),
    ...     num_preemptions=small(0),
    ... )
    >>> metrics = summarize(
    ...     RunRecords(
    ...         policy="br_0",
    ...         seed=0,
    ...         num_ranks=4,
    ...         binding="pooled",
    ...         steps=steps,
    ...         requests=requests,
    ...         samples=LoadSamples(time_s=time(1), load_tokens=np.array([[100, 90, 70, 60]])),
    ...         window_s=(1.0, 2.0),
    ...         decision_ns=tokens(5000),
    ...         wall_s=0.1,
    ...     )
    ... )
    >>> metrics.mean_imbalance_tokens, metrics.mean_imbalance_before_refill_tokens
    (80.0, 50.0)
    >>> round(metrics.efficiency, 9), round(metrics.idle_ratio, 9), metrics.balance_ratio
    (0.9, 0.2, 0.8)
    >>> metrics.wait_s.p99, metrics.tpot_s.p99
    (1.0, None)
    """
    steps = by_step.counted_steps(run)
    per_step = by_step.step_figures(steps, num_ranks=run.num_ranks)
    balance = by_step.balance_means(per_step)
    end_s = by_step.last_end_s(run, steps)
    num_waiting, waiting_s = by_request.waiting_at(run, end_s)
    waits = by_request.wait_values(run)
    longest_s = max(waiting_s, float(np.max(waits, initial=0.0)))
    wait_s = by_request.describe(waits)
    del waits  # a column of 200 MB at 27 million requests
    span_s = float(np.max(steps.start_s + steps.duration_s) - np.min(steps.start_s))
    num_tokens = int(np.sum(steps.num_tokens))
    energy_j = energy.energy_j(steps.duration_s, steps.sum_usage_pow, num_ranks=run.num_ranks)
    return Metrics(
        efficiency=by_step.efficiency(steps),
        mean_imbalance_tokens=balance.mean_imbalance_tokens,
        mean_imbalance_before_refill_tokens=balance.mean_imbalance_before_refill_tokens,
        mean_spread_tokens=balance.mean_spread_tokens,
        idle_ratio=balance.idle_ratio,
        balance_ratio=balance.balance_ratio,
        throughput_tok_per_s=num_tokens / span_s,
        tpot_s=by_request.describe(by_request.tpot_values(run)),
        ttft_s=by_request.describe(by_request.ttft_values(run)),
        wait_s=wait_s,
        longest_wait_ratio=by_request.longest_wait_ratio(wait_s, longest_s),
        preemptions=by_request.num_preemptions(run, end_s),
        energy_j=energy_j,
        num_steps=len(steps.start_s),
        num_requests=by_request.num_finished(run),
        num_tokens=num_tokens,
        decision_us=decision_times(run.decision_ns),
        wall_s=run.wall_s,
        time_weighted=by_step.balance_means(per_step, weights=steps.duration_s),
        mean_step_s=float(np.mean(steps.duration_s)),
        constant_ratio=by_step.constant_ratio(steps),
        mean_running_requests=float(np.mean(steps.num_running)),
        num_waiting_at_end=num_waiting,
        energy_per_token_j=energy_j / num_tokens if num_tokens else None,
    )


def decision_times(decision_ns: NDArray[np.int64]) -> DecisionTimes:
    """Summarise the wall time of the policy's calls.

    Parameters
    ----------
    decision_ns : int64 array, shape (P,)
        Nanoseconds of each call.

    Examples
    --------
    >>> decision_times(np.array([1000, 2000, 9000]))
    DecisionTimes(p50=2.0, p99=8.86, max=9.0)
    """
    if not decision_ns.size:
        return DecisionTimes(p50=None, p99=None, max=None)
    p50, p99, largest = (np.quantile(decision_ns, (0.5, 0.99, 1.0)) / _NS_PER_US).tolist()
    return DecisionTimes(p50=p50, p99=p99, max=largest)
