"""br_auto: what it promises of balance, waits, time, affinity and prediction."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from balanceroute.cluster.traits import request_traits
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.policies import Plan, Policy, check_policy, make_policy
from balanceroute.policies.auto import BrAuto
from balanceroute.policies.base import Binding
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.types import RunRecords, Workload
from tests.policies.views import make_pool, make_view

UNIT_STEPS = StepTime(name="unit", constant_s=0.01, s_per_token=1e-6)


def present_only(**settings: Any) -> BrAuto:
    """Return the policy without look-ahead, which plans for views made by hand."""
    return BrAuto(look_ahead=False, **settings)


def placed(policy: Policy, view: GroupView, pool: PoolView) -> dict[int, int]:
    """Return the rank of each placed position."""
    plan = policy.plan(view, pool)
    return dict(zip(plan.requests.tolist(), plan.ranks.tolist(), strict=True))


def saturated(
    workload: Workload, policy: str, *, num_ranks: int = 4, pool: int = 32, **settings: Any
) -> RunRecords:
    """Run a policy on a saturated group of 8 slots per rank."""
    config = SimConfig(
        step_time=UNIT_STEPS, num_ranks=num_ranks, num_slots=8, pool_size=pool, **settings
    )
    made = make_policy(policy, rng=np.random.default_rng(0), output_tokens=workload.output_tokens)
    return simulate(workload, config, made, label=policy, seed=0)


def mixed_workload(num_requests: int = 3000, seed: int = 1) -> Workload:
    """Return requests of which one in a hundred is fifty times as long as the others."""
    rng = np.random.default_rng(seed)
    prompts = rng.integers(50, 150, num_requests)
    prompts[rng.random(num_requests) < 0.01] = 5000
    outputs = rng.geometric(1 / 40, num_requests)
    return Workload(
        name="mixed",
        prompt_tokens=prompts.astype(np.int32),
        output_tokens=outputs.astype(np.int32),
    )


def waits_s(records: RunRecords) -> NDArray[np.float64]:
    """Return the waits of the requests admitted in the window."""
    requests, (begin, end) = records.requests, records.window_s
    is_counted = (requests.admitted_s >= begin) & (requests.admitted_s < end)
    waits: NDArray[np.float64] = (requests.admitted_s - requests.arrival_s)[is_counted]
    return waits


@pytest.mark.parametrize(
    "spec",
    [
        "br_auto",
        "br_auto,look_ahead=false",
        "br_auto,classifier=exact_match",
        "br_auto,classifier=oracle",
        "br_auto,patience=1.5,age_weight=0,window=3",
        "br_auto,time_load=false,affinity=false,exchange_passes=0",
    ],
)
def test_keeps_the_contract(spec: str) -> None:
    """Every setting passes every scenario."""
    outputs = np.arange(1, 20_000)

    def build(rng: np.random.Generator) -> Policy:
        return make_policy(spec, rng=rng, output_tokens=outputs)

    check_policy(build)


def test_levels_two_ranks() -> None:
    """100 + 10 and 60 + 45 are the closest that 10, 45, 30 can make of 100 and 60."""
    view = make_view(load=[100, 60], slots=1)
    assert placed(present_only(), view, make_pool([10, 45, 30])) == {0: 0, 1: 1}


def test_everybody_is_placed_heaviest_first_where_slots_abound() -> None:
    """Longest-processing-time order: 45 to the empty rank, 30 after it, 10 on top of 50."""
    view = make_view(load=[50, 0], slots=4)
    assert placed(present_only(), view, make_pool([10, 45, 30])) == {1: 1, 2: 1, 0: 0}


def test_equal_requests_go_oldest_first_and_evenly() -> None:
    """With nothing to choose by size, order of arrival decides, and no rank gets two of four."""
    view = make_view(load=[400, 400, 400, 400], slots=1)
    assert sorted(placed(present_only(), view, make_pool([100] * 9))) == [0, 1, 2, 3]


def test_a_single_rank_is_served_in_order() -> None:
    """One rank has nobody to be level with."""
    view = make_view(load=[500], slots=2)
    assert placed(present_only(), view, make_pool([70, 5, 900])) == {0: 0, 1: 0}


@given(st.lists(st.integers(1, 3000), min_size=1000, max_size=1000), st.integers(2, 12))
@settings(max_examples=10)
def test_a_burst_leaves_ranks_no_further_apart_than_one_prompt(
    prompts: list[int], num_ranks: int
) -> None:
    """Greedy by descending size: the last on the fullest rank went there when it was lowest."""
    view = make_view(load=[0] * num_ranks, slots=1000)
    ranks = placed(present_only(), view, make_pool(prompts))
    loads = np.zeros(num_ranks)
    for request, rank in ranks.items():
        loads[rank] += prompts[request]
    assert len(ranks) == len(prompts)
    assert loads.max() - loads.min() <= max(prompts)


def test_siblings_of_one_prompt_are_spread() -> None:
    """As many copies of a prompt as there are ranks go to as many ranks."""
    view = make_view(load=[900, 1000, 950, 1000], slots=4)
    traits = request_traits(4, prompt_hashes=[7] * 4)
    ranks = placed(present_only(), view, make_pool([500] * 4, traits))
    assert sorted(ranks.values()) == [0, 1, 2, 3]


def test_long_waits_are_bounded() -> None:
    """Patience holds: nobody waits beyond it by more than the overdue ahead of him explain."""
    records = saturated(mixed_workload(), "br_auto,patience=3")
    waits = waits_s(records)
    assert waits.max() < 4 * waits.mean()


def test_impatience_is_what_bounds_them() -> None:
    """Without age and with endless patience the long prompts wait; the bound is not luck."""
    records = saturated(mixed_workload(), "br_auto,patience=1e9,age_weight=0")
    waits = waits_s(records)
    assert waits.max() > 10 * waits.mean()


def test_patience_is_counted_in_measured_mean_waits() -> None:
    """A request that fits badly goes first once it has waited 4 mean waits, not before."""
    policy = present_only()
    pool = PoolView(
        ids=np.arange(101),
        prompt_tokens=np.array([9000] + [100] * 100),
        arrival_s=np.zeros(101),
    )
    # One admission a second of a hundred waiting: a mean wait is 100 s.
    first_placed = []
    for second in range(1, 420):
        view = make_view(load=[5000, 5000], slots=[0, 1], now_s=float(second))
        first_placed.append(int(policy.plan(view, pool).requests[0]))
    assert first_placed.index(0) in range(398, 412)


def test_cost_per_request_counts_as_load() -> None:
    """Ten requests of κ₀ = 100 outweigh 500 tokens more; with time_load off tokens decide."""
    view = make_view(load=[1000, 1500], running=[10, 1], slots=20, kappa0=100.0)
    pool = make_pool([50])
    assert placed(present_only(), view, pool) == {0: 1}
    assert placed(present_only(time_load=False), view, pool) == {0: 0}


def test_a_slow_rank_gets_less() -> None:
    """A rank of half the speed is level with half the tokens."""
    view = make_view(load=[600, 1000], slots=4, speeds=[0.5, 1.0])
    assert placed(present_only(), view, make_pool([50])) == {0: 1}
    assert placed(present_only(time_load=False), view, make_pool([50])) == {0: 0}


def test_affinity_holds_below_the_envelope_only() -> None:
    """The preferred rank takes the request while that does not make it the busiest."""
    traits = request_traits(1, preferred_ranks=[1], saved_tokens=[200])
    pool = make_pool([200], traits)
    fits = make_view(load=[0, 300, 500], slots=2)
    overflows = make_view(load=[0, 400, 500], slots=2)
    assert placed(present_only(), fits, pool) == {0: 1}
    assert placed(present_only(), overflows, pool) == {0: 0}
    assert placed(present_only(affinity=False), fits, pool) == {0: 0}


def test_affinity_decides_between_requests() -> None:
    """Of two equal requests the slot goes to the one whose prefix the rank has."""
    traits = request_traits(3, preferred_ranks=[-1, 1, -1], saved_tokens=[0, 100, 0])
    view = make_view(load=[1000, 500], slots=[0, 1])
    assert placed(present_only(), view, make_pool([100] * 3, traits)) == {1: 1}


def test_kv_room_is_kept() -> None:
    """A request that does not fit the rank's free KV tokens waits on."""
    view = make_view(load=[900, 0], kv=1000, slots=[1, 0])
    assert placed(present_only(), view, make_pool([300, 80, 200])) == {1: 0}


class Babbler:
    """A classifier that answers NaN and worse."""

    binding: ClassVar[Binding] = "pooled"

    def survival(self, requests: Any, horizons: Any) -> Any:
        """Return nonsense of the right shape."""
        answer = np.full((len(requests), len(horizons)), np.nan)
        answer[::2] = 7.0
        return answer

    def p_finish(self, requests: Any, horizon: int) -> Any:
        """Return nonsense."""
        return np.full(len(requests), -1.0)

    mean_remaining = p_finish

    def learn(self, requests: Any, since_tokens: Any, has_ended: Any) -> None:
        """Learn nothing."""


def test_impossible_predictions_change_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN and p > 1 are replaced by survival, so the run is the one under survival."""
    workload = mixed_workload(800)
    expected = saturated(workload, "br_auto")
    monkeypatch.setattr(
        "balanceroute.policies.projection.make_classifier", lambda *_args, **_more: Babbler()
    )
    actual = saturated(workload, "br_auto")
    assert (actual.requests.rank == expected.requests.rank).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("patience=1", "patience must be above 1 mean wait, got 1.0"),
        ("patience=nan", "patience must be above 1 mean wait, got nan"),
        ("age_weight=-1", "age_weight must be at least 0 and finite, got -1.0"),
        ("exchange_passes=-1", "exchange_passes must be at least 0, got -1"),
        ("kv_reserve=-0.1", "kv_reserve must be at least 0 and below 1, got -0.1"),
        ("window=0", "window must be at least 1, got 0"),
        ("classifier=survivor", "unknown classifier 'survivor'; did you mean 'survival'?"),
        ("classifier=oracle", "needs output_tokens"),
        ("output_tokens=3", "unknown setting 'output_tokens'"),
    ],
)
def test_bad_settings_are_named(settings: str, message: str) -> None:
    """What was wrong, the value, and what is allowed."""
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        make_policy(f"br_auto,{settings}", rng=np.random.default_rng(0))


def test_a_plan_is_a_plan() -> None:
    """An empty pool gives an empty plan."""
    plan = present_only().plan(make_view(load=[1, 2]), make_pool([]))
    assert isinstance(plan, Plan)
    assert len(plan.requests) == 0
