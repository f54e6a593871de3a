from __future__ import annotations

import math

import pytest
from scipy import integrate, stats

from balanceroute.afd.cycle import barrier_s, gaussian_s, mean_field_s, pipeline_s
from balanceroute.afd.loads import worker_load
from balanceroute.afd.profile import AttentionCost, FfnCost, NetworkCost
from balanceroute.afd.slots import slot_load
from balanceroute.errors import ConfigError
from tests.afd.workloads import bundle, drawn, profile, requests

THETA, NU = 900.0, 400.0


@pytest.mark.parametrize("num_workers", [1, 3, 17, 300])
def test_without_spread_the_refinement_is_the_mean_field_rule(num_workers: int) -> None:
    """ν = 0 to 1e-9, and so is the distribution of equal one-token requests."""
    plain = bundle()
    expected = mean_field_s(plain, THETA, num_workers)
    assert gaussian_s(plain, THETA, 0.0, num_workers) == pytest.approx(expected, rel=1e-9)
    load = worker_load(slot_load(requests([900] * 3, [1] * 3)), plain.num_slots)
    assert barrier_s(plain, load, num_workers) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num_workers", [1, 3, 8, 40])
def test_the_refinement_is_the_mean_of_the_larger_of_two_times(num_workers: int) -> None:
    """E[max(g, μ + σ·M)] by its density, M the largest of r normals."""
    plain = bundle()
    others = max(plain.ffn_s(num_workers), plain.network_s(num_workers))
    mean = plain.attention_s(plain.num_slots * THETA)
    spread = plain.profile.attention.s_per_token * math.sqrt(plain.num_slots) * NU

    def integrand(x: float) -> float:
        density = num_workers * stats.norm.pdf(x) * stats.norm.cdf(x) ** (num_workers - 1)
        return float(max(others, mean + spread * x) * density)

    kink = min(9.0, max(-9.0, (others - mean) / spread))
    reference = integrate.quad(integrand, -10, kink)[0] + integrate.quad(integrand, kink, 10)[0]
    assert gaussian_s(plain, THETA, NU, num_workers) == pytest.approx(reference, rel=1e-8)


def test_stages_by_hand() -> None:
    """B = 100 and r = 4 on f = 2: FFN workers get 200 requests each, and so does the network."""
    costs = profile(
        attention=AttentionCost(s_per_token=1e-6, s_per_request=2e-5, constant_s=1e-3),
        ffn=FfnCost(s_per_request=1e-5, constant_s=5e-3),
        network=NetworkCost(s_per_request=1e-6, constant_s=2e-4),
    )
    two = bundle(100, profile=costs, num_ffn_workers=2)
    assert two.attention_s(50_000) == pytest.approx(1e-3 + 2e-3 + 0.05)
    assert two.ffn_s(4) == pytest.approx(5e-3 + 2e-3)
    assert two.network_s(4) == pytest.approx(2e-4 + 2e-4)


def test_a_network_per_worker_does_not_grow_with_r() -> None:
    """The first version's communication: a constant of B."""
    costs = profile(network=NetworkCost(s_per_request=1e-6, constant_s=2e-4, carries="worker"))
    worker = bundle(100, profile=costs)
    assert worker.network_s(1) == worker.network_s(50) == pytest.approx(3e-4)


def test_one_microbatch_waits_for_every_stage() -> None:
    """Attention of the slowest, FFN and network, one after the other."""
    load = worker_load(slot_load(drawn()), 32)
    one = bundle(num_microbatches=1)
    expected = one.attention_s(load.expected_max(6)) + one.ffn_s(6) + one.network_s(6)
    assert pipeline_s(one, load, 6) == pytest.approx(expected)


def test_more_microbatches_are_never_slower_and_never_beat_a_stage() -> None:
    """Between the longest stage, to the 1e-4 that periods are measured to, and the sum."""
    load = worker_load(slot_load(drawn()), 32)
    for r in (2, 6, 20):
        times = [pipeline_s(bundle(num_microbatches=m), load, r) for m in (1, 2, 3)]
        plain = bundle()
        longest = max(plain.attention_s(load.expected_max(1)), plain.ffn_s(r))
        assert times[0] >= times[1] >= times[2] - 1e-6
        assert times[2] >= longest * (1 - 1e-4)


def test_a_free_network_and_equal_loads_give_the_papers_cycle() -> None:
    """Two microbatches hide everything but the longest stage then."""
    costs = profile(network=NetworkCost())
    load = worker_load(slot_load(requests([900] * 3, [1] * 3)), 32)
    two = bundle(profile=costs)
    for r in (2, 9, 40):
        assert pipeline_s(two, load, r) == pytest.approx(mean_field_s(two, 900.0, r), rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_slots": 0}, "--slots must be 1 to 16384, got 0"),
        ({"num_microbatches": 4}, "--microbatches must be 1 to 3, got 4"),
        ({"num_ffn_workers": 0}, "--ffn-workers must be at least 1, got 0"),
    ],
)
def test_bundles_that_cannot_be(settings: dict[str, int], message: str) -> None:
    """They name the option and its range."""
    with pytest.raises(ConfigError, match=message):
        bundle(**settings)
