"""Figures of several runs side by side: mean and spread over the repeats of each policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean, stdev

from balanceroute.metrics.figures import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Mean of a figure over repeats and its sample standard deviation.

    Attributes
    ----------
    mean : float or None
        None if no repeat has the figure.
    std : float or None
        Divisor n - 1; None with fewer than two values, where nothing is known of the spread.
    """

    mean: float | None
    std: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFigures:
    """The compared figures of one policy.

    Attributes
    ----------
    policy : str
        As the user wrote it.
    num_runs : int
        Repeats.
    spreads : dict
        Figure name to its `Spread`.
    """

    policy: str
    num_runs: int
    spreads: dict[str, Spread]


def figure(metrics: Metrics, name: str) -> float | None:
    """Return a figure by its path in the JSON document, such as ``"tpot_s.p99"``."""
    value: float | None = attrgetter(name)(metrics)
    return value


def spread_of(values: Iterable[float | None]) -> Spread:
    """Compute mean and spread of those values that exist.

    Examples
    --------
    >>> spread_of([1.0, 3.0, None])
    Spread(mean=2.0, std=1.4142135623730951)
    >>> spread_of([None])
    Spread(mean=None, std=None)
    """
    known = [value for value in values if value is not None]
    return Spread(
        mean=fmean(known) if known else None,
        std=stdev(known) if len(known) >= 2 else None,
    )


def compare(
    runs: Iterable[tuple[str, Metrics]], figures: Sequence[str]
) -> tuple[PolicyFigures, ...]:
    """Aggregate figures over the runs of each policy, in the order of first appearance.

    Parameters
    ----------
    runs : iterable of (policy, Metrics)
        One pair per run.
    figures : sequence of str
        Paths as `figure` takes them.

    Returns
    -------
    tuple of PolicyFigures
        One per policy.
    """
    by_policy: dict[str, list[Metrics]] = {}
    for policy, metrics in runs:
        by_policy.setdefault(policy, []).append(metrics)
    return tuple(
        PolicyFigures(
            policy=policy,
            num_runs=len(repeats),
            spreads={name: spread_of(figure(m, name) for m in repeats) for name in figures},
        )
        for policy, repeats in by_policy.items()
    )
