"""The simulator against queueing theory and the mean-field formulas of design section 7.

Tolerances of sampled means are four standard errors of the run itself: batch means where samples
depend on one another, with batches far longer than their memory. Seeds are fixed, so a test that
passes once always passes; a wrong formula or a wrong simulator is off by many standard errors.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from balanceroute.sim.config import StepTime
from balanceroute.types import RunRecords, StepRecords
from balanceroute.workload import poisson_arrivals
from tests.sim.runs import EIGHTH_A_TOKEN, SECOND_A_STEP, make_workload, run

NUM_STANDARD_ERRORS = 4
NUM_BATCHES = 40


def mean_and_error(values: NDArray[Any]) -> tuple[float, float]:
    """Return the mean of a stationary sequence and its standard error, by batch means."""
    size = len(values) // NUM_BATCHES
    means = values[: size * NUM_BATCHES].reshape(NUM_BATCHES, size).mean(axis=1)
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(NUM_BATCHES))


def wait_s(records: RunRecords) -> NDArray[np.float64]:
    waits: NDArray[np.float64] = records.requests.admitted_s - records.requests.arrival_s
    return waits


def queue_with(
    outputs: NDArray[Any], rate_per_s: float, step_s: float, seed: int
) -> tuple[RunRecords, NDArray[np.float64]]:
    """Run one rank with one slot and steps of constant length; return the services too."""
    arrival_s = poisson_arrivals(len(outputs), rate_per_s, np.random.default_rng(seed))
    records = run(
        make_workload(np.ones(len(outputs)), outputs, arrival_s),
        "fcfs",
        step_time=StepTime(name="", constant_s=step_s, s_per_token=0.0),
    )
    return records, outputs * step_s


# -------------------------------------------------------------------------------- Little's law


def area_under_steps(steps: StepRecords) -> float:
    """Return the integral over time of the requests on the ranks, in request-seconds."""
    return float(np.sum(steps.duration_s * (steps.num_running + steps.num_waiting)))


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        ({"binding": "pooled"}, "br_0"),
        ({"binding": "immediate"}, "vllm"),
        ({"binding": "immediate", "kv_tokens": 120}, "least_tokens"),
        ({"binding": "immediate", "kv_tokens": 120, "prefill_budget_tokens": 8}, "round_robin"),
        ({"binding": "pooled", "staleness_s": 3.0}, "least_requests"),
    ],
)
def test_littles_law_on_the_ranks(settings: dict[str, Any], policy: str) -> None:
    """L = λW: what the steps count of requests is what the requests spent, to rounding.

    A request is on the ranks from the first step that begins after it was sent until it finishes.
    Requests are sent on arrival under immediate binding, at admission when pooled. Both sides are
    sums of the same step durations; a sum of n positive floats is off by at most n eps of itself.
    """
    rng = np.random.default_rng(3)
    n = 600
    workload = make_workload(
        rng.integers(1, 40, n), rng.integers(1, 30, n), poisson_arrivals(n, 0.08, rng)
    )
    records = run(workload, policy, num_ranks=3, num_slots=4, step_time=EIGHTH_A_TOKEN, **settings)
    requests, steps = records.requests, records.steps
    is_pooled = settings["binding"] == "pooled"
    sent_s = requests.admitted_s if is_pooled else requests.arrival_s
    entered_s = steps.start_s[np.searchsorted(steps.start_s, sent_s)]
    spent_s = float(np.sum(requests.finished_s - entered_s))
    rel = (len(steps.start_s) + n) * np.finfo(float).eps
    assert spent_s == pytest.approx(area_under_steps(steps), rel=rel)
    if "kv_tokens" in settings:
        assert requests.num_preemptions.sum() > 0  # the law was tested with recomputation too


def test_littles_law_in_the_pool_and_on_the_ranks_together() -> None:
    """Requests in the whole system: arrived less finished, integrated over time, is N times W.

    The pool's share is Σ (admitted - arrival), the ranks' share what the steps count; together
    they are Σ (finished - arrival), exactly but for rounding.
    """
    rng = np.random.default_rng(4)
    n = 500
    arrival_s = poisson_arrivals(n, 0.3, rng)
    records = run(
        make_workload(rng.integers(1, 9, n), rng.integers(1, 20, n), arrival_s),
        "br_0",
        num_ranks=2,
        num_slots=3,
        step_time=EIGHTH_A_TOKEN,
    )
    sojourn_s = float(np.sum(records.requests.finished_s - arrival_s))
    together_s = float(wait_s(records).sum()) + area_under_steps(records.steps)
    rel = (len(records.steps.start_s) + 2 * n) * np.finfo(float).eps
    assert sojourn_s == pytest.approx(together_s, rel=rel)
    assert wait_s(records).max() > 0


# --------------------------------------------------------------------------- M/D/1, M/G/1, M/M/1


P_LAST, RATE_PER_S = 0.05, 0.5  # steps of P_LAST seconds make services of one second on average


@functools.cache
def geometric_queue() -> tuple[RunRecords, NDArray[np.float64]]:
    outputs = np.random.default_rng(8).geometric(P_LAST, 20_000)
    return queue_with(outputs, RATE_PER_S, P_LAST, seed=9)


def test_waits_follow_lindleys_recursion() -> None:
    """One server: each wait is max(0, wait + service - gap) of the request before it.

    Times reach 4e4 s, whose rounding is 7e-12 s; over 20,000 requests that sums to 1.5e-7 s.
    """
    records, service_s = geometric_queue()
    gaps_s = np.diff(records.requests.arrival_s)
    expected = np.zeros(len(service_s))
    for i, gap_s in enumerate(gaps_s):
        expected[i + 1] = max(0.0, expected[i] + service_s[i] - gap_s)
    assert wait_s(records) == pytest.approx(expected, abs=1e-6)


def test_m_d_1() -> None:
    """Constant services: the mean wait is ρS / (2 (1 - ρ)), Pollaczek and Khinchine's."""
    service, utilisation = 5, 0.6
    outputs = np.full(12_000, service)
    records, _ = queue_with(outputs, utilisation / service, 1.0, seed=7)
    mean, error = mean_and_error(wait_s(records))
    expected = utilisation * service / (2 * (1 - utilisation))
    assert error < 0.05 * expected  # sharp enough to tell M/D/1 from M/M/1, twice as long
    assert mean == pytest.approx(expected, abs=NUM_STANDARD_ERRORS * error)


def test_m_g_1_and_its_limit_m_m_1() -> None:
    """Geometric outputs: λ E[S²] / (2 (1 - ρ)), which tends to ρ / (μ - λ) for small steps.

    With success probability p per step of p seconds, services have mean 1 s and second moment
    2 - p; an exponential service has 2, so the two closed forms differ by the factor 1 - p/2.
    """
    mean, error = mean_and_error(wait_s(geometric_queue()[0]))
    m_m_1 = RATE_PER_S / (1 - RATE_PER_S)
    m_g_1 = m_m_1 * (1 - P_LAST / 2)
    assert error < 0.05 * m_g_1
    assert mean == pytest.approx(m_g_1, abs=NUM_STANDARD_ERRORS * error)
    assert mean == pytest.approx(m_m_1, abs=NUM_STANDARD_ERRORS * error + P_LAST / 2 * m_m_1)


def test_arrivals_see_time_averages() -> None:
    """Poisson arrivals find the server free with probability 1 - ρ, whatever the services."""
    share, error = mean_and_error((wait_s(geometric_queue()[0]) == 0).astype(float))
    assert share == pytest.approx(1 - RATE_PER_S, abs=NUM_STANDARD_ERRORS * error)


# --------------------------------------------------------------------------- the stationary start


def theta(prompts: NDArray[Any], outputs: NDArray[Any]) -> tuple[float, float]:
    """Return mean and variance of a slot's load: θ = (E[DP] + E[D(D-1)/2]) / E[D], and ν²."""
    p, d = prompts.astype(float), outputs.astype(float)
    mean = (np.mean(d * p) + np.mean(d * (d - 1) / 2)) / np.mean(d)
    square = d * p**2 + p * d * (d - 1) + d * (d - 1) * (2 * d - 1) / 6
    return float(mean), float(np.mean(square) / np.mean(d) - mean**2)


def first_loads(prompts: NDArray[Any], outputs: NDArray[Any], num_seeds: int) -> NDArray[Any]:
    """Return the loads of eight ranks of 64 slots in the first step, shape (seeds, ranks)."""
    workload = make_workload(prompts, outputs)
    loads = [
        run(
            workload,
            "round_robin",
            seed=seed,
            num_ranks=8,
            num_slots=64,
            arrivals="saturated",
            pool_size=1,
            warmup_steps=0,
        ).samples.load_tokens[0]
        for seed in range(num_seeds)
    ]
    return np.array(loads)


def test_the_stationary_start_has_mean_load_theta() -> None:
    """Each rank begins with B θ tokens on average, and a variance of B ν².

    Ranks are independent sums of B independent slots, so over n of them the mean has the standard
    error sqrt(B ν² / n), and the variance that of n normals, ν² B sqrt(2 / n), within a factor for
    the kurtosis of a sum of 64, which is below 1.2 here.
    """
    rng = np.random.default_rng(12)
    outputs = rng.geometric(0.02, 300)
    prompts = 20 + outputs // 2 + rng.integers(0, 100, 300)  # correlated with the outputs
    loads = first_loads(prompts, outputs, num_seeds=40)
    mean, variance = theta(prompts, outputs)
    error = np.sqrt(64 * variance / loads.size)
    assert loads.mean() == pytest.approx(64 * mean, abs=NUM_STANDARD_ERRORS * error)
    error = 1.2 * 64 * variance * np.sqrt(2 / loads.size)
    assert loads.var(ddof=1) == pytest.approx(64 * variance, abs=NUM_STANDARD_ERRORS * error)


def test_the_envelope_of_independent_ranks() -> None:
    """The largest of eight loads lies 1.4236 standard deviations above the mean.

    Equal requests at uniform ages: a slot's load is uniform and symmetric, so a sum of 64 is normal
    but for a relative excess kurtosis of -1.2 / 64. The largest of eight normals has a standard
    deviation of 0.611 of theirs, which over 200 seeds gives the standard error below.
    """
    outputs = np.full(3, 100)
    loads = first_loads(np.full(3, 50), outputs, num_seeds=200)
    mean, variance = theta(np.full(3, 50), outputs)
    sigma = np.sqrt(64 * variance)
    assert (mean, variance) == pytest.approx((50 + 99 / 2, (100**2 - 1) / 12))
    expected = 64 * mean + 1.4236 * sigma
    error = 0.611 * sigma / np.sqrt(200)
    assert loads.max(axis=1).mean() == pytest.approx(expected, abs=NUM_STANDARD_ERRORS * error)


def test_a_saturated_run_stays_stationary() -> None:
    """Under round robin the load neither rises nor falls, and stays at G B θ on average."""
    rng = np.random.default_rng(13)
    outputs = rng.geometric(1 / 30, 30_000)
    prompts = rng.integers(1, 100, 30_000)
    records = run(
        make_workload(prompts, outputs),
        "round_robin",
        num_ranks=4,
        num_slots=25,
        arrivals="saturated",
        warmup_steps=0,
    )
    steps = records.steps
    inside = steps.start_s < records.window_s[1]
    assert (steps.num_running[inside] == 100).all()
    loads = steps.sum_load_tokens[inside]
    mean, error = mean_and_error(loads)  # batches of some 200 steps, seven outputs long
    assert error < 0.01 * mean
    assert mean == pytest.approx(100 * theta(prompts, outputs)[0], abs=NUM_STANDARD_ERRORS * error)
    early, late = np.array_split(loads, 2)
    trend, half_error = late.mean() - early.mean(), np.sqrt(2) * error
    # Each half has half the batches, so its standard error is sqrt(2) times that of the whole, and
    # the difference of two has sqrt(2) times that again.
    assert trend == pytest.approx(0.0, abs=NUM_STANDARD_ERRORS * np.sqrt(2) * half_error)


def test_refills_match_completions() -> None:
    """A saturated group makes G B tokens a step, so B / E[D] requests per rank and step end.

    Without a drain and with a stationary start this is a mean over renewals: its standard error is
    that of the mean output length over the requests that ended, by the delta method.
    """
    outputs = np.random.default_rng(14).geometric(0.1, 20_000)
    records = run(
        make_workload(np.ones(20_000), outputs),
        "fcfs",
        num_ranks=2,
        num_slots=10,
        arrivals="saturated",
        step_time=SECOND_A_STEP,
    )
    begin_s, end_s = records.window_s
    inside = (records.requests.admitted_s >= begin_s) & (records.requests.admitted_s < end_s)
    per_step = inside.sum() / (end_s - begin_s)
    expected = 20 / outputs.mean()
    error = expected * outputs.std() / outputs.mean() / np.sqrt(inside.sum())
    assert per_step == pytest.approx(expected, abs=NUM_STANDARD_ERRORS * error)
