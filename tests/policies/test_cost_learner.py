"""What a policy learns of a step's cost from its views, and costs as a user writes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.ledger import Ledger
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.policies.base import Binding, Plan
from balanceroute.policies.classic import LeastTokens
from balanceroute.policies.cost_fit import FEWEST_SAMPLES, NUM_SAMPLES
from balanceroute.policies.cost_learner import VIEWS_DISTRUSTED, CostLearner
from balanceroute.policies.costs import parse_costs
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.specs import read_settings
from balanceroute.types import Workload
from tests.policies.views import make_view

DENSE = StepCosts(constant_s=9.775e-3, s_per_token=1.005e-7, prefill_s_per_token=2e-5)
EXPERTS = StepCosts(
    constant_s=0.02, s_per_token=2.2e-8, kappa0_tokens=1900.0, prefill_s_per_token=1e-5
)
ALL_COSTS = [
    replace(costs, prefill_shared=shared, mixed_step_s=mixed)
    for costs in (DENSE, EXPERTS)
    for shared in (0.0, 0.5)
    for mixed in (0.0, 3e-3)
]
UNEQUAL = np.array([1.0, 0.8, 1.0, 0.9])


class Work(NamedTuple):
    """What each rank does in a step."""

    num_running: NDArray[Any]
    load_tokens: NDArray[Any]
    prefilled_tokens: NDArray[Any]


def told_s(costs: StepCosts, step: Any, speeds: NDArray[np.float64] | float = 1.0) -> float:
    """Return what a step takes, the equation written out once more."""
    t_p, shared, p = costs.prefill_s_per_token, costs.prefill_shared, step.prefilled_tokens
    own_s = costs.constant_s + (1 - shared) * t_p * p + costs.mixed_step_s * (p > 0)
    own_s = own_s + costs.s_per_token * (costs.kappa0_tokens * step.num_running + step.load_tokens)
    return float((own_s / speeds).max() + shared * t_p * p.mean())


def steady(rng: np.random.Generator) -> float:
    return 1.0


def jittery(rng: np.random.Generator) -> float:
    """Return a factor for a step's time: a tenth of noise, and a hundredth ten times as long."""
    return max(0.5, 1 + 0.1 * rng.standard_normal()) * (10.0 if rng.random() < 0.01 else 1.0)


class Toy:
    """A group that computes a prompt of any length in a step, and ends requests by chance."""

    def __init__(
        self,
        costs: StepCosts,
        *,
        num_ranks: int = 4,
        speeds: NDArray[np.float64] | None = None,
        jitter: Callable[[np.random.Generator], float] = steady,
        seed: int = 0,
    ) -> None:
        self.costs, self.speeds, self.jitter = costs, speeds, jitter
        self.now_s, self.rng = 0.0, np.random.default_rng(seed)
        self.ledger = Ledger(num_ranks=num_ranks, keeps_events=True)
        self.running: list[int] = []
        for rank in range(num_ranks):
            for _ in range(self.rng.integers(10, 40)):
                self.admit(rank, int(self.rng.integers(1, 2000)))

    def admit(self, rank: int, prompt_tokens: int) -> None:
        handle = self.ledger.send(rank=rank, prompt_tokens=prompt_tokens)
        self.ledger.start(handle)
        self.ledger.prefill(handle, prompt_tokens)
        self.running.append(handle)

    def view(self, **changes: Any) -> GroupView:
        """Return what a policy is handed at this moment, but for the changes."""
        ranks = self.ledger.ranks
        limits = np.full(len(ranks), 1 << 40)
        view = GroupView.of_accounts(
            ranks,
            ranks,
            now_s=self.now_s,
            is_immediate=False,
            num_slots=limits,
            kv_capacity_tokens=limits,
            speeds=self.speeds,
        )
        events = self.ledger.take_events()
        view = view.with_requests(self.ledger.accounts.entries, ranks["clock"], events)
        return replace(view, **changes)

    def random_prompts(self) -> NDArray[np.int64]:
        """Return a prompt for some of the ranks; in a good fifth of the steps for none."""
        has_one = self.rng.random(self.ledger.num_ranks) < 0.3 * (self.rng.random() < 0.8)
        prompts: NDArray[np.int64] = has_one * self.rng.integers(1, 2000, len(has_one))
        return prompts

    def step(self, prompts: NDArray[np.int64]) -> None:
        """Make a step in which each rank prefills so much, and after which some requests end."""
        for rank in np.flatnonzero(prompts):
            self.admit(int(rank), int(prompts[rank]))
        self.work(prompts)
        ending = [handle for handle in self.running if self.rng.random() < 0.01]
        for handle in ending:
            self.ledger.finish(handle)
            self.running.remove(handle)

    def work(self, prompts: NDArray[np.int64]) -> None:
        """Let the time of a step pass, and each request get its token."""
        ranks = self.ledger.ranks
        work = Work(ranks["num_running"], ranks["load_tokens"], prompts)
        speeds = 1.0 if self.speeds is None else self.speeds
        self.now_s += told_s(self.costs, work, speeds) * self.jitter(self.rng)
        for rank in range(len(ranks)):
            self.ledger.step(rank)

    def teach(self, learner: CostLearner, num_steps: int) -> CostLearner:
        """Show the learner a view before each of so many steps."""
        for _ in range(num_steps):
            learner.see(self.view())
            self.step(self.random_prompts())
        return learner


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
    expected = astuple(replace(truth, budget_tokens=4096))
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


# ------------------------------------------------------------------------------ in the simulator


class Checked(CostLearner):
    """Notes how far each step is from what the costs tell before it is learned from."""

    def __init__(self, truth: StepCosts, speeds: tuple[float, ...]) -> None:
        super().__init__()
        self.truth, self.speeds = truth, np.array(speeds) if speeds else 1.0
        self.errors: list[float] = []
        self.misread: list[float] = []

    def _step_between(self, *args: Any) -> Any:
        step = super()._step_between(*args)
        if step is not None:
            true_s = told_s(self.truth, step, self.speeds)
            self.misread.append(abs(step.duration_s / true_s - 1))
            if self.costs is not None:
                self.errors.append(abs(told_s(self.costs, step, self.speeds) / true_s - 1))
        return step


class Learning:
    """Places requests as `least_tokens` does, and learns."""

    binding: ClassVar[Binding] = "pooled"
    follows_requests: ClassVar[bool] = True

    def __init__(self, learner: CostLearner, jitter: Callable[..., float] = steady) -> None:
        self._learner, self._jitter = learner, jitter
        self._inner, self._rng = LeastTokens(), np.random.default_rng(5)
        self._last_s, self._now_s = 0.0, 0.0

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Learn by a clock with jitter."""
        self._now_s += (view.now_s - self._last_s) * self._jitter(self._rng)
        self._last_s = view.now_s
        self._learner.see(replace(view, now_s=self._now_s))
        return self._inner.plan(view, pool)


def simulated(
    truth: StepCosts, arrivals: str, jitter: Callable[..., float] = steady, **settings: Any
) -> Checked:
    """Learn in a run of chat-like requests, budget 2,048."""
    rng = np.random.default_rng(3)
    prompts = np.clip(rng.lognormal(6.5, 1.1, 1000), 8, 14_000).astype(np.int32)
    workload = Workload(
        name="chat",
        prompt_tokens=prompts,
        output_tokens=np.clip(rng.lognormal(5.0, 0.8, 1000), 1, 1500).astype(np.int32),
        arrival_s=None if arrivals == "saturated" else np.cumsum(rng.exponential(0.025, 1000)),
        cached_tokens=(prompts * rng.random(1000) * 0.9).astype(np.int32),
    )
    defaults: dict[str, Any] = {
        "num_ranks": 4,
        "prefill_budget_tokens": 2048,
        "prefill_s_per_token": truth.prefill_s_per_token,
        "prefill_shared": truth.prefill_shared,
        "mixed_step_s": truth.mixed_step_s,
        "warmup_steps": 0,
    }
    step_time = StepTime(
        name="test",
        constant_s=truth.constant_s,
        s_per_token=truth.s_per_token,
        kappa0_tokens=truth.kappa0_tokens,
    )
    config = SimConfig(step_time=step_time, arrivals=arrivals, **(defaults | settings))  # type: ignore[arg-type]
    learner = Checked(truth, config.rank_speeds)
    simulate(workload, config, Learning(learner, jitter))
    return learner


@pytest.mark.parametrize(
    ("arrivals", "settings"),
    [
        ("trace", {}),
        ("saturated", {"rank_speeds": (1.0, 0.7, 0.9, 1.0)}),
        ("trace", {"kv_tokens": 24_000}),  # preemptions
        ("saturated", {"prefix_cache": True}),
        ("trace", {"kv_tokens": 30_000, "prefix_cache": True}),
    ],
)
def test_views_tell_what_ranks_did(arrivals: str, settings: dict[str, Any]) -> None:
    """Each step taken as a sample is as long as what is read from the views says."""
    learner = simulated(ALL_COSTS[-1], arrivals, **settings)
    assert learner.num_samples > 100
    assert max(learner.misread) < 1e-9


@pytest.mark.parametrize("arrivals", ["trace", "saturated"])
@pytest.mark.parametrize("truth", ALL_COSTS)
def test_steps_to_come_are_told(truth: StepCosts, arrivals: str) -> None:
    """Also where the policy's own doing decides what it sees; and the budget is the engine's."""
    learner = simulated(truth, arrivals)
    costs = learner.costs
    assert costs is not None
    assert costs.budget_tokens == 2048
    assert np.mean(learner.errors) < 0.003
    assert np.quantile(learner.errors, 0.99) < 0.03
    own = (1 - truth.prefill_shared) * truth.prefill_s_per_token
    assert own == pytest.approx((1 - costs.prefill_shared) * costs.prefill_s_per_token, rel=0.02)


@pytest.mark.parametrize("arrivals", ["trace", "saturated"])
@pytest.mark.parametrize("truth", [ALL_COSTS[0], ALL_COSTS[-1]])
def test_steps_to_come_are_told_despite_noise(truth: StepCosts, arrivals: str) -> None:
    """With a jittery clock, to a few per cent."""
    learner = simulated(truth, arrivals, jittery)
    assert np.mean(learner.errors) < 0.03


@pytest.mark.parametrize("staleness_s", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("arrivals", ["trace", "saturated"])
def test_stale_views_teach_nothing(arrivals: str, staleness_s: float) -> None:
    """Rather than something wrong."""
    assert simulated(DENSE, arrivals, staleness_s=staleness_s).costs is None


def test_decode_only_ranks_have_no_budget() -> None:
    """Where prompts are resident at once, prefill costs nothing."""
    truth = replace(EXPERTS, prefill_s_per_token=0.0)
    learner = simulated(truth, "saturated", prefill_budget_tokens=None)
    assert learner.costs is not None
    assert (learner.costs.prefill_s_per_token, learner.costs.budget_tokens) == (0.0, None)
    assert max(learner.errors) < 0.01


# ------------------------------------------------------------------------------- costs as written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.02:2.2e-8:1900:1e-5:2048", replace(EXPERTS, budget_tokens=2048)),
        (
            "0.02:2.2e-8:1900:1e-5:2048:0.5:3e-3",
            replace(EXPERTS, budget_tokens=2048, prefill_shared=0.5, mixed_step_s=3e-3),
        ),
        ("0.01:0:0:0:1", StepCosts(constant_s=0.01, s_per_token=0.0, budget_tokens=1)),
    ],
)
def test_costs_are_read(text: str, expected: StepCosts) -> None:
    """As the value of a setting among others."""
    settings = read_settings(
        "policy p", f"window=64,costs={text},x=1".split(","), ["costs", "window", "x"]
    )
    assert expected == parse_costs(settings["costs"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "costs must be C:TL:KAPPA0:TP:BUDGET[:SIGMA[:M]], in seconds and tokens, got ''"),
        ("1:2:3:4", "got '1:2:3:4'; write for example 0.02:2.2e-8:1900:1e-5:2048"),
        ("1:2:3:4:5:0:0:0", "got '1:2:3:4:5:0:0:0'; write for example"),
        ("fast:0:0:0:9", "costs: C must be a number of at least 0, got 'fast'; the form is C:TL"),
        ("1:-1:0:0:9", "costs: TL must be a number of at least 0, got '-1'"),
        ("1:0:inf:0:9", "costs: KAPPA0 must be a number of at least 0, got 'inf'"),
        ("1:0:0:nan:9", "costs: TP must be a number of at least 0, got 'nan'"),
        ("1:0:0:0:0", "costs: BUDGET must be a number from 1 to 1e+12, got '0'"),
        ("1:0:0:0:1.5", "costs: BUDGET must be a whole number of tokens, got '1.5'"),
        ("1:0:0:0:9:1.5", "costs: SIGMA must be a number from 0 to 1, got '1.5'"),
        ("1:0:0:0:9:1:", "costs: M must be a number of at least 0, got ''"),
        ("0:0:0:1:9", "costs: C and TL cannot both be 0, got '0:0:0:1:9'"),
    ],
)
def test_wrong_costs_are_named(text: str, message: str) -> None:
    """What is wrong, the value got, what is allowed."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_costs(text)
