"""What a prefix cache saves ranks that prefill, worked by hand; steps last C = 1 s and more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.sim.runs import EIGHTH_S, cached, columns, make_workload, run
from tests.sim.test_properties import same_but_for_wall_times


def test_cached_tokens_take_neither_budget_nor_time() -> None:
    """What is cached is resident from admission on; the chunks hold the rest of the prompts.

    Budget 8, t_p = 1/8 s, 3 slots. a: prompt 20, of which 16 cached, output 3; b: 6, 4, 2;
    c: 12, 2, 1; all at 0.
    """
    workload = cached(make_workload([20, 6, 12], [3, 2, 1], [0.0] * 3), [16, 4, 2])
    settings: dict[str, Any] = {
        "num_slots": 3,
        "binding": "immediate",
        "prefill_budget_tokens": 8,
        "prefill_s_per_token": EIGHTH_S,
    }
    records = run(workload, "round_robin", prefix_cache=True, **settings)
    # step  starts  decode  cached         prefill            load            lasts
    #  0    0.0     -       a 16, b 4, c 2  a 4, b 2, c 2      20 + 6 + 4      1 + 8/8
    #  1    2.0     a, b    -               c 6                21 + 7 + 10     1 + 6/8
    #  2    3.75    a       -               c 2                22 + 12         1 + 2/8
    # a and b get a token in step 0, c in step 2; b ends with step 1.
    assert columns(records.steps) == {
        "start_s": [0.0, 2.0, 3.75],
        "duration_s": [2.0, 1.75, 1.25],
        "max_load_tokens": [30, 38, 34],
        "min_load_tokens": [30, 38, 34],
        "sum_load_tokens": [30, 38, 34],
        "refill_max_load_tokens": [32, 32, 0],
        "refill_sum_load_tokens": [32, 32, 0],
        "max_work_s": [1.0, 0.75, 0.25],
        "mean_work_s": [1.0, 0.75, 0.25],
        "sum_usage_pow": [1.0, 1.0, 1.0],
        "num_tokens": [2, 2, 2],
        "num_running": [3, 3, 2],
        "num_waiting": [0, 0, 0],
    }
    assert [0.0, 0.0, 0.0] == records.requests.admitted_s.tolist()
    assert [2.0, 2.0, 5.0] == records.requests.first_token_s.tolist()
    assert [5.0, 3.75, 5.0] == records.requests.finished_s.tolist()
    # Without the cache the column tells nothing: 38 tokens are computed.
    without = run(workload, "round_robin", **settings)
    plain = run(replace(workload, cached_tokens=None), "round_robin", **settings)
    assert same_but_for_wall_times(plain, without)
    assert 38 * EIGHTH_S == without.steps.max_work_s.sum()


def test_cached_tokens_count_in_the_kv_tokens() -> None:
    """A request is admitted only if its whole prompt fits, cached tokens included, also anew.

    15 KV tokens, budget 4, 2 slots, t_p = 1/8 s. a: prompt 4, output 9; b: prompt 10, of which 6
    cached, output 1; both at 0.
    """
    workload = cached(make_workload([4, 10], [9, 1], [0.0, 0.0]), [0, 6])
    records = run(
        workload,
        "round_robin",
        num_slots=2,
        kv_tokens=15,
        binding="immediate",
        prefill_budget_tokens=4,
        prefill_s_per_token=EIGHTH_S,
        prefix_cache=True,
    )
    # step   a    b        load  prefill  why
    #  0     4    -          4   4        a's prompt takes the whole budget
    #  1     5    6 + 3     14   3        6 from the cache, 3 = 4 - 1 computed
    #  2     6    out        6   0        15 + 1 > 15: b was admitted last
    #  3     7    -          7   0        7 + 10 > 15, and so on until a ends
    #  9     -    6 + 4     10   4        the cache has the 6 again; b's only token
    loads = [4, 14, 6, 7, 8, 9, 10, 11, 12, 10]
    assert loads == records.steps.max_load_tokens.tolist()
    assert [5, 15, 7, 8, 9, 10, 11, 12, 0, 0] == records.steps.refill_max_load_tokens.tolist()
    assert [1.5, 1.375, *[1.0] * 7, 1.5] == records.steps.duration_s.tolist()
    assert [0, 1] == records.requests.num_preemptions.tolist()
    assert [0.0, 1.5] == records.requests.admitted_s.tolist()
    assert [1.5, 11.375] == records.requests.first_token_s.tolist()
    assert [9.875, 11.375] == records.requests.finished_s.tolist()


def test_a_preempted_request_finds_its_prefix_again() -> None:
    """It computes anew what it had generated and the part of its prompt that is not cached.

    13 KV tokens, budget 6, 2 slots, t_p = 1/8 s. a: prompt 4, output 7; b: prompt 6, of which 4
    cached, output 3; both at 0.
    """
    workload = cached(make_workload([4, 6], [7, 3], [0.0, 0.0]), [0, 4])
    records = run(
        workload,
        "round_robin",
        num_slots=2,
        kv_tokens=13,
        binding="immediate",
        prefill_budget_tokens=6,
        prefill_s_per_token=EIGHTH_S,
        prefix_cache=True,
    )
    # step   a    b        load  prefill  why
    #  0     4    4 + 2     10   4 + 2    b's first token
    #  1     5    7         12   0        b's second
    #  2     6    out        6   0        14 > 13; b has 6 + 2 tokens to come back with
    #  3     7    -          7   0        7 + 4 + 4 > 13, and so on until a ends
    #  7     -    4 + 4      8   4        2 of its prompt and the 2 that it had; its third token
    assert [10, 12, 6, 7, 8, 9, 10, 8] == records.steps.max_load_tokens.tolist()
    assert [2, 2, 1, 1, 1, 1, 1, 1] == records.steps.num_tokens.tolist()
    assert [1.75, *[1.0] * 6, 1.5] == records.steps.duration_s.tolist()
    assert [0, 1] == records.requests.num_preemptions.tolist()
    assert [1.75, 1.75] == records.requests.first_token_s.tolist()
    assert [7.75, 9.25] == records.requests.finished_s.tolist()


def test_a_stationary_start_holds_whole_prompts() -> None:
    """Copies that fill the slots have their prompts resident, cached or not, and hit again too."""
    workload = cached(make_workload([8] * 60, [6] * 60), [5] * 60)
    settings: dict[str, Any] = {
        "arrivals": "saturated",
        "num_slots": 4,
        "kv_tokens": 50,  # 4 * (8 + 5) = 52: some are preempted
        "warmup_steps": 0,
        "prefill_budget_tokens": 8,
        "prefill_s_per_token": EIGHTH_S,
    }
    records = run(workload, "fcfs", prefix_cache=True, **settings)
    plain = run(workload, "fcfs", **settings)
    assert records.steps.max_load_tokens[0] == plain.steps.max_load_tokens[0]
    assert np.isfinite(records.requests.finished_s).all()
    assert records.steps.max_work_s.sum() < plain.steps.max_work_s.sum()
