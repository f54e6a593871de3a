"""Runs worked by hand: every column of the records. C = 1 s; t_l is 1/8 s a token, or 0."""

from __future__ import annotations

import pytest

from balanceroute.sim.config import StepTime
from tests.sim.runs import EIGHTH_A_TOKEN, EIGHTH_S, Scripted, columns, make_workload, run


def test_two_ranks_that_only_decode() -> None:
    """Three admissions at once, one in the middle of a step, one-token outputs, and an idle gap."""
    #   request   prompt  output  arrives  rank
    #   a            8       3      0.0      0
    #   b           16       1      0.0      1
    #   c            4       1      0.0      0
    #   d            8       2      1.5      1    in the middle of the first step
    #   e            8       1     40.0      1    long after everything has ended
    workload = make_workload([8, 16, 4, 8, 8], [3, 1, 1, 2, 1], [0.0, 0.0, 0.0, 1.5, 40.0])
    records = run(
        workload, Scripted([0, 1, 0, 1, 1]), num_ranks=2, num_slots=2, step_time=EIGHTH_A_TOKEN
    )
    # step  starts  rank 0         rank 1  lasts          ends    what ends with it
    #  0     0.0    a 8 + c 4 = 12   b 16  1 + 16/8 = 3    3.0    b, c;  a 9 is left
    #  1     3.0    a 9              d  8  1 + 9/8         5.125         a 10, d 9
    #  2     5.125  a 10             d  9  1 + 10/8        7.375  a, d
    #  3    40.0    -                e  8  1 + 8/8        42.0    e
    assert columns(records.steps) == {
        "start_s": [0.0, 3.0, 5.125, 40.0],
        "duration_s": [3.0, 2.125, 2.25, 2.0],
        "max_load_tokens": [16, 9, 10, 8],
        "min_load_tokens": [12, 8, 9, 0],
        "sum_load_tokens": [28, 17, 19, 8],
        "refill_max_load_tokens": [9, 10, 0, 0],
        "refill_sum_load_tokens": [9, 19, 0, 0],
        "max_work_s": [2.0, 1.125, 1.25, 1.0],  # max load / 8
        "mean_work_s": [1.75, 1.0625, 1.1875, 0.5],  # sum of loads / 16
        "sum_usage_pow": pytest.approx(
            [1 + (12 / 16) ** 0.7, 1 + (8 / 9) ** 0.7, 1 + (9 / 10) ** 0.7, 1.0]
        ),
        "num_tokens": [3, 2, 2, 1],
        "num_running": [3, 2, 2, 1],
        "num_waiting": [0, 0, 0, 0],
    }
    assert columns(records.requests) == {
        "arrival_s": [0.0, 0.0, 0.0, 1.5, 40.0],
        "admitted_s": [0.0, 0.0, 0.0, 3.0, 40.0],
        "first_token_s": [3.0, 3.0, 3.0, 5.125, 42.0],
        "finished_s": [7.375, 3.0, 3.0, 7.375, 42.0],
        "prompt_tokens": [8, 16, 4, 8, 8],
        "output_tokens": [3, 1, 1, 2, 1],
        "rank": [0, 1, 0, 1, 1],
        "num_preemptions": [0, 0, 0, 0, 0],
    }
    assert (0.0, float("inf")) == records.window_s
    assert [0.0, 3.0, 5.125, 40.0] == records.samples.time_s.tolist()
    assert [[12, 16], [9, 8], [10, 9], [0, 8]] == records.samples.load_tokens.tolist()


def test_a_rank_with_its_own_queue() -> None:
    """Bound on arrival, requests wait in the rank's queue, which each step counts at its start."""
    # a: prompt 8, output 2, at 0;  b: 8, 1, at 0.5;  c: 8, 1, at 2.0, just when step 0 ends.
    workload = make_workload([8, 8, 8], [2, 1, 1], [0.0, 0.5, 2.0])
    records = run(workload, "round_robin", binding="immediate", step_time=EIGHTH_A_TOKEN)
    # step  starts  runs  lasts    queue at the start
    #  0     0.0    a 8   2.0      -
    #  1     2.0    a 9   2.125    b, c: c is there in time to be counted
    #  2     4.125  b 8   2.0      c
    #  3     6.125  c 8   2.0      -
    assert columns(records.steps) == {
        "start_s": [0.0, 2.0, 4.125, 6.125],
        "duration_s": [2.0, 2.125, 2.0, 2.0],
        "max_load_tokens": [8, 9, 8, 8],
        "min_load_tokens": [8, 9, 8, 8],
        "sum_load_tokens": [8, 9, 8, 8],
        "refill_max_load_tokens": [9, 0, 0, 0],
        "refill_sum_load_tokens": [9, 0, 0, 0],
        "max_work_s": [1.0, 1.125, 1.0, 1.0],
        "mean_work_s": [1.0, 1.125, 1.0, 1.0],
        "sum_usage_pow": [1.0, 1.0, 1.0, 1.0],
        "num_tokens": [1, 1, 1, 1],
        "num_running": [1, 1, 1, 1],
        "num_waiting": [0, 2, 1, 0],
    }
    assert columns(records.requests) == {
        "arrival_s": [0.0, 0.5, 2.0],
        "admitted_s": [0.0, 4.125, 6.125],
        "first_token_s": [2.0, 6.125, 8.125],
        "finished_s": [4.125, 6.125, 8.125],
        "prompt_tokens": [8, 8, 8],
        "output_tokens": [2, 1, 1],
        "rank": [0, 0, 0],
        "num_preemptions": [0, 0, 0],
    }


@pytest.mark.parametrize(
    ("binding", "rank", "admitted_s"),
    [
        ("immediate", 0, 4.0),  # bound to rank 0 on arrival; rank 1 idles from 1.0 on
        ("pooled", 1, 1.0),  # held back until rank 1 is free
    ],
)
def test_late_binding_waits_for_the_rank_that_is_free(
    binding: str, rank: int, admitted_s: float
) -> None:
    """The third of three requests goes behind the long one, or to the rank that is free first."""
    workload = make_workload([8, 8, 8], [4, 1, 1], [0.0, 0.0, 0.0])
    requests = run(workload, "round_robin", num_ranks=2, binding=binding).requests
    assert [0.0, 0.0, admitted_s] == requests.admitted_s.tolist()
    assert [0, 1, rank] == requests.rank.tolist()


def test_an_arrival_at_the_end_of_a_step_is_in_the_next() -> None:
    """A request that arrives just when a step ends is admitted to the one that begins."""
    workload = make_workload([8, 8], [3, 1], [0.0, 1.0])
    for binding in ("pooled", "immediate"):
        records = run(workload, "round_robin", num_slots=2, binding=binding)
        assert [0.0, 1.0] == records.requests.admitted_s.tolist()
        assert [1, 2, 1] == records.steps.num_running.tolist()


def test_slow_ranks_and_the_cost_of_a_request() -> None:
    """A rank at half speed takes twice as long, even with nothing to do; κ₀ tokens per request."""
    # kappa0 = 4, speeds 1 and 1/2. Work of a rank: (1 + (4 n + L) / 8) / speed - 1.
    # step 0, at 0: rank 0 runs a 8: (1 + 12/8) - 1 = 1.5;  rank 1 runs b 4: (1 + 8/8) * 2 - 1 = 3
    # step 1, at 4: rank 0 runs c 2: (1 +  6/8) - 1 = 0.75; rank 1 is empty:  1 * 2 - 1 = 1
    step_time = StepTime(name="", constant_s=1.0, s_per_token=EIGHTH_S, kappa0_tokens=4.0)
    records = run(
        make_workload([8, 4, 2], [1, 1, 1], [0.0, 0.0, 2.0]),
        Scripted([0, 1, 0]),
        num_ranks=2,
        step_time=step_time,
        rank_speeds=(1.0, 0.5),
    )
    assert [0.0, 4.0] == records.steps.start_s.tolist()
    assert [4.0, 2.0] == records.steps.duration_s.tolist()
    assert [3.0, 1.0] == records.steps.max_work_s.tolist()
    assert [2.25, 0.875] == records.steps.mean_work_s.tolist()
    assert pytest.approx([1 + 0.5**0.7, 1 + 0.75**0.7]) == records.steps.sum_usage_pow.tolist()
    assert [4.0, 4.0, 6.0] == records.requests.finished_s.tolist()


def test_a_saturated_pool() -> None:
    """A pool of one is topped up at each boundary at which it is short, until requests run out."""
    # One rank, one slot, four requests of two tokens. At 0 the pool takes a, a gets the slot, and
    # the pool takes b. At 2, 4 and 6 the slot is free: b, c, d get it, and the pool takes c, d, and
    # finds nothing at 6, where the window ends. It begins at the first boundary at which the
    # router acts after one request (G * B) has been admitted: 2.
    records = run(
        make_workload([8] * 4, [2] * 4), "fcfs", arrivals="saturated", pool_size=1, start="empty"
    )
    assert [0.0, 0.0, 2.0, 4.0] == records.requests.arrival_s.tolist()
    assert [0.0, 2.0, 4.0, 6.0] == records.requests.admitted_s.tolist()
    assert [2.0, 4.0, 6.0, 8.0] == records.requests.finished_s.tolist()
    assert (2.0, 6.0) == records.window_s
