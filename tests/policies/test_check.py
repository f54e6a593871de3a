"""`check_policy` passes every policy of ours and catches every kind of breach."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError, PlanError
from balanceroute.policies import Plan, check_policy, policy_names
from balanceroute.policies.base import Binding
from balanceroute.policies.classic import LeastTokens
from tests.policies.views import build

BR_0_VARIANTS = ("br_0,select_by=margin", "br_0,r_max=8", "br_0,r_max=32", "br_0,s_greedy=0")
SPECS = [name for name in policy_names() if name != "bf_io"]


@pytest.mark.parametrize("spec", [*SPECS, *BR_0_VARIANTS])
def test_every_policy_keeps_the_contract(spec: str) -> None:
    """No scenario makes one of our policies break a rule."""
    check_policy(spec)


def test_the_step_optimum_keeps_the_contract() -> None:
    """A search takes long where groups are empty: few rounds, and no more than one node each.

    Of some 340 programs nine in ten are solved to the optimum all the same.
    """
    check_policy("bf_io,max_pairs=32,max_nodes=1", rounds=8)


class Good(LeastTokens):
    """Keeps the contract; the policies below break one rule each."""

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Return what `least_tokens` plans, changed by `spoil`."""
        return self.spoil(super().plan(view, pool), view, pool)

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        """Change nothing."""
        return plan


class NamesARequestTwice(Good):
    """Rule: each request at most once."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        return Plan(np.zeros_like(plan.requests), plan.ranks)


class CountsRequestsFromOne(Good):
    """Rule: requests are positions in the pool."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        return Plan(plan.requests + 1, plan.ranks)


class CountsRanksFromOne(Good):
    """Rule: ranks are in the group."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        return Plan(plan.requests, plan.ranks + 1)


class DropsARank(Good):
    """Rule: as many ranks as requests."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        return Plan(plan.requests, plan.ranks[:-1])


class UsesFloats(Good):
    """Rule: integer arrays."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        return Plan(plan.requests, plan.ranks.astype(np.float64))


class ReturnsPairs(Good):
    """Rule: a `Plan`."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Any:
        return list(zip(plan.requests, plan.ranks, strict=True))


class IgnoresSlots:
    """Rule: no more than ``max_sends`` requests for a rank."""

    binding: ClassVar[Binding] = "pooled"

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Deal the whole pool."""
        return Plan.oldest(np.arange(len(pool)) % view.num_ranks)


class IgnoresAbsence(Good):
    """Rule: nothing for a rank without slots, even under immediate binding."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        return Plan.oldest(np.arange(len(pool)) % view.num_ranks) if view.is_immediate else plan


class IgnoresKvTokens(IgnoresSlots):
    """Rule: no more than ``free_kv_tokens`` prompt tokens for a rank."""

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Fill free slots, whatever the prompts need."""
        if view.is_immediate:
            return LeastTokens().plan(view, pool)
        return Plan.oldest(np.repeat(np.arange(view.num_ranks), view.max_sends)[: len(pool)])


class LeavesOneOut(Good):
    """Rule: immediate binding places every request."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        kept = len(plan) - int(view.is_immediate)
        return Plan(plan.requests[:kept], plan.ranks[:kept])


class WaitsForACrowd(Good):
    """Rule: an idle group gets something."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        return plan if view.is_immediate or len(pool) >= 5 else Plan.oldest(plan.ranks[:0])


class SortsThePool(Good):
    """Rule: inputs stay as they are."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        pool.prompt_tokens.sort()
        return plan


class BooksInTheView(Good):
    """Rule: inputs stay as they are."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        np.add.at(view.load_tokens, plan.ranks, 1)
        return plan


class SharesState(Good):
    """Rule: same inputs, same plan; instances must not influence one another."""

    turns = itertools.count()

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        return Plan(plan.requests, plan.ranks[:: (-1) ** next(self.turns)])


class DrawsFromElsewhere(Good):
    """Rule: chance comes from the generator given to the constructor."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        order = np.random.default_rng().permutation(len(plan))
        return Plan(plan.requests[order], plan.ranks[order])


class CannotBeEmpty(Good):
    """Rule: an empty pool is no reason to fail."""

    def spoil(self, plan: Plan, view: GroupView, pool: PoolView) -> Plan:
        assert pool.prompt_tokens.max() > 0
        return plan


BROKEN = {
    NamesARequestTwice: "request 0 is placed twice",
    CountsRequestsFromOne: "is not in 0..",
    CountsRanksFromOne: "rank 4 is not in 0..3",
    DropsARank: "requests but",
    UsesFloats: "ranks must be a one-dimensional array of integers, got float64",
    ReturnsPairs: "plan() must return a Plan, got [",
    IgnoresSlots: "gets more requests than view.max_sends allows",
    IgnoresAbsence: "rank 0 gets more requests than view.max_sends allows",
    IgnoresKvTokens: "(view.free_kv_tokens)",
    LeavesOneOut: "immediate binding places every request",
    WaitsForACrowd: "the group would stand still for ever",
    SortsThePool: "plan() changed pool.prompt_tokens",
    BooksInTheView: "plan() changed view.load_tokens",
    SharesState: "two fresh policies with the same seed and inputs differ in ranks",
    DrawsFromElsewhere: "two fresh policies with the same seed and inputs differ in requests",
    CannotBeEmpty: "plan() raised ValueError",
}


@pytest.mark.parametrize("policy", BROKEN, ids=lambda policy: policy.__name__)
def test_a_broken_rule_is_named(policy: type[Any]) -> None:
    """The error is one sentence that says where and what."""
    with pytest.raises(PlanError, match=re.escape(BROKEN[policy])) as caught:
        check_policy(policy)
    assert re.match(r"[\w ]+, (pooled|immediate) binding, round \d+: ", str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_good_policy_passes_however_it_is_given(tmp_path: Path) -> None:
    """A class, a function with or without a generator, a name, and a file will all do."""
    path = tmp_path / "mine.py"
    path.write_text("from balanceroute.policies.classic import PowerOfTwo as Mine\n")
    for policy in (
        Good,
        lambda: build("br_0,select_by=margin"),
        lambda rng: build("random", seed=int(rng.integers(9))),
        "round_robin",
        f"{path}:Mine",
    ):
        check_policy(policy, rounds=3)


def test_a_policy_without_a_binding_cannot_be_checked() -> None:
    """`binding` tells a simulation how to use a policy, so it must be there."""

    class NoBinding:
        def plan(self, view: GroupView, pool: PoolView) -> Plan:
            return LeastTokens().plan(view, pool)

    with pytest.raises(ConfigError, match="binding must be 'pooled' or 'immediate', got None"):
        check_policy(NoBinding)  # type: ignore[arg-type]


def test_no_rounds_check_nothing() -> None:
    """A check of no rounds would pass everything."""
    with pytest.raises(ConfigError, match="rounds must be at least 1, got 0"):
        check_policy("random", rounds=0)
