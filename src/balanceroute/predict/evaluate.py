"""Teaching a classifier from a workload, and measuring it on what a router sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.predict.base import Classifier, checked_horizon, expected_steps, requests_of
from balanceroute.predict.registry import make_classifier
from balanceroute.types import Workload

TAUGHT_REQUESTS = 64  # taught at a time, so that refits and the pace follow the order of arrival
DEFAULT_NUM_SAMPLES = 20_000
NUM_BINS = 10

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How well a classifier tells who ends within a horizon, over running requests.

    Attributes
    ----------
    horizon : int
        H, in steps.
    num_samples : int
        Requests at ages, as a router finds them running.
    end_ratio : float
        Share of them that end within H.
    auc : float or None
        Probability that a sample that ends has a larger p than one that does not, ties counting
        half. Higher is better, 0.5 is chance; None if all end or none does.
    brier : float
        Mean of (p - outcome)². Lower is better; always saying `end_ratio` gives
        ``end_ratio · (1 - end_ratio)``.
    mae_steps : float
        Mean distance of ĉ from min(remaining, H), in steps. Lower is better.
    bins : tuple of Bin
        The calibration curve, by p in tenths; bins without samples are left out.
    """

    horizon: int
    num_samples: int
    end_ratio: float
    auc: float | None
    brier: float
    mae_steps: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Samples with p within one tenth of [0, 1].

    Attributes
    ----------
    number : int
        Which one: p in [number / 10, (number + 1) / 10), the last one with 1.
    num_samples : int
        How many there are.
    mean_prob : float
        Their mean p.
    end_ratio : float
        The share of them that ended; equal to `mean_prob` if calibrated.
    """

    number: int
    num_samples: int
    mean_prob: float
    end_ratio: float


def split_by_time(workload: Workload, fit_ratio: float = 0.5) -> tuple[Workload, Workload]:
    """Return the earlier part of a workload, to fit on, and the later, to evaluate on.

    Raises
    ------
    ConfigError
        If one of them would be empty.

    Examples
    --------
    >>> lengths = np.arange(1, 6, dtype=np.int32)
    >>> workload = Workload(name="five", prompt_tokens=lengths, output_tokens=lengths)
    >>> [part.output_tokens.tolist() for part in split_by_time(workload, 0.6)]
    [[1, 2, 3], [4, 5]]
    """
    num_fitted = round(workload.num_requests * checked_fit_ratio(fit_ratio))
    if not 0 < num_fitted < workload.num_requests:
        raise ConfigError(
            f"{workload.name} is too short to split: a fit-ratio of {fit_ratio} leaves one part of "
            f"its {workload.num_requests} requests empty"
        )
    return workload.select(slice(num_fitted)), workload.select(slice(num_fitted, None))


def checked_fit_ratio(fit_ratio: float) -> float:
    """Return the part to fit on, or raise `ConfigError` unless it is between 0 and 1."""
    if not 0.0 < fit_ratio < 1.0:
        raise ConfigError(f"fit-ratio must be above 0 and below 1, got {fit_ratio}")
    return fit_ratio


def fit(
    workload: Workload,
    spec: str,
    *,
    rng: np.random.Generator | None = None,
    output_tokens: NDArray[np.integer[Any]] | None = None,
    on_progress: Progress | None = None,
) -> Classifier:
    """Return a classifier that has learnt a workload's requests, in their order.

    Parameters
    ----------
    workload : Workload
        Every request is learnt whole.
    spec, rng, output_tokens
        As for `make_classifier`. An oracle is told the lengths of the workload to be evaluated.
    on_progress : callable or None
        Called now and then with the part that has been learnt, in [0, 1].

    Returns
    -------
    Classifier
        Ready to be evaluated, used or saved.

    Examples
    --------
    >>> lengths = np.full(200, 7, np.int32)
    >>> workload = Workload(name="sevens", prompt_tokens=lengths, output_tokens=lengths)
    >>> classifier = fit(workload, "survival")
    >>> classifier.p_finish(requests_of(workload, np.array([0]), np.array([6])), 1).round(2)
    array([1.])
    """
    classifier = make_classifier(spec, rng=rng, output_tokens=output_tokens)
    for first in range(0, workload.num_requests, TAUGHT_REQUESTS):
        _teach(classifier, workload, first)
        if on_progress is not None:
            on_progress(first / workload.num_requests)
    return classifier


def _teach(classifier: Classifier, workload: Workload, first: int) -> None:
    rows = np.arange(first, min(first + TAUGHT_REQUESTS, workload.num_requests))
    ended = requests_of(workload, rows, workload.output_tokens[rows].astype(np.int64))
    classifier.learn(ended, np.zeros(len(rows), np.int64), np.ones(len(rows), np.bool_))


def evaluate(
    classifier: Classifier,
    workload: Workload,
    horizon: int,
    *,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    is_taught: bool = False,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Measure a classifier on requests as a router finds them running.

    Parameters
    ----------
    classifier : Classifier
        An oracle must have been told this workload's lengths.
    workload : Workload
        Later than what the classifier has learnt, see `split_by_time`.
    horizon : int
        H, in steps, at least 1.
    num_samples : int
        Samples, at least 1; see `snapshot`.
    is_taught : bool
        Teach the classifier each request after it was asked about it, as happens in use. Otherwise
        it learns nothing here.
    on_progress : callable or None
        Called now and then with the part that has been asked about, in [0, 1].

    Returns
    -------
    Evaluation
        The figures.

    Examples
    --------
    >>> lengths = np.array([1, 3], np.int32)
    >>> workload = Workload(name="two", prompt_tokens=lengths, output_tokens=lengths)
    >>> oracle = make_classifier("oracle", output_tokens=lengths)
    >>> result = evaluate(oracle, workload, horizon=1, num_samples=4)
    >>> result.end_ratio, result.auc, result.brier, result.mae_steps
    (0.5, 1.0, 0.0, 0.0)
    """
    horizon = checked_horizon(horizon)
    rows, ages = snapshot(workload, num_samples)
    remaining = workload.output_tokens[rows] - ages
    has_ended = remaining <= horizon
    p_finish, mean_steps = np.empty(num_samples), np.empty(num_samples)
    chunk = TAUGHT_REQUESTS if is_taught else workload.num_requests
    for first in range(0, workload.num_requests, chunk):
        asked = slice(*np.searchsorted(rows, [first, first + chunk]))
        requests = requests_of(workload, rows[asked], ages[asked])
        p_finish[asked] = classifier.p_finish(requests, horizon)
        mean_steps[asked] = classifier.mean_remaining(requests, horizon)
        if is_taught:
            _teach(classifier, workload, first)
        if on_progress is not None:
            on_progress(first / workload.num_requests)
    steps = expected_steps(p_finish, mean_steps, horizon)
    return Evaluation(
        horizon=horizon,
        num_samples=num_samples,
        end_ratio=float(has_ended.mean()),
        auc=auc(p_finish, has_ended),
        brier=float(np.mean((p_finish - has_ended) ** 2)),
        mae_steps=float(np.mean(np.abs(steps - np.minimum(remaining, horizon)))),
        bins=calibration(p_finish, has_ended),
    )


def snapshot(workload: Workload, num_samples: int) -> tuple[Int64Array, Int64Array]:
    """Return rows and ages, in proportion to how often a router finds a request at an age.

    Each pair of a request and one of its ages 0..D - 1 is as likely as any other, so requests
    count in proportion to their length. The samples lie evenly over all pairs, in order.

    Examples
    --------
    >>> lengths = np.array([1, 3], np.int32)
    >>> workload = Workload(name="two", prompt_tokens=lengths, output_tokens=lengths)
    >>> snapshot(workload, 4)
    (array([0, 1, 1, 1]), array([0, 0, 1, 2]))
    """
    if num_samples < 1:
        raise ConfigError(f"num_samples must be at least 1, got {num_samples}")
    ends = np.cumsum(workload.output_tokens, dtype=np.int64)
    places = ((np.arange(num_samples) + 0.5) / num_samples * ends[-1]).astype(np.int64)
    rows: Int64Array = np.searchsorted(ends, places, side="right")
    return rows, places - (ends[rows] - workload.output_tokens[rows])


def auc(scores: Float64Array, is_positive: BoolArray) -> float | None:
    """Return the area under the ROC curve, by mean ranks; None if one of the classes is empty.

    Examples
    --------
    >>> auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    num_positive = int(is_positive.sum())
    num_pairs = num_positive * (len(scores) - num_positive)
    if not num_pairs:
        return None
    _, place, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(sizes) - (sizes - 1) / 2
    rank_sum = float(mean_ranks[place][is_positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / num_pairs


def calibration(probs: Float64Array, has_ended: BoolArray) -> tuple[Bin, ...]:
    """Return mean probability and share of ends by tenths of the probability.

    Examples
    --------
    >>> calibration(np.array([0.0, 0.05, 1.0]), np.array([False, True, True]))
    (Bin(number=0, num_samples=2, mean_prob=0.025, end_ratio=0.5),
     Bin(number=9, num_samples=1, mean_prob=1.0, end_ratio=1.0))
    """
    tenth = np.minimum((probs * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    return tuple(
        Bin(
            number=number,
            num_samples=int(is_in.sum()),
            mean_prob=float(probs[is_in].mean()),
            end_ratio=float(has_ended[is_in].mean()),
        )
        for number, is_in in ((number, tenth == number) for number in range(NUM_BINS))
        if is_in.any()
    )
