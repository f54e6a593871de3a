"""What a group counts and times, per rank."""

from __future__ import annotations

from bisect import bisect_left

# The buckets of vLLM's histograms, seconds.
FIRST_TOKEN_BOUNDS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
INTER_TOKEN_BOUNDS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BOUNDS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


class Histogram:
    """Counts of values by upper bounds.

    Parameters
    ----------
    bounds : tuple of float
        Ascending; a value falls into the first bucket whose bound it does not exceed.

    Examples
    --------
    >>> histogram = Histogram((1.0, 2.0))
    >>> histogram.observe(1.0, 3)
    >>> histogram.observe(5.0)
    >>> histogram.cumulative(), histogram.total
    ([('1.0', 3), ('2.0', 3), ('+Inf', 4)], 8.0)
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value `count` times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self.total += value * count

    def cumulative(self) -> list[tuple[str, float]]:
        """Return how many values do not exceed each bound, as Prometheus has it."""
        names = [*(str(bound) for bound in self._bounds), "+Inf"]
        rows: list[tuple[str, float]] = []
        num_values = 0
        for name, count in zip(names, self._counts, strict=True):
            num_values += count
            rows.append((name, num_values))
        return rows


class Meters:
    """Latencies and ends of one rank's requests; times are of the wall, not emulated."""

    def __init__(self) -> None:
        self.first_token = Histogram(FIRST_TOKEN_BOUNDS_S)
        self.inter_token = Histogram(INTER_TOKEN_BOUNDS_S)
        self.request = Histogram(REQUEST_BOUNDS_S)
        self.num_ended = {"stop": 0, "length": 0, "abort": 0}
