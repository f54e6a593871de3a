"""vLLM's prefill schedule interval, worked by hand as `tests.sim.gated` says."""

from __future__ import annotations

import pytest

from tests.sim.gated import LONG, admitted, serve
from tests.sim.runs import make_workload, run

EVERY_THIRD = "vllm,prefill_schedule_interval=3"


@pytest.mark.parametrize(
    ("arrives_s", "expected"),
    [
        (0.5, 3.0),
        (2.5, 3.0),
        (3.0, 3.0),
        (3.5, 6.0),
    ],
)
def test_vllm_admits_in_every_third_step(arrives_s: float, expected: float) -> None:
    """Steps 0, 3, 6, … of the group admit, whichever rank the request is on."""
    assert expected == admitted(EVERY_THIRD, [0.0, 0.0, arrives_s])[2]
    assert expected == admitted(EVERY_THIRD, [0.0, 0.0, 0.0, arrives_s])[3]


def test_vllm_counts_from_when_the_group_was_idle() -> None:
    """The first request after a pause starts at once, and the next ones by its steps."""
    # a and b end with step 1, at 2. c comes at 7.25 (step 0), d at 7.5; steps at 8.25, 9.25, 10.25
    times_s = admitted(EVERY_THIRD, [0.0, 0.0, 7.25, 7.5, 7.5], outputs=[2, 2, LONG, 2, LONG])
    # d is on rank 1, which decodes nothing, e on rank 0
    assert [7.25, 8.25, 10.25] == times_s[2:]


def test_vllm_goes_on_after_admissions_that_left_a_queue() -> None:
    """A rank whose step could not take in its whole queue prefills in the next one, too."""
    # Budget 8, 7 beside a decode; c, d, e on rank 0 at 0.5, 6 tokens each.
    # step 3: c 6, d 1, e waits      step 4: d 5, e 2, nobody waits any more
    # step 5: held                   step 6: e's other 4
    others = {"prompts": [2, 2, 6, 2, 6, 2, 6], "outputs": [LONG, 2, LONG, 2, LONG, 2, LONG]}
    records = serve(EVERY_THIRD, [0.0, 0.0, *[0.5] * 5], prefill_budget_tokens=8, **others)
    assert [3.0, 3.0, 4.0] == records.requests.admitted_s[2::2].tolist()
    assert [4.0, 5.0, 7.0] == records.requests.first_token_s[2::2].tolist()


def test_vllm_holds_prefills_under_way_too() -> None:
    """With nobody left in the queue, the rest of a prompt waits for the next third step."""
    # Budget 8, 7 beside a decode; c's 9 tokens on rank 0, at 0.5: 7 in step 3, 2 in step 6.
    records = serve(EVERY_THIRD, [0.0, 0.0, 0.5], prompts=[2, 2, 9], prefill_budget_tokens=8)
    assert (3.0, 7.0) == (records.requests.admitted_s[2], records.requests.first_token_s[2])


def test_vllm_learns_nothing_of_a_step_that_preempts() -> None:
    """A preempted request in the queue does not count as a queue that was left."""
    # One rank, 20 KV tokens, every second step; all come at 0.
    # a: prompt 8, output 3; b: 1, 19; c: 6, 3.
    # step 0: 8 + 1 + 6 = 15           step 1: 18
    # step 2: 21 > 20, so c is thrown out, with two of its tokens; 10 + 3 are left, and a ends
    # step 3: b has 4; c's 8 would fit, but b decodes and the queue is not known to have been left
    # step 4: 5 + 8, and c's third token
    records = run(
        make_workload([8, 1, 6], [3, 19, 3], [0.0] * 3),
        "round_robin",
        prefill_gate="vllm,prefill_schedule_interval=2",
        num_slots=3,
        kv_tokens=20,
        prefill_budget_tokens=16,
        binding="immediate",
    )
    assert [0, 0, 1] == records.requests.num_preemptions.tolist()
    assert [15, 18, 13, 4, 13] == records.steps.max_load_tokens[:5].tolist()
    assert 5.0 == records.requests.finished_s[2]
