"""The law of a step's time through measured steps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.step_time_file import StepTimeFile
from balanceroute.errors import ConfigError

FEWEST_SAMPLES = 6  # twice as many as there are constants


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLaw:
    """``C + t_l * (kappa0 * n + L)``, and how far it is from what was measured.

    Attributes
    ----------
    constant_s, s_per_token, kappa0_tokens : float
        C, t_l and kappa0, none negative.
    error_ratios : float64 array, shape (N,)
        Fitted over measured time, less one.
    """

    constant_s: float
    s_per_token: float
    kappa0_tokens: float
    error_ratios: NDArray[np.float64]

    @property
    def median_error_ratio(self) -> float:
        """Return the median size of the errors; less is better."""
        return float(np.median(np.abs(self.error_ratios)))

    @property
    def largest_error_ratio(self) -> float:
        """Return the size of the largest error; less is better."""
        return float(np.abs(self.error_ratios).max())

    def in_file(
        self, *, source: str, prefill_s_per_token: float, prefill_shared: float = 0.0
    ) -> StepTimeFile:
        """Return what is written of it, dated today."""
        return StepTimeFile(
            source=source,
            date=datetime.now(UTC).date().isoformat(),
            constant_s=self.constant_s,
            s_per_token=self.s_per_token,
            kappa0_tokens=self.kappa0_tokens,
            prefill_s_per_token=prefill_s_per_token,
            prefill_shared=prefill_shared,
            median_error_ratio=self.median_error_ratio,
            largest_error_ratio=self.largest_error_ratio,
            num_samples=len(self.error_ratios),
        )


def fit_step_law(
    num_reqs: NDArray[np.float64], tokens: NDArray[np.float64], step_s: NDArray[np.float64]
) -> StepLaw:
    """Fit C, t_l and kappa0 by least squares of relative errors, none of them negative.

    Parameters
    ----------
    num_reqs, tokens : float64 array, shape (N,)
        Running requests and resident tokens of the slowest rank.
    step_s : float64 array, shape (N,)
        Measured step times, above 0.

    Raises
    ------
    ConfigError
        For fewer than six samples, or if the tokens have no effect on the time.

    Examples
    --------
    10 ms, 1 ms per request and 1 us per token:

    >>> n, w = np.array([1, 1, 4, 4, 16, 16.0]), np.array([100, 1000, 100, 1000, 100, 1000.0])
    >>> law = fit_step_law(n, n * w, 0.01 + 1e-3 * n + 1e-6 * n * w)
    >>> round(law.constant_s, 6), round(law.s_per_token, 9), round(law.kappa0_tokens, 3)
    (0.01, 1e-06, 1000.0)
    >>> law.largest_error_ratio < 1e-9
    True
    """
    if len(step_s) < FEWEST_SAMPLES:
        raise ConfigError(f"a step law needs {FEWEST_SAMPLES} samples or more, got {len(step_s)}")
    columns = np.stack([np.ones(len(step_s)), num_reqs, tokens], axis=1) / step_s[:, None]
    solution = _non_negative(columns, np.ones(len(step_s)))
    if solution[2] <= 0.0:
        raise ConfigError(
            "the measured steps do not get longer with resident tokens; measure with longer "
            "prompts (--prompt-tokens) or more requests (--requests), while nothing else runs"
        )
    return StepLaw(
        constant_s=float(solution[0]),
        s_per_token=float(solution[2]),
        kappa0_tokens=float(solution[1] / solution[2]),
        error_ratios=columns @ solution - 1.0,
    )


def _non_negative(columns: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least-squares solution without negative parts; of three columns, all are tried."""
    num_columns = columns.shape[1]
    best, least = np.zeros(num_columns), np.inf
    for size in range(1, num_columns + 1):
        for chosen in map(list, combinations(range(num_columns), size)):
            part = np.linalg.lstsq(columns[:, chosen], target, rcond=None)[0]
            error = float(((columns[:, chosen] @ part - target) ** 2).sum())
            if (part >= 0.0).all() and error < least:
                best, least = np.zeros(num_columns), error
                best[chosen] = part
    return best


def fit_slope(tokens: NDArray[np.float64], time_s: NDArray[np.float64]) -> float:
    """Return the slope of a line through times, seconds per token, at least 0.

    Examples
    --------
    >>> round(fit_slope(np.array([100.0, 200, 400]), np.array([0.12, 0.22, 0.42])), 6)
    0.001
    """
    return max(0.0, float(np.polyfit(tokens, time_s, 1)[0]))


def shared_part(alone_s_per_token: float, together_s_per_token: float, num_ranks: int) -> float:
    """Return sigma, the part of the prefill time that falls to all ranks together.

    Of a prompt of p tokens on one of G ranks, the step has (1 - sigma) t_p p + sigma t_p p / G; of
    one on each, t_p p. So ranks that do not hinder each other take as long together as alone, and
    ranks that take turns G times as long.

    Parameters
    ----------
    alone_s_per_token, together_s_per_token : float
        Of a prompt on one rank, and of one on each at once; at least 0.
    num_ranks : int
        G, at least 1.

    Returns
    -------
    float
        The value in [0, 1] that fits best.

    Examples
    --------
    >>> [round(shared_part(alone, 4e-5, 4), 9) for alone in (5e-5, 4e-5, 2.5e-5, 1e-5)]
    [0.0, 0.0, 0.5, 1.0]
    """
    if num_ranks == 1 or together_s_per_token <= 0.0:
        return 0.0
    shared = (1.0 - alone_s_per_token / together_s_per_token) * num_ranks / (num_ranks - 1)
    return min(1.0, max(0.0, shared))
