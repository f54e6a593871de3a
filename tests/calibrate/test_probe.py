"""What is made of the times at which a probe's tokens came."""

from __future__ import annotations

import pytest

from balanceroute.calibrate.probe import Target, sample_of

TARGET = Target(url="http://127.0.0.1:9", model="tiny", ranks=(0, 1), vocabulary=250)


def even(first_s: float, number: int) -> list[float]:
    return [first_s + 0.01 * step for step in range(number)]


def test_the_step_is_the_mean_while_all_decode() -> None:
    """From the last first token on to the first last one."""
    sample = sample_of([even(0.0, 30), even(0.1, 30)], TARGET, 1, 64)
    assert sample is not None
    assert sample.step_s == pytest.approx(0.01)
    # In the middle, at 0.195 s, one has given 20 tokens and the other 10.
    assert sample.tokens == 64 + (20 + 10) / 2


@pytest.mark.parametrize(
    "streams",
    [[even(0.0, 30), even(0.5, 30)], [[0.0] * 20 + [0.29] * 10, [0.0] * 15 + [0.29] * 15]],
    ids=["they miss each other", "they come in bursts"],
)
def test_what_shows_no_steps_is_no_sample(streams: list[list[float]]) -> None:
    """A burst would be many steps in no time."""
    assert sample_of(streams, TARGET, 1, 64) is None
