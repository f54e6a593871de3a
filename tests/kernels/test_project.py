"""Refilled slots: the renewal equation against what a slot holds in the long run."""

import numpy as np

from balanceroute.kernels.project import gains_of, refilled_tokens


def test_refilled_slots_reach_the_long_run_mean() -> None:
    """After many outputs a slot holds θ = s + E[D(D-1)/2]/E[D], whenever it was refilled.

    Outputs are geometric with mean 50, so E[D(D-1)/2]/E[D] = 49 and θ = 100 + 49. The grid has
    parts of 5 steps, in which ends are taken to be in the middle: an error of at most 2.5 steps.
    """
    grid = np.arange(0, 1001, 5)
    running = np.exp(grid * np.log1p(-1 / 50))
    refilled = refilled_tokens((100 + grid) * running, running, 10)
    assert len(refilled) == 20
    assert abs(refilled[-1] - 149) < 2.5
    assert (np.diff(refilled) > 0).all()


def test_gains_far_ahead_forget_the_request() -> None:
    """When nearly all requests have ended and been replaced, it does not matter which it was."""
    horizons = np.arange(6) * 100
    refilled = np.full(6, 149.0)
    survival = np.exp(-horizons / 30.0)[None, :]
    short = gains_of(np.array([10]), horizons, survival, refilled, 0.0)
    long = gains_of(np.array([900]), horizons, survival, refilled, 0.0)
    assert long[0, 0] - short[0, 0] == 890
    assert abs(long[0, -1] - short[0, -1]) < 1
