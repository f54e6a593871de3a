"""Mean and 95 % interval of a few repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from balanceroute.metrics.compare import spread_of

# Student's t, two-sided 95 %, for 1 to 30 degrees of freedom.
T_95 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
Z_95 = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Mean of a figure, and where the mean of ever more repeats is expected to lie.

    Attributes
    ----------
    num_values : int
        Repeats that have the figure.
    mean, low, high : float or None
        None where nothing is known: the mean without a value, the interval without two.
    """

    num_values: int
    mean: float | None
    low: float | None
    high: float | None


def t_95(num_degrees: int) -> float:
    """Return the quantile of Student's t that 2.5 % lie above.

    Beyond the table by the Cornish-Fisher expansion, right to four digits there.

    Examples
    --------
    >>> t_95(4), round(t_95(60), 3)
    (2.7764, 2.0)
    """
    if num_degrees <= len(T_95):
        return T_95[num_degrees - 1]
    return (
        Z_95
        + (Z_95**3 + Z_95) / (4 * num_degrees)
        + (5 * Z_95**5 + 16 * Z_95**3 + 3 * Z_95) / (96 * num_degrees**2)
    )


def interval_of(values: Sequence[float | None]) -> Interval:
    """Compute the mean of those values that exist, and its 95 % interval.

    Examples
    --------
    >>> interval = interval_of([1.0, 3.0, None])
    >>> interval.num_values, interval.mean, round(interval.high - interval.mean, 4)
    (2, 2.0, 12.7062)
    """
    num_values = sum(value is not None for value in values)
    spread = spread_of(values)
    if spread.mean is None or spread.std is None:
        return Interval(num_values=num_values, mean=spread.mean, low=None, high=None)
    reach = t_95(num_values - 1) * spread.std / sqrt(num_values)
    low, high = spread.mean - reach, spread.mean + reach
    return Interval(num_values=num_values, mean=spread.mean, low=low, high=high)
