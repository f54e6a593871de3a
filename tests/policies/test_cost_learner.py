"""What a policy learns of a step's cost from its views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.view import GroupView
from balanceroute.errors import ConfigError
from balanceroute.policies.cost_fit import FEWEST_SAMPLES, NUM_SAMPLES
from balanceroute.policies.cost_learner import VIEWS_DISTRUSTED, CostLearner
from tests.policies.toy_group import (
    ALL_COSTS,
    DENSE,
    EXPERTS,
    Toy,
    Work,
    jittery,
    steady,
    told_s,
    very_jittery,
)
from tests.policies.views import make_view

UNEQUAL = np.array([1.0, 0.8, 1.0, 0.9])


def errors(costs: StepCosts | None, truth: StepCosts, num_ranks: int = 4) -> NDArray[np.float64]:
    """Return how far off the times of many steps are that were never seen."""
    assert costs is not None
    rng = np.random.default_rng(99)
    found = []
    for _ in range(200):
        prompts = rng.integers(1, 2000, num_ranks) * (rng.random(num_ranks) < rng.random())
        counts, loads = rng.integers(10, 40, num_ranks), rng.integers(10_000, 50_000, num_ranks)
        work = Work(counts, loads, prompts)
        found.append(abs(told_s(costs, work) / told_s(truth, work) - 1.0))
    return np.array(found)


# ----------------------------------------------------------------------------- what can be learned


@pytest.mark.parametrize("speeds", [None, UNEQUAL])
@pytest.mark.parametrize("truth", ALL_COSTS)
def test_costs_are_recovered(truth: StepCosts, speeds: NDArray[np.float64] | None) -> None:
    """Where time follows the model and the steps differ, every figure comes out."""
    learner = Toy(truth, speeds=speeds).teach(CostLearner(budget_tokens=4096), 500)
    assert learner.costs is not None
    num_samples = learner.costs.num_samples
    expected = astuple(replace(truth, budget_tokens=4096, num_samples=num_samples))
    assert expected == pytest.approx(astuple(learner.costs), rel=2e-3, abs=1e-9)
    assert errors(learner.costs, truth).max() < 1e-3


def test_nothing_is_told_before_enough_was_seen() -> None:
    """A few dozen steps are needed; then the costs are there."""
    toy, learner = Toy(DENSE), CostLearner()
    toy.teach(learner, FEWEST_SAMPLES)
    assert learner.num_samples == FEWEST_SAMPLES - 1
    assert learner.costs is None
    toy.teach(learner, 32)
    assert errors(learner.costs, DENSE).max() < 0.03


@pytest.mark.parametrize("truth", ALL_COSTS)
def test_noise_and_outliers_do_little(truth: StepCosts) -> None:
    """With a tenth of noise and some steps ten times as long, a few per cent are left.

    512 steps fix the mean of a step to 0.5 %, a slope that explains a fifth of it to some 10 %,
    and leave open at times whether prefill is shared.
    """
    toy = Toy(truth, jitter=jittery)
    learner = toy.teach(CostLearner(), 900)
    assert learner.costs is not None
    assert errors(learner.costs, truth).mean() < 0.05
    own = (1 - truth.prefill_shared) * truth.prefill_s_per_token
    learned = (1 - learner.costs.prefill_shared) * learner.costs.prefill_s_per_token
    assert own == pytest.approx(learned, rel=0.5)  # sigma is seen or not


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_neither_side_has_the_benefit_of_the_doubt(shared: float) -> None:
    """Whether prompts hold up their own rank or all is told by what fits, however few steps."""
    truth = replace(DENSE, prefill_shared=shared)
    found = []
    for seed in range(16):
        toy = Toy(truth, num_ranks=2, jitter=very_jittery, seed=seed)
        costs = toy.teach(CostLearner(), 80).costs
        found += [] if costs is None else [costs.prefill_shared]
    assert len(found) > 12
    assert np.mean(found) == pytest.approx(shared, abs=0.3)


def test_the_same_views_give_the_same_costs() -> None:
    """Nothing in it is left to chance."""
    first, second = (Toy(EXPERTS, jitter=jittery).teach(CostLearner(), 300) for _ in range(2))
    assert first.costs is not None
    assert first.costs == second.costs


@pytest.mark.parametrize("jitter", [steady, jittery])
def test_changed_costs_are_learned_anew(jitter: Callable[[np.random.Generator], float]) -> None:
    """After a change of everything by a half, two fits later nothing is left of the old costs."""
    toy, learner = Toy(DENSE, jitter=jitter), CostLearner()
    toy.teach(learner, 2 * NUM_SAMPLES)
    toy.costs = replace(DENSE, constant_s=0.015, s_per_token=1.5e-7, prefill_s_per_token=3e-5)
    toy.teach(learner, NUM_SAMPLES)
    assert errors(learner.costs, toy.costs).max() < (0.001 if jitter is steady else 0.12)


def test_decode_steps_do_not_crowd_out_prefill() -> None:
    """Thousands of steps without prefill leave the samples with it in place."""
    toy, learner = Toy(ALL_COSTS[3]), CostLearner()
    toy.teach(learner, 200)
    assert learner._samples is not None
    prefills = learner._samples._mean_prefill[learner._samples._mean_prefill > 0.0]
    assert len(prefills) > 50
    for _ in range(4 * NUM_SAMPLES):
        learner.see(toy.view())
        toy.work(np.zeros(4, np.int64))
    kept = learner._samples._mean_prefill[learner._samples._mean_prefill > 0.0]
    assert prefills.tolist() == kept[: len(prefills)].tolist()
    assert errors(learner.costs, ALL_COSTS[3]).max() < 0.01


# --------------------------------------------------------------------------- what cannot be told


def test_equal_counts_leave_kappa0_at_zero() -> None:
    """If every rank always runs as many requests, their cost is part of the constant."""
    toy, learner = Toy(EXPERTS), CostLearner()
    counts = toy.ledger.ranks["num_running"]
    for rank in range(4):
        for _ in range(40 - int(counts[rank])):
            toy.admit(rank, 700)
    for _ in range(300):
        learner.see(toy.view())
        toy.work(np.zeros(4, np.int64))
    assert learner.costs is not None
    expected = EXPERTS.constant_s + EXPERTS.s_per_token * EXPERTS.kappa0_tokens * 40
    assert expected == pytest.approx(learner.costs.constant_s, rel=1e-3)
    assert learner.costs.kappa0_tokens == 0.0


def test_one_rank_shares_with_nobody() -> None:
    """With one rank sigma does not matter, and t_p is all there is."""
    truth = replace(DENSE, prefill_shared=0.5)
    costs = Toy(truth, num_ranks=1).teach(CostLearner(), 300).costs
    assert costs is not None
    assert costs.prefill_shared == 0.0
    assert truth.prefill_s_per_token == pytest.approx(costs.prefill_s_per_token, rel=1e-3)


def test_without_prefill_it_costs_nothing() -> None:
    """Prompts of which no step took longer: t_p is 0, and no budget is told."""
    toy, learner = Toy(replace(DENSE, prefill_s_per_token=0.0)), CostLearner()
    costs = toy.teach(learner, 300).costs
    assert costs is not None
    assert (costs.prefill_s_per_token, costs.mixed_step_s, costs.budget_tokens) == (0.0, 0.0, None)


# ------------------------------------------------------------------- what is a sample and what not


def missed(toy: Toy) -> GroupView:
    """Return the view after a second step, which nobody saw begin."""
    toy.step(toy.random_prompts())
    return toy.view()


def preempted(toy: Toy) -> GroupView:
    toy.ledger.preempt(toy.running.pop())
    return toy.view()


def aborted(toy: Toy) -> GroupView:
    toy.ledger.finish(toy.running.pop(), has_completed=False)
    return toy.view()


def idle(toy: Toy) -> GroupView:
    """Return the view after the last requests have ended, at a time when nothing has run."""
    while toy.running:
        toy.ledger.finish(toy.running.pop())
    toy.now_s += 5.0
    return toy.view()


@pytest.mark.parametrize(
    "disturbed",
    [
        missed,
        preempted,
        aborted,
        idle,
        lambda toy: toy.view(is_immediate=True),
        lambda toy: toy.view(now_s=0.0),
        lambda toy: toy.view(clocks=toy.ledger.ranks["clock"] - np.array([0, 0, 0, 1])),
        lambda toy: toy.view(clocks=toy.ledger.ranks["clock"] + 7),
    ],
)
def test_gaps_give_no_sample(disturbed: Callable[[Toy], GroupView]) -> None:
    """A step is learned from only if two views show it and nothing else."""
    toy, learner = Toy(DENSE), CostLearner()
    toy.teach(learner, 10)
    assert learner.num_samples == 9
    learner.see(disturbed(toy))
    assert learner.num_samples == 9


def test_a_plan_called_twice_is_no_gap() -> None:
    """Two views at one boundary, with sends between, show the step after them whole."""
    toy, learner = Toy(DENSE), CostLearner()
    for _ in range(100):
        learner.see(toy.view())
        handle = toy.ledger.send(rank=0, prompt_tokens=100)
        learner.see(toy.view())
        toy.ledger.finish(handle)
        learner.see(toy.view())
        toy.step(toy.random_prompts())
    assert errors(learner.costs, DENSE).max() < 1e-3


@pytest.mark.parametrize("is_known", [False, True])
def test_old_views_are_distrusted(is_known: bool) -> None:
    """One that counts requests that have ended, or stands still, spoils the next ones too."""
    toy, learner = Toy(DENSE), CostLearner()
    toy.teach(learner, 300 if is_known else 10)
    num_before = learner.num_samples
    learner.see(toy.view(num_inflight_reqs=toy.ledger.ranks["num_running"] - 1))
    toy.teach(learner, VIEWS_DISTRUSTED - 1)
    assert learner.num_samples == (num_before if is_known else 0)
    toy.teach(learner, 10)
    assert learner.num_samples > (num_before if is_known else 0)
    num_before = learner.num_samples
    toy.now_s += 1.0
    learner.see(toy.view(clocks=toy.ledger.ranks["clock"] - 1))
    toy.teach(learner, VIEWS_DISTRUSTED - 1)
    assert learner.num_samples <= num_before


def test_another_group_is_learned_anew() -> None:
    """With another number of ranks what was learned is kept until more is known."""
    learner = Toy(DENSE).teach(CostLearner(), 100)
    before = learner.costs
    other = Toy(EXPERTS, num_ranks=3)
    other.teach(learner, 20)
    assert learner.costs is before
    assert learner.num_samples == 19
    other.teach(learner, 200)
    assert errors(learner.costs, EXPERTS, num_ranks=3).max() < 1e-3


def test_views_have_to_show_requests() -> None:
    """Without clocks and events a step cannot be seen."""
    with pytest.raises(ConfigError, match="set follows_requests on the policy"):
        CostLearner().see(make_view(load=[1, 2]))
    with pytest.raises(ConfigError, match="budget_tokens must be at least 1, got 0"):
        CostLearner(budget_tokens=0)
