"""The figures of one run, in the order and under the names of the JSON document."""

from __future__ import annotations

import msgspec


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """Mean and quantiles of a quantity; every field is None when nothing was observed."""

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class DecisionTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Wall time of one call of the policy, microseconds; None when it was never called."""

    p50: float | None
    p99: float | None
    max: float | None


class BalanceMeans(msgspec.Struct, frozen=True, kw_only=True):
    """Averages of the balance figures, weighted by the duration of each step."""

    mean_imbalance_tokens: float
    mean_imbalance_before_refill_tokens: float
    mean_spread_tokens: float
    idle_ratio: float
    balance_ratio: float


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one run; None stands for what the window did not hold.

    Averages are over decode steps unless the name says ``time_weighted``.

    Attributes
    ----------
    efficiency : float
        η = Σ(C + mean work) / Σ(C + largest work), in (0, 1]; higher is better.
    mean_imbalance_tokens, mean_imbalance_before_refill_tokens : float
        Mean of ``G·max L - Σ L`` after admission, and between completions and refill; lower is
        better.
    mean_spread_tokens : float
        Mean of ``max L - min L``; lower is better.
    idle_ratio : float
        Mean of ``1 - mean work / largest work``, in [0, 1); lower is better.
    balance_ratio : float
        Mean of ``mean L / max L``, in (0, 1]; higher is better.
    throughput_tok_per_s : float or None
        Output tokens per second; higher is better.
    tpot_s, ttft_s, wait_s : Distribution
        Seconds per output token after the first, to the first token, and in the pool; lower is
        better.
    longest_wait_ratio : float or None
        Longest wait in units of the mean wait, requests still waiting included; lower is better.
    preemptions : int
        Times that requests alive in the window were thrown out for lack of KV tokens.
    energy_j : float
        Energy of all ranks during the counted steps, joules; lower is better.
    num_steps, num_requests, num_tokens : int
        Steps counted, requests finished and output tokens generated.
    decision_us : DecisionTimes
        Wall time of the policy's calls over the whole run; lower is better.
    wall_s : float
        Wall time of the run, seconds.
    time_weighted : BalanceMeans
        The balance figures, weighted by step duration.
    mean_step_s : float
        Mean duration of a step, seconds; lower is better at equal `mean_running_requests`.
    constant_ratio : float
        Share of the step time that does not depend on load, in [0, 1]; what placement can
        never win back.
    mean_running_requests : float
        Mean number of requests on a rank, over the group.
    num_waiting_at_end : int
        Requests that had arrived and were not on a rank when the window closed.
    energy_per_token_j : float or None
        `energy_j` per output token; lower is better.
    """

    efficiency: float
    mean_imbalance_tokens: float
    mean_imbalance_before_refill_tokens: float
    mean_spread_tokens: float
    idle_ratio: float
    balance_ratio: float
    throughput_tok_per_s: float | None
    tpot_s: Distribution
    ttft_s: Distribution
    wait_s: Distribution
    longest_wait_ratio: float | None
    preemptions: int
    energy_j: float
    num_steps: int
    num_requests: int
    num_tokens: int
    decision_us: DecisionTimes
    wall_s: float
    time_weighted: BalanceMeans
    mean_step_s: float
    constant_ratio: float
    mean_running_requests: float
    num_waiting_at_end: int
    energy_per_token_j: float | None
