"""Energy of the ranks, from how busy each was in each step."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyModel:
    """Power of one rank between idle and full work.

    Implements the model of [1]_ for a rank with usage ``u`` = its work / the slowest rank's::

        P(u) = P_idle + (P_max - P_idle) * u ** 0.7

    The records carry the sum of ``u ** 0.7``, so the exponent is theirs and not a setting.

    Parameters
    ----------
    idle_w, max_w : float
        Power at u = 0 and at u = 1, watts; ``0 <= idle_w <= max_w``. The defaults are those
        of [1]_.

    Raises
    ------
    ConfigError
        If the powers are not finite, negative, or the wrong way round.

    References
    ----------
    .. [1] BF-IO, "A Universal Load Balancing Principle…",
       arXiv 2601.17855.
    """

    idle_w: float = 100.0
    max_w: float = 400.0

    def __post_init__(self) -> None:
        """Refuse powers that no rank can have."""
        if not (isfinite(self.max_w) and 0.0 <= self.idle_w <= self.max_w):
            raise ConfigError(
                f"power must satisfy 0 <= idle_w <= max_w, got idle_w={self.idle_w} W and "
                f"max_w={self.max_w} W; correct the energy model"
            )

    def energy_j(
        self,
        duration_s: NDArray[np.float64],
        sum_usage_pow: NDArray[np.float64],
        *,
        num_ranks: int,
    ) -> float:
        """Add up the energy of all ranks over all steps.

        Parameters
        ----------
        duration_s : float64 array, shape (T,)
            Length of each step, seconds.
        sum_usage_pow : float64 array, shape (T,)
            Sum over ranks of ``u ** 0.7``, in [0, num_ranks].
        num_ranks : int
            G. Ranks without load draw `idle_w`.

        Returns
        -------
        float
            Joules. Lower is better.

        Examples
        --------
        Two ranks for 2 s, one at full work and one idle, draw 400 W and 100 W:

        >>> EnergyModel().energy_j(np.array([2.0]), np.array([1.0]), num_ranks=2)
        1000.0
        """
        dynamic_w = self.max_w - self.idle_w
        idle_j = num_ranks * self.idle_w * float(np.sum(duration_s))
        return idle_j + dynamic_w * float(np.dot(duration_s, sum_usage_pow))
