"""What a rank's engine does under KV pressure and with prefill, worked by hand. C = 1 s."""

from __future__ import annotations

from balanceroute.sim.config import StepTime
from tests.sim.runs import EIGHTH_S, columns, make_workload, run


def test_preemption_by_recompute() -> None:
    """Short of KV tokens, a rank throws out the request admitted last, and admits nobody then."""
    # 20 KV tokens, 3 slots. All arrive at 0, in this order:
    # a: prompt 8, output 6;  b: 8, 4;  c: 4, 2;  d: 1, 1, behind the others in the queue.
    workload = make_workload([8, 8, 4, 1], [6, 4, 2, 1], [0.0] * 4)
    records = run(workload, "round_robin", num_slots=3, kv_tokens=20, binding="immediate")
    # step  on the rank        load  why                                      queue    grows to
    #  0    a 8, b 8, c 4       20   full to the token                        d        23
    #  1    a 9, b 9            18   23 > 20: c out (5 to recompute);         c d      20
    #                                a slot and room for d, but not now
    #  2    a 10, b 10          20   c's 5 do not fit                         c d      22
    #  3    a 11                11   22 > 20: b out (8 + 3 to recompute)      b c d    12
    #  4    a 12                12   b's 11 do not fit; c behind b waits      b c d    13
    #  5    a 13                13   the same; a ends                         b c d     0
    #  6    b 11, c 5, d 1      17   each gets its next token, and ends       -         0
    loads = [20, 18, 20, 11, 12, 13, 17]
    assert columns(records.steps) == {
        "start_s": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "duration_s": [1.0] * 7,
        "max_load_tokens": loads,
        "min_load_tokens": loads,
        "sum_load_tokens": loads,
        "refill_max_load_tokens": [23, 20, 22, 12, 13, 0, 0],
        "refill_sum_load_tokens": [23, 20, 22, 12, 13, 0, 0],
        "max_work_s": [0.0] * 7,
        "mean_work_s": [0.0] * 7,
        "sum_usage_pow": [0.0] * 7,
        "num_tokens": [3, 2, 2, 1, 1, 1, 3],
        "num_running": [3, 2, 2, 1, 1, 1, 3],
        "num_waiting": [1, 2, 2, 3, 3, 3, 0],
    }
    assert columns(records.requests) == {
        "arrival_s": [0.0] * 4,
        "admitted_s": [0.0, 0.0, 0.0, 6.0],  # the first time counts
        "first_token_s": [1.0, 1.0, 1.0, 7.0],
        "finished_s": [6.0, 7.0, 7.0, 7.0],
        "prompt_tokens": [8, 8, 4, 1],
        "output_tokens": [6, 4, 2, 1],
        "rank": [0] * 4,
        "num_preemptions": [0, 1, 1, 0],
    }


def test_prefill_within_a_token_budget() -> None:
    """Decodes take their tokens first, then prefills under way, then the queue; chunks cost t_p."""
    # Budget 8 tokens a step, t_p = 1/8 s a token, 3 slots.
    # a: prompt 6, output 3;  b: 9, 2;  c: 2, 1;  all at 0.
    workload = make_workload([6, 9, 2], [3, 2, 1], [0.0, 0.0, 0.0])
    records = run(
        workload,
        "round_robin",
        num_slots=3,
        binding="immediate",
        prefill_budget_tokens=8,
        prefill_s_per_token=EIGHTH_S,
    )
    # step  starts  decode  prefill            load           lasts     ends   tokens for
    #  0    0.0     -       a 6 (all), b 2      6 + 2     = 8  1 + 8/8   2.0    a
    #  1    2.0     a       b 7 (the rest)      7 + 9    = 16  1 + 7/8   3.875  a, b
    #  2    3.875   a, b    c 2 (all)           8 + 10 + 2    1 + 2/8   5.125  a, b, c: all end
    # In step 1 one token goes to a's decode and seven to b, so nothing is left to admit c.
    assert columns(records.steps) == {
        "start_s": [0.0, 2.0, 3.875],
        "duration_s": [2.0, 1.875, 1.25],
        "max_load_tokens": [8, 16, 20],
        "min_load_tokens": [8, 16, 20],
        "sum_load_tokens": [8, 16, 20],
        "refill_max_load_tokens": [9, 18, 0],
        "refill_sum_load_tokens": [9, 18, 0],
        "max_work_s": [1.0, 0.875, 0.25],
        "mean_work_s": [1.0, 0.875, 0.25],
        "sum_usage_pow": [1.0, 1.0, 1.0],
        "num_tokens": [1, 2, 3],
        "num_running": [2, 2, 3],  # b runs, and holds its slot, while it prefills
        "num_waiting": [1, 1, 0],
    }
    assert columns(records.requests) == {
        "arrival_s": [0.0, 0.0, 0.0],
        "admitted_s": [0.0, 0.0, 3.875],
        "first_token_s": [2.0, 3.875, 5.125],
        "finished_s": [5.125, 5.125, 5.125],
        "prompt_tokens": [6, 9, 2],
        "output_tokens": [3, 2, 1],
        "rank": [0, 0, 0],
        "num_preemptions": [0, 0, 0],
    }


def test_one_ranks_prefill_holds_up_the_others() -> None:
    """A step lasts as long as the rank with the most to prefill and decode."""
    # a: prompt 8, output 2, on rank 0 from 0;  b: prompt 16, output 1, on rank 1 from 1.5.
    # step 0, at 0: a prefills 8: 0.5 * 8 / 8 + 8 / 8 = 1.5 s of work, so it lasts 2.5
    # step 1, at 2.5: a decodes with load 9: 0.5625; b prefills 16: 1 + 2 = 3, so it lasts 4
    records = run(
        make_workload([8, 16], [2, 1], [0.0, 1.5]),
        "round_robin",
        num_ranks=2,
        step_time=StepTime(name="", constant_s=1.0, s_per_token=EIGHTH_S / 2),
        prefill_budget_tokens=64,
        prefill_s_per_token=EIGHTH_S,
    )
    assert [2.5, 4.0] == records.steps.duration_s.tolist()
    assert [0.75, 1.78125] == records.steps.mean_work_s.tolist()
    assert [6.5, 6.5] == records.requests.finished_s.tolist()


def test_preemption_during_prefill() -> None:
    """A half-prefilled request that no longer fits loses what it had, and starts over."""
    # 15 KV tokens, budget 4, 2 slots. a: prompt 4, output 9;  b: prompt 10, output 1; both at 0.
    workload = make_workload([4, 10], [9, 1], [0.0, 0.0])
    records = run(
        workload,
        "round_robin",
        num_slots=2,
        kv_tokens=15,
        binding="immediate",
        prefill_budget_tokens=4,
    )
    # step   a    b        load  why
    #  0     4    -          4   a's prompt takes the whole budget
    #  1     5    3          8   3 = 4 - 1: a's decode comes first
    #  2     6    6         12
    #  3     7    out        7   13 + 3 > 15: b itself was admitted last
    #  4     8    -          8   18 > 15: the whole of b has to fit, and so on until a ends
    #  8    12    -         12   a ends
    #  9     -    4          4
    # 10     -    8          8
    # 11     -   10         10   the last chunk, of 2, gives b's only token
    loads = [4, 8, 12, 7, 8, 9, 10, 11, 12, 4, 8, 10]
    assert loads == records.steps.max_load_tokens.tolist()
    assert [5, 9, 13, 8, 9, 10, 11, 12, 0, 4, 8, 0] == (
        records.steps.refill_max_load_tokens.tolist()
    )
    assert [1, 2, 2, *[1] * 9] == records.steps.num_running.tolist()
    assert [1, 0, 0, *[1] * 6, 0, 0, 0] == records.steps.num_waiting.tolist()
    assert [1] * 9 + [0, 0, 1] == records.steps.num_tokens.tolist()
    assert [0, 1] == records.requests.num_preemptions.tolist()
    assert [0.0, 1.0] == records.requests.admitted_s.tolist()
    assert [1.0, 12.0] == records.requests.first_token_s.tolist()
    assert [9.0, 12.0] == records.requests.finished_s.tolist()


def test_recompute_counts_generated_tokens_as_prompt() -> None:
    """A preempted request prefills its prompt and what it had generated, within the budget."""
    # 12 KV tokens, budget 4, 2 slots. a: prompt 4, output 7;  b: prompt 3, output 3; both at 0.
    workload = make_workload([4, 3], [7, 3], [0.0, 0.0])
    records = run(
        workload,
        "round_robin",
        num_slots=2,
        kv_tokens=12,
        binding="immediate",
        prefill_budget_tokens=4,
    )
    # step   a    b        load  grows to
    #  0     4    -          4   5
    #  1     5    3          8   10       b's first token
    #  2     6    4         10   12       b's second
    #  3     7    5         12   -        b ends with its third; the rank was never short
    assert [4, 8, 10, 12, 8, 9, 10] == records.steps.max_load_tokens.tolist()
    assert [0, 0] == records.requests.num_preemptions.tolist()
    # With 11 KV tokens b is thrown out in step 3, with 3 + 2 tokens to recompute, which do not fit
    # beside a; a step does 4 of them when a has ended.
    short = run(
        workload,
        "round_robin",
        num_slots=2,
        kv_tokens=11,
        binding="immediate",
        prefill_budget_tokens=4,
    )
    # step   a    b        load
    #  3     7    out        7   12 > 11
    #  4     8    -          8   8 + 5 > 11
    #  5     9    -          9
    #  6    10    -         10   a ends
    #  7     -    4          4
    #  8     -    5          5   the last chunk gives b's third token
    assert [4, 8, 10, 7, 8, 9, 10, 4, 5] == short.steps.max_load_tokens.tolist()
    assert [1, 2, 2, 1, 1, 1, 1, 0, 1] == short.steps.num_tokens.tolist()
    assert [0, 1] == short.requests.num_preemptions.tolist()
    assert [1.0, 2.0] == short.requests.first_token_s.tolist()
    assert [7.0, 9.0] == short.requests.finished_s.tolist()
