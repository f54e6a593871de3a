"""What policies are told of the costs of steps and of prefix caches."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.policies.base import Binding, Plan
from balanceroute.sim.config import StepTime
from tests.sim.runs import EIGHTH_S, cached, make_config, make_workload, named, run


class Noting:
    """Least tokens, with a note of what it was told of costs and caches."""

    binding: ClassVar[Binding] = "pooled"

    def __init__(self) -> None:
        self._policy = named("least_tokens")
        self.costs: list[StepCosts | None] = []
        self.kappa0_tokens: list[float] = []
        self.cached_tokens: list[list[int]] = []

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Note what is shown and let the other policy choose."""
        self.costs.append(view.costs)
        self.kappa0_tokens.append(view.kappa0_tokens)
        self.cached_tokens.append(pool.cached_tokens.tolist())
        return self._policy.plan(view, pool)


@pytest.mark.parametrize("staleness_s", [0.0, 2.5])
def test_policies_see_costs_and_what_is_cached(staleness_s: float) -> None:
    """The costs are those of the configuration; hits are shown where they are honoured."""
    workload = cached(make_workload([9, 7, 5], [1, 1, 1], [0.0] * 3), [8, 0, 2])
    settings: dict[str, Any] = {
        "step_time": StepTime(name="", constant_s=1.0, s_per_token=EIGHTH_S, kappa0_tokens=2.0),
        "prefill_budget_tokens": 16,
        "prefill_s_per_token": 0.5,
        "prefill_shared": 0.25,
        "mixed_step_s": 0.75,
        "staleness_s": staleness_s,
    }
    noting = Noting()
    run(workload, noting, prefix_cache=True, **settings)
    expected = StepCosts(
        constant_s=1.0,
        s_per_token=EIGHTH_S,
        kappa0_tokens=2.0,
        prefill_s_per_token=0.5,
        prefill_shared=0.25,
        mixed_step_s=0.75,
        budget_tokens=16,
    )
    assert expected == make_config(**settings).costs
    assert [expected] * 3 == noting.costs
    assert [2.0] * 3 == noting.kappa0_tokens
    assert [[8, 0, 2], [0, 2], [2]] == noting.cached_tokens
    uncached = Noting()
    run(workload, uncached, **settings)
    assert [[0, 0, 0], [0, 0], [0]] == uncached.cached_tokens


def test_decode_only_ranks_have_no_budget() -> None:
    """Policies tell from the costs whether ranks prefill."""
    noting = Noting()
    run(make_workload([9], [1], [0.0]), noting)
    assert [StepCosts(constant_s=1.0, s_per_token=0.0)] == noting.costs
