"""A toy group whose steps cost what is asked for, for the tests of what is learned of costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.ledger import Ledger
from balanceroute.cluster.view import GroupView
from balanceroute.policies.cost_learner import CostLearner

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


def very_jittery(rng: np.random.Generator) -> float:
    """Return a factor for a step's time: a fifth of noise, as where ranks share a processor."""
    return max(0.4, 1 + 0.2 * rng.standard_normal())


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
