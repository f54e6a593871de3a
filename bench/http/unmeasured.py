"""The command without anything that measures, to tell what that costs; see `bench.http.watched`.

``python -m bench.http.unmeasured serve …``: counters and histograms do nothing, and nothing is
learned of steps.
"""

from __future__ import annotations

from typing import Any

from balanceroute.cli import main
from balanceroute.live import meters
from balanceroute.live.barrier import Barrier


class Mute:
    """Stands for any metric, and does nothing."""

    def labels(self, *_: str) -> Mute:
        """Return itself."""
        return self

    def nothing(self, *_: float) -> None:
        """Do nothing."""

    inc = observe = set = clear = nothing


def mute(*_: Any, **__: Any) -> Mute:
    """Return what does nothing, whatever it is told to be."""
    return Mute()


def no_step(*_: Any) -> None:
    """Do nothing."""


if __name__ == "__main__":
    for kind in ("Counter", "Gauge", "Histogram"):
        setattr(meters, kind, mute)
    Barrier.step = Barrier.rest = no_step  # type: ignore[method-assign,assignment]
    main()
