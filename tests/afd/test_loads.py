from __future__ import annotations

import numpy as np
import pytest

from balanceroute.afd.loads import worker_load
from balanceroute.afd.normal import expected_max_of_normals
from balanceroute.afd.slots import slot_load
from tests.afd.workloads import drawn, requests


@pytest.mark.parametrize("num_slots", [1, 2, 16])
def test_the_grid_agrees_with_the_convolution_token_by_token(num_slots: int) -> None:
    """E[max] of up to 128 workers to a thousandth of a standard deviation."""
    slot = slot_load(drawn())
    probs = np.ones(1)
    for _ in range(num_slots):
        probs = np.convolve(probs, slot.probs)
    cdf = np.minimum(np.cumsum(probs), 1.0)
    load = worker_load(slot, num_slots)
    spread = slot.nu_tokens.value * np.sqrt(num_slots)
    for r in (1, 2, 16, 128):
        exact = num_slots * slot.least_tokens + float((1 - cdf**r).sum())
        assert load.expected_max(r) == pytest.approx(exact, abs=1e-3 * spread)


def test_many_slots_are_normal() -> None:
    """With 4,096 of them the largest of 8 is that of normals to a thousandth."""
    slot = slot_load(drawn())
    load = worker_load(slot, 4096)
    normal = 4096 * slot.theta_tokens.value
    normal += 64 * slot.nu_tokens.value * expected_max_of_normals(8)
    assert load.expected_max(8) == pytest.approx(normal, rel=1e-4)


def test_few_slots_with_a_tail_exceed_the_normal() -> None:
    """The reason for the distribution: 1 of 100 requests is a hundred times as long."""
    slot = slot_load(requests([100] * 99 + [10_000], [50] * 100))
    load = worker_load(slot, 16)
    normal = 16 * slot.theta_tokens.value
    normal += 4 * slot.nu_tokens.value * expected_max_of_normals(32)
    assert load.expected_max(32) > 1.2 * normal


@pytest.mark.parametrize("from_tokens", [0.0, 2000.0, 3000.0, 4500.0, 1e6])
def test_the_excess_over_a_bound(from_tokens: float) -> None:
    """Equals a sum over the grid; below the grid it is a difference, above it nothing."""
    load = worker_load(slot_load(drawn()), 16)
    tail = -np.expm1(8 * load.log_cdf)
    fine = np.linspace(min(from_tokens, load.tokens[0]), load.tokens[-1], 400_001)
    values = np.where(fine >= from_tokens, np.interp(fine, load.tokens, tail, left=1.0), 0.0)
    assert load.excess(from_tokens, 8) == pytest.approx(float(np.trapezoid(values, fine)), abs=0.05)


def test_bins_keep_the_mean_of_the_largest_load() -> None:
    """Whatever their number, so that linear costs are exact."""
    load = worker_load(slot_load(drawn()), 16)
    for num_bins in (4, 32):
        probs, tokens = load.max_bins(8, num_bins)
        assert float(probs.sum()) == pytest.approx(1.0)
        assert float(probs @ tokens) == pytest.approx(load.expected_max(8), rel=1e-9)
        assert (np.diff(tokens) > 0).all()


def test_squeezed_and_scaled() -> None:
    """Squeezing keeps the mean and scales the barrier; scaling scales both."""
    load = worker_load(slot_load(drawn()), 16)
    barrier = load.expected_max(8) - load.mean_tokens
    squeezed, scaled = load.squeezed(0.25), load.scaled(2.0)
    assert squeezed.expected_max(1) == pytest.approx(load.mean_tokens)
    assert squeezed.expected_max(8) - load.mean_tokens == pytest.approx(0.25 * barrier)
    assert scaled.expected_max(8) == pytest.approx(2 * load.expected_max(8))


def test_quantiles() -> None:
    """999 of 1,000 sums of slots drawn one by one stay below the quantile 0.999."""
    slot = slot_load(drawn())
    rng = np.random.default_rng(0)
    loads = slot.least_tokens + np.arange(len(slot.probs))
    sums = rng.choice(loads, size=(200_000, 16), p=slot.probs).sum(axis=1)
    limit = worker_load(slot, 16).quantile(0.999)
    assert float((sums <= limit).mean()) == pytest.approx(0.999, abs=3e-4)


def test_without_spread_there_is_one_load() -> None:
    """And the largest of any number of workers is that one."""
    load = worker_load(slot_load(requests([700] * 4, [1] * 4)), 64)
    assert [load.expected_max(r) for r in (1, 9, 128)] == [64 * 700.0] * 3
    assert load.excess(64 * 700.0 - 5, 3) == 5.0
