"""`summarize` against figures worked by hand, and where nothing can be measured."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from balanceroute.errors import ConfigError
from balanceroute.metrics import EnergyModel, Metrics, summarize
from balanceroute.types import RunRecords
from tests.metrics.records import make_requests, make_run

NAN = float("nan")

# Three steps of 10 ms + 0.1 ms per token of the largest load on four ranks:
#   step 1  loads 100  90 70 60   0.000 .. 0.020 s   largest work 10 ms, mean work  8.00 ms
#   step 2  loads 101  91 71 61   0.020 .. 0.0401 s  largest work 10.1,  mean work  8.10
#   step 3  loads  50 150 72 62   0.0401 .. 0.0651   largest work 15.0,  mean work  8.35
LOADS = ((100, 90, 70, 60), (101, 91, 71, 61), (50, 150, 72, 62))
# Before the refill of step 3, rank 0 (its request done) stood empty and rank 1 was at 92.
REFILL_LOADS = ((0, 0, 0, 0), (101, 91, 71, 61), (0, 92, 72, 62))


def three_steps() -> RunRecords:
    """Return the run worked below."""
    return make_run(
        LOADS,
        REFILL_LOADS,
        num_tokens=(4, 4, 5),
        decision_ns=(1000, 3000, 2000),
        requests=make_requests(
            # in turn: finished with 2 tokens; with 1 token; running; in the pool; never reached
            arrival_s=(0.0, 0.0, 0.01, 0.02, NAN),
            admitted_s=(0.0, 0.02, 0.0401, NAN, NAN),
            first_token_s=(0.02, 0.0401, 0.0651, NAN, NAN),
            finished_s=(0.0401, 0.0401, NAN, NAN, NAN),
            output_tokens=(2, 1, 9, 9, 9),
            num_preemptions=(1, 0, 2, 0, 0),
        ),
    )


def test_three_steps_give_the_figures_worked_by_hand() -> None:
    """Every figure of three small steps equals the sum in the comment beside it."""
    metrics = summarize(three_steps())
    expected = {
        # (20 - 2 + 20.1 - 2 + 25 - 6.65) / (20 + 20.1 + 25) = 54.45 / 65.1
        "efficiency": 54.45 / 65.1,
        # I = 4·100 - 320 = 80; 4·101 - 324 = 80; 4·150 - 334 = 266
        "mean_imbalance_tokens": (80 + 80 + 266) / 3,
        # I = 0; 80; 4·92 - 226 = 142
        "mean_imbalance_before_refill_tokens": (0 + 80 + 142) / 3,
        # 100 - 60; 101 - 61; 150 - 50
        "mean_spread_tokens": (40 + 40 + 100) / 3,
        "idle_ratio": (2 / 10 + 2 / 10.1 + 6.65 / 15) / 3,
        # with no other term in the work, the complement of the idle ratio
        "balance_ratio": (8 / 10 + 8.1 / 10.1 + 8.35 / 15) / 3,
        "throughput_tok_per_s": 13 / 0.0651,
        "preemptions": 3,
        "num_steps": 3,
        "num_requests": 2,
        "num_tokens": 13,
        "wall_s": 0.5,
        # waits 0, 0.02 and 0.0301; the one in the pool has waited 0.0651 - 0.02
        "longest_wait_ratio": 0.0451 / (0.0501 / 3),
        "mean_step_s": 0.0651 / 3,
        # 3 · 10 ms of 65.1 ms
        "constant_ratio": 30 / 65.1,
        "mean_running_requests": 4.0,
        "num_waiting_at_end": 1,
    }
    assert {name: getattr(metrics, name) for name in expected} == pytest.approx(expected)


def test_latencies_of_three_steps() -> None:
    """Latencies count what the steps of the window brought, by quantiles between the values."""
    metrics = summarize(three_steps())
    # one request of two tokens: (0.0401 - 0.02) / 1
    assert metrics.tpot_s.mean == metrics.tpot_s.p99 == pytest.approx(0.0201)
    # 0.02, 0.0401 and 0.0551
    assert metrics.ttft_s.p50 == pytest.approx(0.0401)
    assert metrics.ttft_s.mean == pytest.approx(0.1152 / 3)
    # 0, 0.02 and 0.0301; p95 lies 0.9 of the way from the second to the third
    assert metrics.wait_s.p50 == pytest.approx(0.02)
    assert metrics.wait_s.p95 == pytest.approx(0.02 + 0.9 * 0.0101)
    # 1, 2 and 3 µs; p99 lies 0.98 of the way from the second to the third
    decisions = metrics.decision_us
    assert (decisions.p50, decisions.p99, decisions.max) == pytest.approx((2.0, 2.98, 3.0))


def test_time_weighted_figures_of_three_steps() -> None:
    """Time weights are the durations 20, 20.1 and 25 ms."""
    weighted = summarize(three_steps()).time_weighted
    assert weighted.mean_imbalance_tokens == pytest.approx((80 * 20 + 80 * 20.1 + 266 * 25) / 65.1)
    assert weighted.mean_spread_tokens == pytest.approx((40 * 20 + 40 * 20.1 + 100 * 25) / 65.1)
    assert weighted.idle_ratio == pytest.approx(
        (0.2 * 20 + 2 / 10.1 * 20.1 + 6.65 / 15 * 25) / 65.1
    )


def test_energy_by_hand() -> None:
    """Loads 100 and 0 for 20 ms draw 400 W and 100 W: 10 J; other powers scale it."""
    run = make_run(((100, 0),), num_tokens=(5,))
    assert summarize(run).energy_j == pytest.approx(10.0)
    assert summarize(run).energy_per_token_j == pytest.approx(2.0)
    # u = 50/100 on the second rank: 100 + 300·0.5**0.7 W
    half = summarize(make_run(((100, 50),)))
    assert half.energy_j == pytest.approx(0.02 * (400 + 100 + 300 * 0.5**0.7))
    assert summarize(run, energy=EnergyModel(idle_w=0.0, max_w=50.0)).energy_j == pytest.approx(1.0)


def test_worked_example_of_the_design() -> None:
    """Loads [100, 90, 70, 60] have envelope 100 and imbalance 80."""
    metrics = summarize(make_run(((100, 90, 70, 60),)))
    assert metrics.mean_imbalance_tokens == 80.0
    assert metrics.mean_spread_tokens == 40.0
    assert metrics.balance_ratio == pytest.approx(0.8)


def test_the_window_leaves_out_warm_up_and_drain() -> None:
    """A window of the second step counts that step, and only what its start and end brought."""
    metrics = summarize(replace(three_steps(), window_s=(0.02, 0.0401)))
    assert (metrics.num_steps, metrics.num_tokens) == (1, 4)
    assert metrics.mean_imbalance_tokens == 80.0
    # both requests finish at the end of step 2; the first token of request 0 came before it
    assert metrics.num_requests == 2
    assert metrics.ttft_s.mean == pytest.approx(0.0401)
    # only request 1 is admitted in it; request 2 has waited 0.0301 s at its end, request 3 0.0201
    assert metrics.wait_s.mean == pytest.approx(0.02)
    assert metrics.longest_wait_ratio == pytest.approx(0.0301 / 0.02)
    assert metrics.num_waiting_at_end == 2
    # request 2 is not yet on a rank, so its preemptions are not the window's
    assert metrics.preemptions == 1


def test_a_step_without_load_counts_as_balanced() -> None:
    """Idle ratio 0 and balance ratio 1 where nobody waits for anybody, and nothing divides by 0."""
    metrics = summarize(make_run(((0, 0),)))
    assert (metrics.efficiency, metrics.idle_ratio, metrics.balance_ratio) == (1.0, 0.0, 1.0)
    # 10 ms at 100 W on two ranks
    assert metrics.energy_j == pytest.approx(2.0)
    assert metrics.energy_per_token_j is None


def test_what_was_not_observed_is_null() -> None:
    """A run without requests or decisions has nulls in its JSON, never 0 or NaN."""
    document = msgspec.to_builtins(summarize(make_run(((5, 5),))))
    nothing = {"mean": None, "p50": None, "p95": None, "p99": None}
    assert document["tpot_s"] == document["ttft_s"] == document["wait_s"] == nothing
    assert document["decision_us"] == {"p50": None, "p99": None, "max": None}
    assert document["longest_wait_ratio"] is None


def test_nobody_waited_gives_no_ratio() -> None:
    """A mean wait of 0 is no unit to measure the longest in."""
    requests = make_requests((0.0,), (0.0,), (0.01,), (0.01,), (1,))
    assert summarize(make_run(((5, 5),), requests=requests)).longest_wait_ratio is None


def test_the_order_of_the_json_is_the_documented_one() -> None:
    """The first names are those of issue 2, in its order."""
    expected = [
        "efficiency",
        "mean_imbalance_tokens",
        "mean_imbalance_before_refill_tokens",
        "mean_spread_tokens",
        "idle_ratio",
        "balance_ratio",
        "throughput_tok_per_s",
        "tpot_s",
        "ttft_s",
        "wait_s",
        "longest_wait_ratio",
        "preemptions",
        "energy_j",
        "num_steps",
        "num_requests",
        "num_tokens",
        "decision_us",
        "wall_s",
    ]
    assert [field.name for field in msgspec.structs.fields(Metrics)][:18] == expected


def test_an_empty_window_is_refused_with_the_cure() -> None:
    """The message names the window, the number of steps and both settings."""
    run = replace(three_steps(), window_s=(9.0, 9.0))
    with pytest.raises(ConfigError, match=r"br_0: .*\[9, 9\) s.*3 steps.*--requests.*--warmup"):
        summarize(run)


@pytest.mark.parametrize(("idle_w", "max_w"), [(-1.0, 400.0), (500.0, 400.0), (NAN, NAN)])
def test_impossible_powers_are_refused(idle_w: float, max_w: float) -> None:
    """Negative, inverted and undefined powers are errors of the caller."""
    with pytest.raises(ConfigError, match="idle_w <= max_w"):
        EnergyModel(idle_w=idle_w, max_w=max_w)


def test_temporaries_stay_below_three_columns() -> None:
    """27.3 million requests must fit in 600 MB of temporaries: 22 bytes a request."""
    num_requests = 1_000_000
    times_s = np.linspace(0.0, 0.01, num_requests)
    requests = make_requests(
        times_s, times_s, times_s, times_s, output_tokens=np.full(num_requests, 2)
    )
    run = make_run(((5, 5),), requests=requests)
    tracemalloc.start()
    try:
        summarize(run)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 22 * num_requests
