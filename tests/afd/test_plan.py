from __future__ import annotations

import msgspec
import pytest

from balanceroute.afd.answer import Plan
from balanceroute.afd.cycle import Bundle
from balanceroute.afd.limits import default_slots
from balanceroute.afd.plan import Planner
from balanceroute.afd.profile import AttentionCost, load_profile
from balanceroute.errors import ConfigError, TraceError
from balanceroute.workload import load
from tests.afd.workloads import bundle, drawn, profile, requests

H200 = load_profile("deepseek-v3", "h200_sxm")


def with_memory(kv_tokens: int) -> Bundle:
    """Return a bundle whose attention workers hold so many tokens."""
    attention = AttentionCost(s_per_token=1e-6, constant_s=1e-3, kv_tokens=kv_tokens)
    return bundle(32, profile=profile(attention=attention))


def test_a_plan_for_measured_devices() -> None:
    """DeepSeek-V3 on H200 with B = 64 for long chats: about 15 for the 8 devices of FFN."""
    workload = load("mooncake-conversation", num_requests=50_000)
    plan = Planner(bundle=Bundle(profile=H200, num_slots=64)).plan(workload)
    assert 13 <= plan.r_star <= 17
    assert plan.r_interval.low <= plan.r_star <= plan.r_interval.high
    assert plan.r_flat.low <= plan.r_star <= plan.r_flat.high
    assert abs(plan.r_star_real - plan.r_star) < 1
    assert plan.regime == "ffn"
    assert plan.best == max(plan.curve, key=lambda each: each.value)
    assert plan.theta_interval[0] < plan.theta_tokens < plan.theta_interval[1]
    # The paper's rules see no collisions of two microbatches and no tail, and stop earlier.
    assert plan.rules.mean_field < plan.rules.gaussian < plan.r_star


def test_what_binds_moves_with_the_prompts() -> None:
    """Short ones leave FFN the longest stage, very long ones attention, for any r."""
    short, long = (requests([p, p + 1] * 500, [40] * 1000) for p in (10, 20_000))
    plans = [Planner(bundle=bundle(), max_workers=16).plan(each) for each in (short, long)]
    assert [plan.regime for plan in plans] == ["ffn", "attention"]
    assert plans[1].stages.attention_max_s > plans[1].stages.ffn_s
    assert plans[1].r_star == 16
    assert any("raise --max-workers" in note for note in plans[1].notes)


def test_a_latency_target_limits_r() -> None:
    """The largest r within it is known, and r* does not exceed it."""
    free = Planner(bundle=bundle()).plan(drawn())
    target_s = free.curve[free.r_star - 2].tpot_s * 1.0001
    held = Planner(bundle=bundle(), tpot_target_s=target_s).plan(drawn())
    assert held.r_star == held.max_r_within_tpot == free.r_star - 1
    assert held.best.tpot_s <= target_s
    assert held.max_slots_within_tpot is not None
    assert held.max_slots_within_tpot >= held.num_slots


def test_a_target_below_every_bundle_is_refused() -> None:
    """The least TPOT and the r that has it are in the message."""
    with pytest.raises(ConfigError, match=r"TPOT of 1 ms: the least .* is \d+\.\d ms, at r = 1;"):
        Planner(bundle=bundle(), tpot_target_s=0.001).plan(drawn())


@pytest.mark.slow
def test_prices_move_r() -> None:
    """The dearer FFN is, the more attention workers share it; cost is what prices make it."""
    plans = [
        Planner(bundle=bundle(), attention_price=1.0, ffn_price=price).plan(drawn())
        for price in (1.0, 1.0001, 20.0)
    ]
    assert plans[0].r_star == Planner(bundle=bundle()).plan(drawn()).r_star
    assert plans[2].r_star > plans[0].r_star
    best = plans[0].best
    per_hour = (best.r * 1.0 + 1.0) / (best.tokens_per_s * 3600)
    assert best.cost_per_million == pytest.approx(per_hour * 1e6)


def test_memory_limits_the_batch() -> None:
    """A batch that does not fit is refused with the one that would; the default fits."""
    workload = drawn()
    with pytest.raises(
        ConfigError, match=r"memory is too small .* 2 × 32 requests .*--slots \d+ fits"
    ):
        Planner(bundle=with_memory(4000)).plan(workload)
    with pytest.raises(ConfigError, match="not even one slot fits"):
        default_slots(workload, with_memory(100))
    chosen = default_slots(workload, with_memory(8000))
    plan = Planner(bundle=chosen, max_workers=8).plan(workload)
    assert plan.max_slots_by_memory is not None
    assert chosen.num_slots <= plan.max_slots_by_memory < 2 * chosen.num_slots
    assert default_slots(workload, bundle()).num_slots == 128


@pytest.mark.slow
def test_a_policy_takes_part_of_the_barrier_away() -> None:
    """With balanced routing attention of the slowest worker is nearer to the mean."""
    plain, routed = (
        Planner(bundle=bundle(16), max_workers=8, policy=policy).plan(drawn())
        for policy in (None, "br_0")
    )
    assert plain.barrier_ratio == 1.0
    assert routed.barrier_ratio < 0.6
    assert routed.curve[7].attention_s < plain.curve[7].attention_s


def test_a_longer_trace_is_surer() -> None:
    """Sixteen times the requests, about a quarter of the interval."""
    plans = [
        Planner(bundle=bundle(), max_workers=8).plan(drawn(num_requests=n)) for n in (1000, 16_000)
    ]
    widths = [plan.theta_interval[1] - plan.theta_interval[0] for plan in plans]
    assert 2.5 < widths[0] / widths[1] < 6.5


def test_a_plan_is_a_document() -> None:
    """It can be written and read back."""
    plan = Planner(bundle=bundle(), max_workers=8, num_check_cycles=200).plan(drawn())
    assert len(plan.simulated) > 3
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_workers": 0}, "--max-workers must be 1 to 10,000, got 0"),
        ({"attention_price": 1.0}, "--attention-price and --ffn-price go together"),
        (
            {"attention_price": -1.0, "ffn_price": 1.0},
            "--attention-price must be .* above 0, got -1",
        ),
        ({"tpot_target_s": 0.0}, "--tpot-target-ms must be a number above 0, got 0"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    """They name the option."""
    with pytest.raises(ConfigError, match=message):
        Planner(bundle=bundle(), **settings)  # type: ignore[arg-type]


def test_one_request_gives_no_plan() -> None:
    """Nothing tells how far off it would be."""
    with pytest.raises(TraceError, match="has 1 request"):
        Planner(bundle=bundle()).plan(requests([10], [10]))
