"""What a policy learns of a step's cost in the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.policies.base import Binding, Plan
from balanceroute.policies.classic import LeastTokens
from balanceroute.policies.cost_learner import CostLearner
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.types import Workload
from tests.policies.toy_group import ALL_COSTS, DENSE, EXPERTS, jittery, steady, told_s


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
