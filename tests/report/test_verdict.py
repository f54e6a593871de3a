"""Every branch of the verdict."""

from __future__ import annotations

from typing import Any

import msgspec

from balanceroute.metrics import Distribution, Metrics
from balanceroute.report import judge
from tests.report.results import GROUP, make_metrics, make_result


def seconds(mean: float | None, p99: float | None = None) -> Distribution:
    """Return a distribution of which the verdict reads mean and p99."""
    return Distribution(mean=mean, p50=mean, p95=mean, p99=mean if p99 is None else p99)


def metrics(throughput: float, efficiency: float, **changes: Any) -> Metrics:
    """Return the figures that the verdict reads: a step of 20 ms, a quarter of it constant."""
    values: dict[str, Any] = {
        "throughput_tok_per_s": throughput,
        "efficiency": efficiency,
        "tpot_s": seconds(0.02),
        "ttft_s": seconds(0.1),
        "wait_s": seconds(1.0),
        "longest_wait_ratio": 2.0,
        "balance_ratio": 0.8,
        "constant_ratio": 0.25,
        "mean_step_s": 0.02,
        "mean_running_requests": 288.0,
    }
    return make_metrics(**{**values, **changes})


BASE = metrics(1000.0, 0.8)
OPEN = msgspec.structs.replace(GROUP, arrivals="trace", pool=None)


def test_a_gain_in_throughput() -> None:
    """Tokens per second, time at the barrier and TPOT, before and after; a gain is no chance."""
    best = metrics(1200.0, 0.97, tpot_s=seconds(0.016))
    verdict = judge(make_result(("vllm", BASE), ("br_0", best)))
    assert verdict.kind == "gain"
    assert verdict.text == (
        "Moving from vllm to br_0 would give 20.0 % more output tokens per second (1,000 to "
        "1,200): ranks would wait at the barrier 3.0 % of their time instead of 20.0 %, and mean "
        "TPOT would go from 20.00 to 16.00 ms."
    )


def test_repeats_are_paired_by_seed() -> None:
    """Gains of 10 % and 12 % on very different seeds are 11 % ± 1.4 %."""
    runs = (
        ("vllm", metrics(1000.0, 0.8)),
        ("vllm", metrics(2000.0, 0.8)),
        ("br_0", metrics(1100.0, 0.9)),
        ("br_0", metrics(2240.0, 0.9)),
    )
    assert "give 11.0 % (±1.4 % over repeats) more" in judge(make_result(*runs)).text


def test_the_most_efficient_of_the_real_gains_is_best() -> None:
    """A policy that starves long prompts has more tokens per second, not more efficiency."""
    starving, fair = metrics(1300.0, 0.95), metrics(1200.0, 0.99)
    text = judge(make_result(("vllm", BASE), ("br_0", starving), ("level", fair))).text
    assert text.startswith("Moving from vllm to level would give 20.0 %")


def test_a_policy_that_passes_requests_over_is_called_out() -> None:
    """Both the ratio and the seconds are said, for the policy and for the baseline."""
    best = metrics(1200.0, 0.97, longest_wait_ratio=39.0)
    text = judge(make_result(("vllm", BASE), ("br_0", best))).text
    assert text.endswith(
        "But br_0 passes some requests over: its longest wait is 39 times the mean (39.0 s), "
        "against 2.0 times (2.0 s)."
    )


def test_a_high_ratio_of_short_waits_is_not_called_out() -> None:
    """39 mean waits of 10 ms are shorter than the 2 s of the baseline."""
    best = metrics(1200.0, 0.97, longest_wait_ratio=39.0, wait_s=seconds(0.01))
    assert "passes" not in judge(make_result(("vllm", BASE), ("br_0", best))).text


def test_a_small_gain_of_one_run_asks_for_repeats() -> None:
    """2 % of a single run may be chance."""
    text = judge(make_result(("vllm", BASE), ("br_0", metrics(1020.0, 0.9)))).text
    assert text.endswith("--repeats 3 would show whether the difference is chance.")


def test_below_saturation_the_gain_is_in_tpot() -> None:
    """Throughput is what clients ask for; first tokens that come later are said."""
    best = metrics(1000.0, 0.97, tpot_s=seconds(0.012), ttft_s=seconds(0.1, 0.59))
    text = judge(make_result(("vllm", BASE), ("waves", best), group=OPEN)).text
    assert text == (
        "Moving from vllm to waves would lower mean TPOT by 40.0 %, from 20.00 to 12.00 ms: ranks "
        "would wait at the barrier 3.0 % of their time instead of 20.0 %, while throughput stays "
        "at what the clients ask for. In return TTFT p99 would rise from 0.10 to 0.59 s."
    )


def test_a_saturated_pool_has_no_gain_in_tpot_alone() -> None:
    """There TPOT falls when fewer requests run, which is no gain."""
    best = metrics(1000.0, 0.8, tpot_s=seconds(0.012))
    assert judge(make_result(("vllm", BASE), ("br_0", best))).kind == "no_gain"


def test_outputs_of_one_token_have_no_tpot() -> None:
    """The sentence then ends without it."""
    runs = [metrics(t, e, tpot_s=seconds(None)) for t, e in ((1000.0, 0.8), (1200.0, 0.97))]
    text = judge(make_result(("vllm", runs[0]), ("br_0", runs[1]))).text
    assert text.endswith("instead of 20.0 %.")


def test_without_a_barrier_nothing_is_said_of_one() -> None:
    """A gain on independent ranks is one of queues and KV pressure."""
    group = msgspec.structs.replace(GROUP, barrier=False)
    text = judge(make_result(("vllm", BASE), ("br_0", metrics(1200.0, 0.9)), group=group)).text
    assert "barrier" not in text
    nothing = judge(make_result(("vllm", BASE), ("br_0", BASE), group=group))
    assert nothing.kind == "no_gain"
    assert "these ranks share no barrier" in nothing.text


def test_one_rank_leaves_nothing_to_choose() -> None:
    """The reason comes before all others."""
    group = msgspec.structs.replace(GROUP, ranks=1)
    text = judge(make_result(("vllm", BASE), ("br_0", BASE), group=group)).text
    assert text == (
        "You would gain nothing by moving away from vllm: with one rank there is no placement to "
        "choose."
    )


def test_a_step_of_mostly_constant() -> None:
    """The constant is named in milliseconds and as a share."""
    flat = metrics(1000.0, 0.995, constant_ratio=0.95)
    text = judge(make_result(("vllm", flat), ("br_0", flat))).text
    assert text == (
        "You would gain nothing by moving away from vllm: even perfect balance would be worth only "
        "0.50 % of throughput, because a step takes 20.00 ms on average, of which 19.00 ms "
        "(95.0 %) is a constant that no placement changes."
    )


def test_loads_that_are_even_already() -> None:
    """With even loads the constant is not what is to blame."""
    even = metrics(1000.0, 0.995, balance_ratio=0.994)
    text = judge(make_result(("vllm", even), ("br_0", even))).text
    assert text.endswith("the loads are even already (their mean is 99.4 % of the largest).")


def test_differences_within_the_spread() -> None:
    """Gains of -5 % and +9 % are 2 % on average, and chance."""
    runs = (
        ("vllm", BASE),
        ("vllm", BASE),
        ("br_0", metrics(950.0, 0.8)),
        ("br_0", metrics(1090.0, 0.8)),
    )
    text = judge(make_result(*runs)).text
    assert text.startswith(
        "No policy differs from vllm by more than the spread over repeats: the best, br_0, by "
        "2.0 % ± 9.9 %."
    )


def test_a_group_far_from_saturated() -> None:
    """4 ranks of 72 slots with 14.4 requests are 5 % in use."""
    idle = metrics(1000.0, 0.9, mean_running_requests=14.4)
    text = judge(make_result(("vllm", idle), ("br_0", idle), group=OPEN)).text
    assert "far from saturated (5.0 % of its slots are in use)" in text


def test_a_baseline_that_is_already_the_best() -> None:
    """What is left at the barrier is said all the same."""
    text = judge(make_result(("br_0", BASE), ("round_robin", metrics(900.0, 0.7)))).text
    assert text == (
        "You would gain nothing by moving away from br_0: it does as well as any policy listed, "
        "within 1 %. Its ranks still wait at the barrier 20.0 % of their time."
    )


def test_one_policy_alone() -> None:
    """The bound is said: 1 / 0.8 - 1."""
    verdict = judge(make_result(("vllm", BASE)))
    assert verdict.kind == "alone"
    assert "20.0 % of their time" in verdict.text
    assert "at most 25.0 % more tokens per second" in verdict.text
    group = msgspec.structs.replace(GROUP, ranks=1)
    assert "nothing is compared" in judge(make_result(("vllm", BASE), group=group)).text
