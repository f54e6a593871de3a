"""What a series says of two arms, on a machine whose speed changes."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest

from bench import paired
from bench.machine import Probe
from bench.paired import FEWEST_ROUNDS, compare


def series(num_rounds: int, *, gain: float) -> list[dict[str, Any]]:
    """Return runs of "a" and "b" in which the machine's speed counts for most of the difference."""
    rng, runs = np.random.default_rng(3), []
    for seed in range(num_rounds):
        for arm, level in (("a", 1000.0), ("b", gain * 1000.0)):
            work_ms = rng.choice([0.4, 0.65])
            noise = np.exp(rng.normal(0.0, 0.02))
            figure = level * noise * (0.4 / work_ms) ** 0.9
            runs.append({"arm": arm, "seed": seed, "work_ms": work_ms, "figure": figure})
    return runs


@pytest.mark.parametrize("gain", [0.95, 1.0, 1.1])
def test_the_machines_speed_is_taken_out(gain: float) -> None:
    """The ratio is found within its error, which is a fraction of the one without the probe."""
    found = compare(series(24, gain=gain), "b", "a", "figure")
    assert abs(np.log(found["ratio_at_same_speed"] / gain)) < 3.0 * found["error_at_same_speed"]
    assert found["error_at_same_speed"] < 0.2 * found["error"]
    assert 24 == found["rounds"]


def test_few_rounds_say_less() -> None:
    """No error from one round, and no line through three."""
    assert set(compare(series(1, gain=1.0), "b", "a", "figure")) == {"rounds", "ratio"}
    few = compare(series(FEWEST_ROUNDS - 1, gain=1.0), "b", "a", "figure")
    assert set(few) == {"rounds", "ratio", "error"}


def test_the_example() -> None:
    """It is what the page says."""
    found = doctest.testmod(paired, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found == doctest.TestResults(failed=0, attempted=2)


def test_the_probe_says_how_long_its_work_takes() -> None:
    """It has looked once at least, and its work is short beside the time between two looks."""
    with Probe() as probe:
        pass
    assert 0.0 < probe.work_ms < 1e3 * Probe.LOOK_S
