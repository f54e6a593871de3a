"""TensorRT-LLM's attention-DP balance, worked by hand as `tests.sim.gated` says."""

from __future__ import annotations

import pytest

from tests.sim.gated import LONG, admitted, serve


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
