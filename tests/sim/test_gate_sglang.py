"""SGLang's prefill delayer, worked by hand as `tests.sim.gated` says."""

from __future__ import annotations

import pytest

from tests.sim.gated import LONG, admitted, serve


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
