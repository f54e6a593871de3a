"""How long requests are on their way from the router to the ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AT_ONCE = np.zeros(0)  # no times: requests are at the rank as soon as they are sent


class Delivery:
    """When requests reach the ranks that they are sent to.

    Each takes `delivery_s`, and what chance adds to it. That a rank gets them in the order in which
    they were sent is seen to where they arrive (`balanceroute.kernels.delivery.deliver`).

    Parameters
    ----------
    delivery_s : float
        Seconds that every request takes, at least 0.
    jitter_s : float
        Most that chance adds, seconds, at least 0; uniform from 0 on.
    rng : numpy.random.Generator
        Source of chance; not used without jitter.

    Examples
    --------
    >>> Delivery(0.25, 0.0, np.random.default_rng(0)).arrives_s(3.0, 2)
    array([3.25, 3.25])
    >>> Delivery(0.0, 0.0, np.random.default_rng(0)).arrives_s(3.0, 2)
    array([], dtype=float64)
    """

    def __init__(self, delivery_s: float, jitter_s: float, rng: np.random.Generator) -> None:
        self._delivery_s = delivery_s
        self._jitter_s = jitter_s
        self._rng = rng

    def arrives_s(self, sent_s: float, num_requests: int) -> NDArray[np.float64]:
        """Return when so many requests sent at `sent_s` arrive; `AT_ONCE` if nothing delays any."""
        if self._delivery_s == 0 and self._jitter_s == 0:
            return AT_ONCE
        times_s = np.full(num_requests, sent_s + self._delivery_s)
        if self._jitter_s > 0:
            times_s += self._rng.uniform(0.0, self._jitter_s, num_requests)
        return times_s
