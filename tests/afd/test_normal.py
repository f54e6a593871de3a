from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from balanceroute.afd.normal import expected_max_of_normals, normal_excess

SQRT_PI = math.sqrt(math.pi)
# Closed forms; for 4 and 5 with the arc sine of 1/3 and the arc tangent of the square root of 2.
CLOSED = {
    1: 0.0,
    2: 1 / SQRT_PI,
    3: 3 / (2 * SQRT_PI),
    4: 3 / SQRT_PI * (1 / 2 + math.asin(1 / 3) / math.pi),
    5: 5 / SQRT_PI * (1 / 4 + 3 / (2 * math.pi) * math.asin(1 / 3)),
}


@pytest.mark.parametrize(("num_workers", "expected"), CLOSED.items())
def test_the_largest_of_few_normals_has_a_closed_form(num_workers: int, expected: float) -> None:
    """Up to five they are known exactly."""
    assert expected_max_of_normals(num_workers) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_workers", [2, 8, 33, 128, 1000, 4096, 10_000])
def test_the_largest_of_many_normals_equals_the_density_integral(num_workers: int) -> None:
    """Another formula, ∫ x·r·φ(x)·Φ(x)^(r−1) dx, and another quadrature: to 1e-6 and better."""

    def integrand(x: float) -> float:
        log_density = stats.norm.logpdf(x) + (num_workers - 1) * stats.norm.logcdf(x)
        return float(x * num_workers * np.exp(log_density))

    reference = sum(
        integrate.quad(integrand, low, low + 1, epsabs=1e-13)[0] for low in range(-10, 12)
    )
    assert expected_max_of_normals(num_workers) == pytest.approx(reference, abs=1e-9)


@pytest.mark.parametrize("num_workers", [1, 2.5, 16, 10_000])
@pytest.mark.parametrize("z", [-500.0, -12.5, -3.0, 0.0, 0.3, 4.0, 9.0])
def test_the_excess_over_any_bound(num_workers: float, z: float) -> None:
    """E[(M − z)⁺] = E[M] − z + E[(z − M)⁺], the last by the other tail; r need not be whole."""

    def below(x: float) -> float:
        return float(np.exp(num_workers * stats.norm.logcdf(x)))

    rest = sum(integrate.quad(below, z - k - 1, z - k, epsabs=1e-13)[0] for k in range(30))
    expected = expected_max_of_normals(num_workers) - z + rest
    assert normal_excess(z, num_workers) == pytest.approx(expected, abs=1e-8)


def test_far_above_nothing_is_left() -> None:
    """And the value at the end of the panels joins it without a jump."""
    assert normal_excess(20.0, 10_000) == 0.0
    assert 0.0 <= normal_excess(13.9, 10_000) < 1e-30


def test_less_than_one_worker_is_refused() -> None:
    """There is no largest of none."""
    with pytest.raises(ValueError, match=r"at least 1, got 0\.5"):
        normal_excess(0.0, 0.5)
