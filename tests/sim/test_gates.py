"""Prefill gates: when ranks wait for each other, worked by hand; steps last C = 1 s.

Prompts cost nothing, so the step that starts at n s is step n. Under `round_robin` and immediate
binding, request i goes to rank i mod 2. Unless a test says otherwise, a (rank 0) and b (rank 1)
come at 0 and decode to the end, and what is asked is when the requests after them are admitted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.errors import ConfigError
from balanceroute.sim.gates import SglangDelayer, TrtllmBalance, VllmInterval, make_gate
from balanceroute.types import RunRecords, Workload
from tests.sim.runs import make_config, make_workload, run
from tests.sim.test_properties import (
    examples,
    groups,
    same_but_for_wall_times,
    workloads,
)

LONG = 40  # output tokens: longer than anything that is looked at


def serve(
    gate: str | None,
    arrivals_s: list[float],
    *,
    prompts: list[int] | None = None,
    outputs: list[int] | None = None,
    **settings: Any,
) -> RunRecords:
    """Run requests on two ranks of four slots; all prompts have 2 tokens unless said."""
    num_requests = len(arrivals_s)
    workload = make_workload(
        prompts or [2] * num_requests, outputs or [LONG] * num_requests, arrivals_s
    )
    defaults: dict[str, Any] = {
        "num_ranks": 2,
        "num_slots": 4,
        "binding": "immediate",
        "prefill_budget_tokens": 16,
    }
    return run(workload, "round_robin", prefill_gate=gate, **(defaults | settings))


def admitted(gate: str | None, arrivals_s: list[float], **settings: Any) -> list[float]:
    """Return when requests start, as `serve` runs them."""
    times_s: list[float] = serve(gate, arrivals_s, **settings).requests.admitted_s.tolist()
    return times_s


# ----------------------------------------------------------------------------------------- SGLang


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        (1, 2.0),  # the first pass is the last
        (2, 3.0),  # held in step 2
        (4, 5.0),  # held in 2, 3, 4
        (30, 31.0),
    ],
)
def test_sglang_waits_for_the_other_rank(passes: int, expected: float) -> None:
    """While only rank 0 could prefill, its request is held for all passes but the last."""
    # c comes at 1.5, so step 2 is the first that could admit it
    gate = f"sglang,max_delay_passes={passes}"
    assert [0.0, 0.0, expected] == admitted(gate, [0.0, 0.0, 1.5])


def test_sglang_releases_when_all_ranks_can() -> None:
    """With d on rank 1 there is a prefill for each rank, and both start in that step."""
    # c is held in steps 2 and 3; d comes at 3.5.
    # Step 4: 4 slots - 1 that decodes = 3 free, no fewer than the largest batch so far, 1.
    assert [4.0, 4.0] == admitted("sglang", [0.0, 0.0, 1.5, 3.5])[2:]


def test_sglang_counts_anew_after_a_release() -> None:
    """The passes of one wait are no part of the next one."""
    # max_delay_passes=3: c (1.5) held in steps 2 and 3, admitted in 4; d (4.5, rank 1) held in 5
    # and 6, admitted in 7
    assert [4.0, 7.0] == admitted("sglang,max_delay_passes=3", [0.0, 0.0, 1.5, 4.5])[2:]


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        (30, 7.0),  # until the second slot opens
        (2, 6.0),  # held in step 5
        (1, 5.0),
    ],
)
def test_sglang_waits_for_slots_though_all_ranks_can(passes: int, expected: float) -> None:
    """It waits until as many slots are free as the largest recent batch had, but for once."""
    # Three slots. a, c on rank 0 and b, d on rank 1 come at 0: a batch of 2 each.
    # e and f come at 1.5. Step 2: 3 - 2 = 1 slot free < 2, a reason, but the first: admitted.
    # g and h come at 2.5; a and b end with step 4, c and d with step 6.
    # Step 5: 3 - 2 = 1 < 2 and no longer the first. Step 7: 3 - 1 = 2.
    arrivals_s = [0.0] * 4 + [1.5] * 2 + [2.5] * 2
    outputs = [5, 5, 7, 7, LONG, LONG, LONG, LONG]
    gate = f"sglang,max_delay_passes={passes}"
    times_s = admitted(gate, arrivals_s, outputs=outputs, num_slots=3)
    assert [0.0] * 4 + [2.0] * 2 + [expected] * 2 == times_s


def test_sglang_forgets_large_batches() -> None:
    """A batch counts among the last sixteen of its rank, those that were held included."""
    # As above, but c and d do not end. The batches of 2 were the first; then come the one of step 2
    # and estimates min(1 waiting, 1 free) in steps 5, 6, ... Step 19 is the fifteenth of those:
    # with them and step 2's sixteen have followed, and in step 20 the largest is 1, which fits.
    arrivals_s = [0.0] * 4 + [1.5] * 2 + [2.5] * 2
    outputs = [5, 5, *[LONG] * 6]
    times_s = admitted("sglang", arrivals_s, outputs=outputs, num_slots=3)
    assert [20.0, 20.0] == times_s[6:]


@pytest.mark.parametrize(
    ("watermark", "expected"),
    [
        ("none", 6.0),
        (0.12, 6.0),  # 12 of 100 tokens are not below
        (0.13, 2.0),
    ],
)
def test_sglang_does_not_hold_where_memory_is_free(watermark: object, expected: float) -> None:
    """A rank that could prefill and is below the watermark opens the gate for all."""
    # Step 2: a has 10 prompt and 2 output tokens. Rank 1, 2 + 2, has nothing to prefill.
    gate = f"sglang,max_delay_passes=5,token_usage_low_watermark={watermark}"
    times_s = admitted(gate, [0.0, 0.0, 1.5], prompts=[10, 2, 2], kv_tokens=100)
    assert expected == times_s[2]


@pytest.mark.parametrize(
    ("settings", "extra_s", "expected"),
    [
        ("", [], 3.0),  # no ratio, and 12 - 5 = 7 slots are free
        (",queue_min_ratio=0.3", [], 3.0),  # int(5 * 0.3) = 1 is enough
        (",queue_min_ratio=0.5", [], 8.0),  # since step 3; 5 s by default
        (",queue_min_ratio=0.5,max_delay_ms=1500", [], 5.0),  # 1 s in step 4, 2 s in step 5
        (",queue_min_ratio=0.5", [3.5], 4.0),  # two wait on rank 0
        (",queue_min_ratio=5", [3.5] * 4, 8.0),  # three on each; min(25, batch of 4) are wanted
        (",queue_min_ratio=5", [3.5] * 5, 4.0),  # four on rank 0
        # Held steps count as attempts of one request: 2 to 17 are sixteen, and then 1 is enough.
        (",queue_min_ratio=0.5,max_delay_ms=1e6", [], 18.0),
    ],
)
def test_sglang_waits_for_a_longer_queue(
    settings: str, extra_s: list[float], expected: float
) -> None:
    """Given a ratio, it waits until that part of what decodes is queued, but not for too long."""
    # Twelve slots; four requests on each rank at 0, a batch of 4. One more on each at 1.5: in
    # step 2 int(4 * 0.5) = 2 are wanted, the first reason ever, so they start. With the next ones,
    # at 2.5, int(5 * 0.5) = 2 are wanted and one waits on each rank.
    arrivals_s = [0.0] * 8 + [1.5] * 2 + [2.5] * 2 + extra_s
    times_s = admitted(f"sglang{settings}", arrivals_s, num_slots=12)
    assert [2.0, 2.0, expected] == times_s[8:11]


def test_sglang_goes_on_with_prefills_under_way() -> None:
    """Only the queue is held: a prompt of three chunks takes three steps, and another waits."""
    # Budget 9, 8 beside a decode. c's 20 tokens on rank 0, at 1.5, wait with max_delay_passes=3 in
    # steps 2 and 3, then take steps 4, 5, 6 although d, on rank 1 since 6.5, is held in 7 and 8.
    # (In 5 and 6 rank 0 can prefill and rank 1 cannot, so the passes are counted: 1, 2; in 7 the
    # third admits d.)
    records = serve(
        "sglang,max_delay_passes=3",
        [0.0, 0.0, 1.5, 6.5],
        prompts=[2, 2, 20, 2],
        prefill_budget_tokens=9,
    )
    assert [4.0, 7.0] == records.requests.admitted_s[2:].tolist()
    assert 7.0 == records.requests.first_token_s[2]


# ----------------------------------------------------------------------------------- TensorRT-LLM


@pytest.mark.parametrize(
    ("arrives_s", "expected"),
    [
        (0.5, 3.0),
        (2.5, 3.0),
        (3.5, 6.0),
        (5.5, 6.0),
    ],
)
def test_trtllm_waits_for_the_other_rank(arrives_s: float, expected: float) -> None:
    """The time-out counts all steps in which some rank had nothing to prefill, wanted or not."""
    # timeout_iters=3: counted 1 and 2 in steps 1 and 2, released in 3, again 1, 2 and 6
    assert expected == admitted("trtllm,timeout_iters=3", [0.0, 0.0, arrives_s])[2]


@pytest.mark.parametrize(
    ("batching", "expected"),
    [
        (0, 5.0),
        (1, 6.0),
        (2, 7.0),
    ],
)
def test_trtllm_waits_for_larger_batches(batching: int, expected: float) -> None:
    """Once all ranks can prefill, they wait for `batching_wait_iters` steps more."""
    # c comes to rank 0 at 3.5 and is held in step 4; d comes to rank 1 at 4.5
    gate = f"trtllm,timeout_iters=3,batching_wait_iters={batching}"
    assert [expected] * 2 == admitted(gate, [0.0, 0.0, 3.5, 4.5])[2:]


def test_trtllm_counts_batching_anew_after_a_release() -> None:
    """The next pair of requests waits as long as the first."""
    # c, d at 1.5: held in steps 2 and 3, admitted in 4; e, f at 4.5: held in 5 and 6
    gate = "trtllm,batching_wait_iters=2"
    assert [4.0, 4.0, 7.0, 7.0] == admitted(gate, [0.0, 0.0, 1.5, 1.5, 4.5, 4.5])[2:]


@pytest.mark.parametrize("arrives_s", [0.0, 3.5])
def test_trtllm_holds_nothing_while_a_rank_decodes_nothing(arrives_s: float) -> None:
    """A rank whose only request waits keeps nobody waiting, whether all can prefill or not."""
    # b ends with step 2, so rank 1 has nothing to decode when d comes at 3.5
    times_s = admitted("trtllm", [0.0, 0.0, arrives_s, 3.5], outputs=[LONG, 3, LONG, LONG])
    assert [0.0 if arrives_s == 0.0 else 4.0, 4.0] == times_s[2:]


def test_trtllm_waits_for_an_empty_rank() -> None:
    """A rank without requests is padded with a dummy that decodes."""
    # b ends with step 2; c comes at 3.5. Steps 1 to 4 are counted as 1 to 4, the fifth releases.
    times_s = admitted("trtllm,timeout_iters=5", [0.0, 0.0, 3.5], outputs=[LONG, 3, LONG])
    assert 5.0 == times_s[2]


def test_trtllm_holds_prefills_under_way_too() -> None:
    """Each chunk waits for the other rank anew."""
    # Budget 9, 8 beside a decode: c's 20 tokens, at 3.5, are 8 in step 6, 8 in 9 and 4 in 12.
    records = serve(
        "trtllm,timeout_iters=3", [0.0, 0.0, 3.5], prompts=[2, 2, 20], prefill_budget_tokens=9
    )
    assert 6.0 == records.requests.admitted_s[2]
    assert 13.0 == records.requests.first_token_s[2]
    # a and b have 2 + n tokens in step n
    loads = [4 + 2 * n + 8 * (n >= 6) + 8 * (n >= 9) + 4 * (n >= 12) for n in range(13)]
    assert loads == records.steps.sum_load_tokens[:13].tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("min_generation_requests=1", 10.0),  # each rank decodes one
        ("min_generation_requests=2", 4.0),  # at once
        ("min_generation_requests=2,low_occupancy_timeout_iters=3", 6.0),  # steps 3, 6
    ],
)
def test_trtllm_waits_less_where_little_decodes(settings: str, expected: float) -> None:
    """While the least busy rank decodes fewer than asked for, the shorter time-out counts."""
    # c comes at 3.5; timeout_iters=10 releases in step 10
    assert expected == admitted(f"trtllm,timeout_iters=10,{settings}", [0.0, 0.0, 3.5])[2]


# ------------------------------------------------------------------------------------------- vLLM

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


# -------------------------------------------------------------------------------------- every gate

HOLDING = (
    "sglang",
    "sglang,max_delay_passes=3",
    "sglang,max_delay_passes=1000000000",
    "sglang,queue_min_ratio=0.5,max_delay_ms=2500",
    "trtllm",
    "trtllm,timeout_iters=3,batching_wait_iters=1",
    "trtllm,timeout_iters=1000000000,batching_wait_iters=1000000000",
    "trtllm,timeout_iters=8,min_generation_requests=2,low_occupancy_timeout_iters=2",
    "vllm,prefill_schedule_interval=3",
    "vllm,prefill_schedule_interval=1000000000",
)
OPEN = (
    "sglang,max_delay_passes=1",
    "trtllm,enable_balance=false",
    "trtllm,timeout_iters=0,batching_wait_iters=0",
    "trtllm,timeout_iters=1,batching_wait_iters=0",
    "vllm",
    "vllm,prefill_schedule_interval=1",
)


SOME_POLICIES = ("vllm", "least_tokens", "br_0")


@st.composite
def gated_groups(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a small group whose ranks prefill."""
    group = draw(groups())
    num_slots = group["num_slots"]
    return group | {"prefill_budget_tokens": draw(st.integers(num_slots, num_slots + 30))}


@pytest.mark.parametrize("gate", HOLDING)
@examples(40)
@given(workloads(), gated_groups(), st.sampled_from(SOME_POLICIES))
def test_no_request_is_lost(
    gate: str, workload: Workload, group: dict[str, Any], policy: str
) -> None:
    """Whatever is held is served in the end, in order, within the limits, with all its tokens."""
    records = run(workload, policy, prefill_gate=gate, **group)
    requests, steps = records.requests, records.steps
    assert np.isfinite(requests.finished_s).all()
    assert (requests.arrival_s <= requests.admitted_s).all()
    assert (requests.admitted_s < requests.first_token_s).all()
    assert (requests.first_token_s <= requests.finished_s).all()
    assert workload.output_tokens.sum() == steps.num_tokens.sum()
    assert steps.num_running.max() <= group["num_ranks"] * group["num_slots"]
    if group["kv_tokens"] is not None:
        assert steps.max_load_tokens.max() <= group["kv_tokens"]


@pytest.mark.parametrize("gate", HOLDING)
@examples(20)
@given(workloads(), gated_groups())
def test_a_group_in_which_nobody_runs_is_not_held(
    gate: str, workload: Workload, group: dict[str, Any]
) -> None:
    """Every step computes something: a request runs in it."""
    records = run(workload, "least_requests", prefill_gate=gate, **group)
    assert (records.steps.num_running > 0).all()


@pytest.mark.parametrize("gate", OPEN)
@examples(30)
@given(workloads(), gated_groups(), st.sampled_from(SOME_POLICIES))
def test_settings_that_hold_nothing_change_nothing(
    gate: str, workload: Workload, group: dict[str, Any], policy: str
) -> None:
    """A gate that is always open leaves the same records as none, byte for byte."""
    gated = run(workload, policy, prefill_gate=gate, **group)
    assert same_but_for_wall_times(run(workload, policy, **group), gated)


@pytest.mark.parametrize("gate", HOLDING)
@pytest.mark.parametrize("binding", ["pooled", "immediate"])
def test_a_saturated_group_is_served_to_its_end(gate: str, binding: str) -> None:
    """Gated ranks serve a pool that does not run dry, too, and twice the same."""
    rng = np.random.default_rng(15)
    workload = make_workload(rng.integers(1, 60, 400), rng.geometric(0.2, 400))
    both = [
        run(
            workload,
            "least_tokens",
            prefill_gate=gate,
            arrivals="saturated",
            binding=binding,
            num_ranks=3,
            num_slots=4,
            kv_tokens=250,
            prefill_budget_tokens=64,
            prefill_s_per_token=0.01,
        )
        for _ in range(2)
    ]
    assert np.isfinite(both[0].requests.finished_s).all()
    assert same_but_for_wall_times(*both)


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "sglag",
            "unknown prefill gate 'sglag'; did you mean 'sglang'? Known: sglang, trtllm, vllm",
        ),
        ("", "unknown prefill gate ''. Known: sglang, trtllm, vllm"),
        (
            "sglang,max_passes=3",
            "unknown setting 'max_passes' for prefill gate sglang; did you mean",
        ),
        ("sglang,max_delay_passes=x", "setting max_delay_passes must be of type int, got 'x'"),
        ("sglang,max_delay_passes=0", "max_delay_passes must be from 1 to 1000000000, got 0"),
        (f"sglang,max_delay_passes={10**30}", "max_delay_passes must be from 1 to 1000000000, got"),
        (
            "sglang,token_usage_low_watermark=1.5",
            "token_usage_low_watermark must be above 0 and at most 1, got 1.5",
        ),
        (
            "sglang,token_usage_low_watermark=nan",
            "token_usage_low_watermark must be above 0 and at most 1, got nan",
        ),
        ("sglang,queue_min_ratio=0", "queue_min_ratio must be above 0, got 0"),
        ("sglang,queue_min_ratio=inf", "queue_min_ratio must be above 0, got inf"),
        ("sglang,max_delay_ms=5", "prefill gate sglang: max_delay_ms needs queue_min_ratio"),
        ("trtllm,timeout_iters=-1", "timeout_iters must be from 0 to 1000000000, got -1"),
        ("trtllm,batching_wait_iters=-1", "batching_wait_iters must be from 0 to 1000000000"),
        ("trtllm,enable_balance=2", "setting enable_balance must be of type bool, got '2'"),
        (
            "trtllm,timeout_iters=5,low_occupancy_timeout_iters=6",
            "low_occupancy_timeout_iters must be at most timeout_iters (5), got 6",
        ),
        ("vllm,prefill_schedule_interval=0", "prefill_schedule_interval must be from 1 to"),
        ("vllm,every=2", "unknown setting 'every' for prefill gate vllm. Known: prefill_schedule_"),
        ("vllm,prefill_schedule_interval=2,prefill_schedule_interval=3", "is given twice"),
    ],
)
def test_bad_gates(spec: str, message: str) -> None:
    """What is wrong with a gate is said on one line, which names what would do."""
    with pytest.raises(ConfigError) as caught:
        make_config(prefill_budget_tokens=8, prefill_gate=spec)
    assert message in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--prefill-gate needs --prefill-budget (tokens per step, for example 2048)"),
        (
            {"prefill_budget_tokens": 8, "has_barrier": False},
            "--prefill-gate is for ranks that wait for each other",
        ),
        (
            {
                "prefill_budget_tokens": 8,
                "prefill_gate": "sglang,token_usage_low_watermark=0.5",
            },
            "--prefill-gate sglang,token_usage_low_watermark=0.5 needs --kv-tokens",
        ),
    ],
)
def test_gates_without_what_they_need(settings: dict[str, Any], message: str) -> None:
    """A gate needs ranks that prefill and wait for each other, and a watermark a limit."""
    with pytest.raises(ConfigError) as caught:
        make_config(**({"prefill_gate": "sglang"} | settings))
    assert str(caught.value).startswith(message)


def test_defaults_are_those_of_the_engines() -> None:
    """Named alone, a gate is as its engine has it, but switched on."""
    assert SglangDelayer(max_delay_passes=30) == make_gate("sglang")
    assert TrtllmBalance(timeout_iters=50, batching_wait_iters=10) == make_gate("trtllm")
    assert VllmInterval(prefill_schedule_interval=1) == make_gate("vllm")
