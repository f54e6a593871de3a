"""What the router says that the barrier costs, against what an engine in virtual time has lost."""

from __future__ import annotations

import numpy as np
import pytest

from balanceroute.cluster.costs import StepCosts
from balanceroute.emulator.config import EngineConfig
from balanceroute.live.barrier import Barrier, Basis, LineFit
from tests.live.virtual import Virtual

DECODE = StepCosts(constant_s=0.01, s_per_token=1e-6)
PREFILL = StepCosts(constant_s=0.01, s_per_token=1e-6, prefill_s_per_token=2e-5, budget_tokens=512)


def served(costs: StepCosts, known: StepCosts | None) -> tuple[Virtual, Barrier, float]:
    """Serve by round robin, so that something is lost; return the part of time lost, too."""
    rng = np.random.default_rng(3)
    lengths = np.column_stack([rng.geometric(1 / 400, 1500), rng.geometric(1 / 60, 1500)])
    config = EngineConfig(costs=costs, num_ranks=4, num_slots=16, block_size=1)
    virtual = Virtual(config, lengths, policy="round_robin", num_waiting=16)
    virtual.group.is_immediate = False
    barrier = Barrier(virtual.group, known)
    virtual.group.on_step = barrier.step
    for _ in virtual.steps():
        pass
    totals = virtual.engine.totals
    return virtual, barrier, (totals.max_work_s - totals.mean_work_s) / totals.step_s


@pytest.mark.parametrize(
    ("costs", "is_told", "basis", "within_ratio"),
    [
        (DECODE, True, "costs", 0.03),  # loads are known to within a step's tokens
        (DECODE, False, "fit", 0.15),  # later steps, in which loads are a little different
        (PREFILL, True, "costs", 0.15),  # when a chunk was computed is booked, not seen
    ],
)
def test_the_idle_part_is_that_of_the_engine(
    costs: StepCosts, is_told: bool, basis: Basis, within_ratio: float
) -> None:
    """The engine's own sums tell what was lost; the router sees only streams and a clock."""
    virtual, barrier, lost_ratio = served(costs, costs if is_told else None)
    sums = barrier.sums
    assert basis == barrier.basis
    assert lost_ratio == pytest.approx(sums.idle_s[basis] / sums.rank_s[basis], rel=within_ratio)
    num_rank_s = virtual.now_s * virtual.config.num_ranks
    assert num_rank_s == pytest.approx(sum(sums.rank_s.values()), rel=0.02)


def test_imbalance_is_that_of_the_engines_steps() -> None:
    """The mean over steps, in tokens, by the ledger and by the engine's own log."""
    virtual, barrier, _ = served(DECODE, DECODE)
    _, steps = virtual.engine.log.since(0)
    engine = 4 * steps.max_load_tokens - steps.sum_load_tokens
    sums = barrier.sums
    assert float(np.mean(engine)) == pytest.approx(sums.imbalance_tokens / sums.num_steps, rel=0.05)


def test_a_group_without_requests_waits_at_no_barrier() -> None:
    """An hour in which nothing runs is not an hour lost."""
    virtual, barrier, _ = served(DECODE, DECODE)
    before_s = dict(barrier.sums.rank_s)
    barrier.rest()
    virtual.now_s += 3600.0
    barrier.step(0, 1, virtual.now_s)
    assert before_s == barrier.sums.rank_s


def test_a_fit_of_noise_is_none() -> None:
    """Durations that have nothing to do with loads tell no cost per token."""
    rng, fit = np.random.default_rng(0), LineFit()
    for _ in range(1000):
        fit.add(float(rng.normal(1e5, 1e4)), float(rng.normal(0.03, 0.003)))
    assert fit.terms is None or fit.terms[1] * 1e5 < 0.01
