"""Independent ranks: each steps at its own pace, and none waits for another."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.metrics import summarize
from balanceroute.types import Workload
from tests.sim.runs import EIGHTH_A_TOKEN, make_workload, run
from tests.sim.test_properties import POLICIES, examples, groups, same_but_for_wall_times, workloads


def test_two_ranks_step_at_their_own_pace() -> None:
    """Rank 0 carries 16 tokens and rank 1 carries 8; a step is 1 s and 1/8 s a token.

    Rank 0 steps 0 to 3, then 3 to 6.125 (17 tokens). Rank 1 steps 0 to 2, 2 to 4.125 (9 tokens)
    and 4.125 to 6.375 (10 tokens). With a barrier rank 1 would have taken 3 + 3.125 + 2.25 s.
    """
    workload = make_workload([16, 8], [2, 3], [0.0, 0.0])
    independent: dict[str, Any] = {
        "num_ranks": 2,
        "has_barrier": False,
        "step_time": EIGHTH_A_TOKEN,
    }
    records = run(workload, "round_robin", **independent)
    assert [3.0, 2.0] == records.requests.first_token_s.tolist()
    assert [6.125, 6.375] == records.requests.finished_s.tolist()
    assert [0.0, 0.0, 2.0, 3.0, 4.125] == records.steps.start_s.tolist()
    assert [16, 8, 9, 17, 10] == records.steps.max_load_tokens.tolist()
    with_barrier = run(workload, "round_robin", **(independent | {"has_barrier": True}))
    assert [6.125, 8.375] == with_barrier.requests.finished_s.tolist()


def test_an_idle_rank_begins_when_its_request_comes() -> None:
    """A request that finds its rank idle starts at once, in the middle of the other's step."""
    workload = make_workload([16, 8], [2, 1], [0.0, 1.0])
    records = run(workload, "round_robin", num_ranks=2, has_barrier=False, step_time=EIGHTH_A_TOKEN)
    assert [0.0, 1.0] == records.requests.admitted_s.tolist()
    assert [6.125, 3.0] == records.requests.finished_s.tolist()


def test_figures_say_that_nothing_is_lost() -> None:
    """Without a barrier efficiency is 1 and nobody idles, however uneven the loads."""
    workload = make_workload([160, 8] * 20, [20, 3] * 20, np.arange(40) / 4)
    records = run(
        workload, "round_robin", num_ranks=2, num_slots=4, has_barrier=False,
        step_time=EIGHTH_A_TOKEN,
    )  # fmt: skip
    metrics = summarize(records)
    figures = metrics.efficiency, metrics.mean_imbalance_tokens, metrics.idle_ratio
    assert (1.0, 0.0, 0.0) == figures


@examples(80)
@given(workloads(), groups(), st.sampled_from(POLICIES))
def test_one_rank_needs_no_barrier(workload: Workload, group: dict[str, Any], policy: str) -> None:
    """A single rank leaves the same records with a barrier and without."""
    alone = group | {"num_ranks": 1}
    assert same_but_for_wall_times(
        run(workload, policy, **alone), run(workload, policy, has_barrier=False, **alone)
    )


# These queue what comes at the same time by size, or as a solver's plan has it.
NOT_BY_AGE = ("trtllm_adp", "bf_io")


@examples(80)
@given(workloads(), groups(), st.sampled_from([p for p in POLICIES if p not in NOT_BY_AGE]))
def test_each_rank_is_a_group_of_its_own(
    workload: Workload, group: dict[str, Any], policy: str
) -> None:
    """What a rank does with its requests is what a lone rank does that gets them at once.

    Holds under immediate binding, where a rank's requests reach it when they arrive.
    """
    bound = group | {"binding": "immediate"}
    together = run(workload, policy, has_barrier=False, **bound).requests
    for rank in range(group["num_ranks"]):
        rows = np.flatnonzero(together.rank == rank)
        if len(rows) == 0:
            continue
        alone = run(workload.select(rows), "fcfs", **(bound | {"num_ranks": 1})).requests
        assert alone.first_token_s.tolist() == together.first_token_s[rows].tolist()
        assert alone.finished_s.tolist() == together.finished_s[rows].tolist()
