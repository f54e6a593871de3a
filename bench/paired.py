"""Two arms of a series that takes turns: how much higher one is, and what the machine did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_ROUNDS = 4  # from which on the machine's speed can be told from chance


def compare(
    runs: Sequence[Mapping[str, Any]], arm: str, other: str, figure: str
) -> dict[str, float]:
    """Return the ratio of a figure between two arms, and what it is at the same speed.

    Parameters
    ----------
    runs : sequence of mapping
        With "arm", "seed", "work_ms" and the figure; a round has the same seed in all arms.
    arm, other : str
        The ratio is of the first to the second.
    figure : str
        Which one.

    Returns
    -------
    dict
        "rounds"; "ratio" in their geometric mean and, from two on, its "error", which is relative
        and standard; and from four on "ratio_at_same_speed" and "error_at_same_speed": where a line
        through the rounds' ratios over those of the probe's time is at a machine as fast for both.

    Examples
    --------
    The third round's machine was half as fast for b as for a:

    >>> runs = [{"arm": arm, "seed": seed, "work_ms": work_ms, "speed": speed / work_ms}
    ...         for seed, slowness in enumerate([1.0, 1.0, 2.0, 1.0])
    ...         for arm, work_ms, speed in (("a", 1.0, 100.0), ("b", slowness, 110.0))]
    >>> compare(runs, "b", "a", "speed")
    {'rounds': 4, 'ratio': 0.925, 'error': 0.173,
     'ratio_at_same_speed': 1.1, 'error_at_same_speed': 0.0}
    """
    ratios, slowness = (_log_ratios(runs, arm, other, name) for name in (figure, "work_ms"))
    found = {"ratio": np.exp(ratios.mean())}
    if len(ratios) > 1:
        found["error"] = ratios.std(ddof=1) / np.sqrt(len(ratios))
    if len(ratios) >= FEWEST_ROUNDS:
        columns = np.column_stack([np.ones(len(ratios)), slowness])
        line, *_ = np.linalg.lstsq(columns, ratios, rcond=None)
        left = ratios - columns @ line
        variance = left @ left / (len(ratios) - 2) * np.linalg.pinv(columns.T @ columns)[0, 0]
        found |= {"ratio_at_same_speed": np.exp(line[0]), "error_at_same_speed": np.sqrt(variance)}
    figures = {name: round(float(value), 3) for name, value in found.items()}
    return {"rounds": len(ratios)} | figures


def _log_ratios(
    runs: Sequence[Mapping[str, Any]], arm: str, other: str, figure: str
) -> NDArray[np.float64]:
    """Return the logarithm of the ratio in each round."""
    of = {(run["arm"], run["seed"]): float(run[figure]) for run in runs}
    seeds = sorted(seed for name, seed in of if name == arm)
    return np.log([of[arm, seed] / of[other, seed] for seed in seeds])
