"""The law of a step's time through measured steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import NamedTuple

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

    def in_file(self, *, source: str, prefills: PrefillLaw) -> StepTimeFile:
        """Return what is written of it, dated today."""
        return StepTimeFile(
            source=source,
            date=datetime.now(UTC).date().isoformat(),
            constant_s=self.constant_s,
            s_per_token=self.s_per_token,
            kappa0_tokens=self.kappa0_tokens,
            prefill_s_per_token=prefills.s_per_token,
            prefill_shared=prefills.shared,
            mixed_step_s=prefills.mixed_step_s,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillLaw:
    """What prompts add to a step, on rank g: ``m + (1 - sigma) t_p p_g + sigma t_p mean p``.

    Attributes
    ----------
    s_per_token, shared, mixed_step_s : float
        t_p, sigma in [0, 1], and m, which a step with any prompt tokens has; none negative.
    """

    s_per_token: float = 0.0
    shared: float = 0.0
    mixed_step_s: float = 0.0


class LongerStep(NamedTuple):
    """What a step took longer, in which prompts were computed on some ranks."""

    prompt_tokens: float  # on each rank that had any
    part: float  # of the ranks that had some, in (0, 1]
    added_s: float  # on those
    step_s: float  # that it takes without, above 0


def fit_prefill_law(steps: Sequence[LongerStep]) -> PrefillLaw:
    """Fit t_p, sigma and m by least squares of errors relative to the steps, of several lengths.

    Examples
    --------
    3 ms, and 20 us per token of which a quarter falls to both ranks:

    >>> law = fit_prefill_law([
    ...     LongerStep(tokens, part, 3e-3 + (15e-6 + 5e-6 * part) * tokens, step_s=0.02)
    ...     for tokens in (100, 900) for part in (0.5, 1.0)
    ... ])
    >>> round(law.s_per_token, 9), round(law.shared, 9), round(law.mixed_step_s, 9)
    (2e-05, 0.25, 0.003)
    """
    tokens, parts, times_s, steps_s = np.array(steps, np.float64).T
    weights = 1.0 / (steps_s + np.maximum(times_s, 0.0))
    columns = np.stack([np.ones(len(tokens)), tokens, tokens * parts], axis=1)
    if (parts == 1.0).all():  # there is one rank
        columns = columns[:, :2]
    mixed_s, own, *of_all = _non_negative(columns * weights[:, None], times_s * weights).tolist()
    s_per_token = own + sum(of_all)
    shared = sum(of_all) / s_per_token if s_per_token > 0.0 else 0.0
    return PrefillLaw(s_per_token=s_per_token, shared=shared, mixed_step_s=mixed_s)
