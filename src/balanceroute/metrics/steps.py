"""Step figures: which steps count, and one value of each balance figure per step."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.metrics.figures import BalanceMeans
from balanceroute.types import RunRecords, StepRecords


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """Balance of each counted step, each a float64 array of shape (T,).

    A step without any load, where nobody waits for anybody, has idle ratio 0 and balance ratio 1.
    """

    imbalance_tokens: NDArray[np.float64]
    refill_imbalance_tokens: NDArray[np.float64]
    spread_tokens: NDArray[np.float64]
    idle_ratio: NDArray[np.float64]
    balance_ratio: NDArray[np.float64]


def counted_steps(run: RunRecords) -> StepRecords:
    """Return the steps that start in the run's window.

    Raises
    ------
    ConfigError
        If there is none.
    """
    steps = run.steps
    begin_s, end_s = run.window_s
    inside = (steps.start_s >= begin_s) & (steps.start_s < end_s)
    if not inside.any():
        raise ConfigError(
            f"{run.policy}: no decode step starts in the measured window "
            f"[{begin_s:g}, {end_s:g}) s; the run has {len(steps.start_s)} steps in all, and "
            "warm-up and drain leave none; give it more requests (--requests) or a shorter "
            "warm-up (--warmup-steps)"
        )
    return StepRecords(**{f.name: getattr(steps, f.name)[inside] for f in fields(StepRecords)})


def last_end_s(run: RunRecords, steps: StepRecords) -> float:
    """Return when the window closes: its end, or that of the last counted step if earlier."""
    return min(run.window_s[1], float(np.max(steps.start_s + steps.duration_s)))


def imbalance_tokens(
    max_load_tokens: NDArray[np.int64], sum_load_tokens: NDArray[np.int64], *, num_ranks: int
) -> NDArray[np.float64]:
    """Compute the imbalance I = G·M - Σ L of each step.

    Parameters
    ----------
    max_load_tokens, sum_load_tokens : int64 array, shape (T,)
        Largest and total load over the ranks.
    num_ranks : int
        G.

    Returns
    -------
    float64 array, shape (T,)
        Tokens, at least 0. Lower is better.

    Examples
    --------
    Loads [100, 90, 70, 60] on four ranks:

    >>> imbalance_tokens(np.array([100]), np.array([320]), num_ranks=4)
    array([80.])
    """
    imbalance: NDArray[np.float64] = (num_ranks * max_load_tokens - sum_load_tokens).astype(
        np.float64
    )
    return imbalance


def step_figures(steps: StepRecords, *, num_ranks: int) -> StepFigures:
    """Compute the balance of each step."""
    return StepFigures(
        imbalance_tokens=imbalance_tokens(
            steps.max_load_tokens, steps.sum_load_tokens, num_ranks=num_ranks
        ),
        refill_imbalance_tokens=imbalance_tokens(
            steps.refill_max_load_tokens, steps.refill_sum_load_tokens, num_ranks=num_ranks
        ),
        spread_tokens=(steps.max_load_tokens - steps.min_load_tokens).astype(np.float64),
        idle_ratio=1.0 - _ratio(_mean_work_s(steps), steps.max_work_s),
        balance_ratio=_ratio(
            steps.sum_load_tokens / num_ranks, steps.max_load_tokens.astype(np.float64)
        ),
    )


def balance_means(
    per_step: StepFigures, *, weights: NDArray[np.float64] | None = None
) -> BalanceMeans:
    """Average the balance figures over steps, equally or by `weights`.

    Parameters
    ----------
    per_step : StepFigures
        One value per step.
    weights : float64 array, shape (T,), or None
        Not all zero.
    """

    def mean(values: NDArray[np.float64]) -> float:
        return float(np.average(values, weights=weights))

    return BalanceMeans(
        mean_imbalance_tokens=mean(per_step.imbalance_tokens),
        mean_imbalance_before_refill_tokens=mean(per_step.refill_imbalance_tokens),
        mean_spread_tokens=mean(per_step.spread_tokens),
        idle_ratio=mean(per_step.idle_ratio),
        balance_ratio=mean(per_step.balance_ratio),
    )


def efficiency(steps: StepRecords) -> float:
    """Compute η = Σ(C + mean work) / Σ(C + largest work), in (0, 1]; higher is better.

    ``C + largest work`` is the step's duration, so 1 - η is the share of their time that the
    ranks wait at the barrier.
    """
    waited_s = float(np.sum(steps.max_work_s - _mean_work_s(steps)))
    return 1.0 - waited_s / float(np.sum(steps.duration_s))


def constant_ratio(steps: StepRecords) -> float:
    """Compute the share of step time that does not depend on load, in [0, 1]."""
    return 1.0 - float(np.sum(steps.max_work_s)) / float(np.sum(steps.duration_s))


def _mean_work_s(steps: StepRecords) -> NDArray[np.float64]:
    """Return the mean work; a mean rounded up must not exceed the largest of equal values."""
    return np.minimum(steps.mean_work_s, steps.max_work_s)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide, with 1 where the whole is 0."""
    return np.divide(part, whole, out=np.ones_like(whole), where=whole > 0.0)
