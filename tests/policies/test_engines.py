"""The rules inside engines and gateways, against scores and choices worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from balanceroute.errors import ConfigError
from balanceroute.policies.engines import vllm_dp_score
from tests.policies.views import build, make_view, placements, ranks_in_order

SCORES = [
    # waiting, running, in flight, KV usage, front ends, score
    ((0, 9, 10, 0.4), 1, 10.0),  # the larger of 10 and 9
    ((0, 9, 5, 0.4), 2, 10.0),  # two front ends: 2·5
    ((0, 9, 5, 1.0), 1, 9.0),  # no request waits, so full KV costs nothing
    ((4, 8, 3, 0.5), 1, 12.0),  # pressure starts above one half
    ((4, 8, 3, 0.75), 1, 18.0),  # 12 + 6·4·¼
    ((4, 8, 3, 1.0), 1, 24.0),  # 12 + 6·4·½
]


@pytest.mark.parametrize(("signals", "num_frontends", "expected"), SCORES)
def test_vllm_score(
    signals: tuple[int, int, int, float], num_frontends: int, expected: float
) -> None:
    """max(clients·inflight, waiting + running) + 6·waiting·max(0, kv − ½)."""
    arrays = [np.array([signal]) for signal in signals]
    assert [expected] == vllm_dp_score(*arrays, num_frontends=num_frontends).tolist()


def test_vllm_takes_the_lowest_score() -> None:
    """Each request that is sent adds one to its rank's requests in flight."""
    view = make_view(
        load=[500, 900, 100],
        kv=1000,
        running=[8, 3, 9],
        waiting=[0, 2, 0],
        inflight=[8, 5, 9],
        is_immediate=True,
    )
    # Scores 8, 5 + 6·2·0.4 = 9.8, 9: two go to rank 0 (9, then a tie at 9 with rank 2 that the
    # scan from rank 0 gives to rank 0), and with 10, 9.8, 9 the third to rank 2; 10, 9.8, 10.
    assert [0, 0, 2, 1] == ranks_in_order(build("vllm"), view, [10] * 4)


def test_vllm_weighs_its_own_requests_by_the_number_of_front_ends() -> None:
    """With four front ends one request sent stands for four in flight."""
    view = make_view(load=[0, 0], running=[0, 6], inflight=[0, 0], is_immediate=True)
    # 4·inflight against 6 running elsewhere: 0, 4 on rank 0, and then 8 there against 6.
    policy = build("vllm,num_frontends=4")
    assert [0, 0, 1] == ranks_in_order(policy, view, [10] * 3)


def test_vllm_starts_the_scan_one_rank_later_each_time() -> None:
    """Ranks with equal scores take turns."""
    policy = build("vllm")
    view = make_view(load=[0, 0, 0], is_immediate=True)
    assert [[0], [1], [2], [0]] == [ranks_in_order(policy, view, [10]) for _ in range(4)]


@pytest.mark.parametrize("spec", ["vllm", "vllm_4w_r", "vllm_rust"])
def test_queue_lengths_are_up_to_100_ms_old(spec: str) -> None:
    """A snapshot serves until it is 100 ms old; then the next plan takes a new one."""
    policy = build(spec)
    chosen = []
    for now_s, busy_rank in ((0.0, 0), (0.05, 1), (0.0999, 1), (0.1, 1)):
        running = [50 * (rank == busy_rank) for rank in range(2)]
        view = make_view(
            load=[0, 0], running=running, inflight=[0, 0], now_s=now_s, is_immediate=True
        )
        chosen += ranks_in_order(policy, view, [10])
    assert [1, 1, 1, 0] == chosen


def test_vllm_snapshots_can_be_switched_off() -> None:
    """`snapshot_s=0` sees every view as it is."""
    policy = build("vllm_4w_r,snapshot_s=0")
    busy_0 = make_view(load=[0, 0], running=[9, 0], is_immediate=True)
    busy_1 = make_view(load=[0, 0], running=[0, 9], is_immediate=True)
    assert [[1], [0]] == [ranks_in_order(policy, view, [10]) for view in (busy_0, busy_1)]


def test_vllm_4w_r_adds_its_own_requests_to_the_snapshot() -> None:
    """4·waiting + running; a request sent counts as waiting until the next snapshot."""
    policy = build("vllm_4w_r")
    view = make_view(load=[0, 0], running=[7, 2], waiting=[0, 1], is_immediate=True)
    # 7 and 4 + 2 = 6: rank 1; then 7 and 10: rank 0; then 11 and 10: rank 1.
    assert [1, 0, 1] == ranks_in_order(build("vllm_4w_r"), view, [10] * 3)
    assert [[1], [0], [1]] == [ranks_in_order(policy, view, [10]) for _ in range(3)]


def test_vllm_4w_r_knows_nothing_of_requests_in_flight() -> None:
    """Only the snapshot and the own increments count."""
    view = make_view(load=[0, 0], running=[1, 0], inflight=[0, 50], is_immediate=True)
    assert [1] == ranks_in_order(build("vllm_4w_r"), view, [10])


def test_vllm_rust_counts_waiting_requests_four_times() -> None:
    """max(inflight, running + waiting) + 3·waiting."""
    view = make_view(
        load=[0, 0, 0],
        running=[1, 5, 0],
        waiting=[2, 0, 0],
        inflight=[3, 5, 7],
        is_immediate=True,
    )
    # 3 + 3·2 = 9, max(5, 5) = 5, max(7, 0) = 7: rank 1 three times (6, 7, and the tie at 7 goes to
    # the lower rank), then rank 2 twice (8, tie at 8 with rank 1, which is lower and gets 9).
    assert [1, 1, 1, 2, 1] == ranks_in_order(build("vllm_rust"), view, [10] * 5)


def test_trtllm_adp_deals_the_longest_prompt_to_the_lightest_rank() -> None:
    """A heap of (prompt tokens resident, requests); output tokens do not count."""
    view = make_view(load=[9000, 100, 100], prompts=[0, 50, 50], running=[1, 2, 1])
    # 30 to rank 0 (0 tokens), 25 to rank 0 (30 < 50), 20 to rank 2 (50 tokens, 1 request; rank 1
    # has 2), 10 to rank 1 (50 against 55 and 70).
    assert [(2, 0), (1, 0), (3, 2), (0, 1)] == placements(
        build("trtllm_adp"), view, [10, 25, 30, 20]
    )


def test_trtllm_adp_sorts_only_the_requests_that_find_a_slot() -> None:
    """Two slots take the two oldest requests, however long the third is."""
    view = make_view(load=[0, 0], slots=1)
    assert [(1, 0), (0, 1)] == placements(build("trtllm_adp"), view, [10, 20, 999])


def test_smg_least_load_is_a_formula() -> None:
    """(queued + in-flight tokens) / throughput + 0.15·k / (1 − k)."""
    policy = build("smg_least_load,window_s=10")
    idle = make_view(load=[0, 0], now_s=0.0, is_immediate=True)
    assert [0] == ranks_in_order(policy, idle, [10])
    # In 10 s the ranks make 1,000 and 3,000 tokens: 100 and 300 a second.
    busy = make_view(
        load=[400, 900], due=[100, 300], kv=1000, generated=[1000, 3000], now_s=10.0,
        is_immediate=True,
    )  # fmt: skip
    # 500/100 + 0.15·0.4/0.6 = 5.1 s against 1200/300 + 0.15·0.9/0.1 = 5.35 s.
    assert [0] == ranks_in_order(policy, busy, [10])
    # With rank 1's KV half full the second term is 0.15 s, and rank 1 is done first: 4.15 s.
    roomy = make_view(
        load=[400, 900], due=[100, 300], kv=[1000, 1800], generated=[1000, 3000], now_s=10.1,
        is_immediate=True,
    )  # fmt: skip
    assert [1] == ranks_in_order(policy, roomy, [10])


def test_smg_least_load_takes_ranks_as_equally_fast_until_it_has_measured() -> None:
    """Then the queued and in-flight tokens decide."""
    view = make_view(load=[100, 50], due=[0, 60], is_immediate=True)
    assert [0, 1] == ranks_in_order(build("smg_least_load"), view, [20, 1])


def test_smg_least_load_bears_a_full_rank() -> None:
    """Usage 1 would be infinitely many seconds; the rank is merely the last choice."""
    view = make_view(load=[1000, 999], kv=1000, is_immediate=True)
    assert [1] == ranks_in_order(build("smg_least_load"), view, [20])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vllm,num_frontends=0", "num_frontends must be at least 1, got 0"),
        ("vllm,snapshot_s=-1", "snapshot_s must be at least 0 seconds, got -1.0"),
        ("vllm_rust,snapshot_s=nan", "snapshot_s must be at least 0 seconds, got nan"),
        ("smg_least_load,window_s=0", "window_s must be above 0 seconds, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(spec: str, message: str) -> None:
    """The message names the policy, the setting and what is allowed."""
    with pytest.raises(ConfigError, match=f"policy {spec.partition(',')[0]}: {message}"):
        build(spec)


def test_vllm_score_refuses_no_front_ends() -> None:
    """The function checks what the constructor checks."""
    one = np.ones(1, np.int64)
    with pytest.raises(ConfigError, match="num_frontends must be at least 1, got 0"):
        vllm_dp_score(one, one, one, np.ones(1), num_frontends=0)
