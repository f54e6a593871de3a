"""What must hold of every run whose requests are on their way to a rank for a while."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from balanceroute.kernels.lockstep import IDLE, NEVER
from balanceroute.sim.delivery import Delivery
from balanceroute.sim.group import SimGroup
from balanceroute.types import RequestRecords, RunRecords, StepRecords, Workload
from tests.sim.runs import columns, make_config, run
from tests.sim.test_properties import (
    POLICIES,
    examples,
    groups,
    same_but_for_wall_times,
    workloads,
)

GATES = (
    "sglang,max_delay_passes=4",
    "sglang,queue_min_ratio=0.5",
    "trtllm,timeout_iters=5,batching_wait_iters=2",
    "vllm,prefill_schedule_interval=3",
)


class Sends:
    """What a run sent, in order: rows, their ranks, when, and when they would arrive."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.ranks: list[int] = []
        self.sent_s: list[float] = []
        self.arrives_s: list[float] = []

    def run(self, workload: Workload, policy: str, **settings: Any) -> RunRecords:
        """Simulate, and note all sends."""
        dispatch = SimGroup.dispatch

        def noted(
            group: SimGroup,
            requests: NDArray[np.int64],
            ranks: NDArray[np.int64],
            now_s: float,
            arrives_s: NDArray[np.float64],
        ) -> None:
            self.rows += requests.tolist()
            self.ranks += ranks.tolist()
            self.sent_s += [now_s] * len(requests)
            self.arrives_s += arrives_s.tolist()
            dispatch(group, requests, ranks, now_s, arrives_s)

        with patch.object(SimGroup, "dispatch", noted):
            return run(workload, policy, **settings)


@st.composite
def delayed_groups(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a small group with a delay, jitter, or both; with gates, with and without a barrier."""
    group = draw(groups())
    group["delivery_s"] = draw(st.sampled_from([0.0, 1e-9, 0.25, 0.3, 1.0, 7.7]))
    least_s = 0.1 if group["delivery_s"] == 0 else 0.0
    group["delivery_jitter_s"] = draw(st.sampled_from([least_s, 0.5, 12.0]))
    group["has_barrier"] = draw(st.booleans())
    if group["prefill_budget_tokens"] is not None and group["has_barrier"]:
        group["prefill_gate"] = draw(st.sampled_from([None, *GATES]))
    return group


@examples(150)
@given(workloads(), delayed_groups(), st.sampled_from(POLICIES))
def test_nothing_is_lost_and_ranks_get_requests_in_order(
    workload: Workload, group: dict[str, Any], policy: str
) -> None:
    """Each request is sent once, starts when it is there, behind those sent before it, and ends.

    Its time on the way is the delay and at most the jitter. No step is made for nothing.
    """
    sends = Sends()
    records = sends.run(workload, policy, **group)
    requests, steps = records.requests, records.steps
    assert sorted(sends.rows) == list(range(workload.num_requests))
    delays_s = np.array(sends.arrives_s) - sends.sent_s
    assert (delays_s >= group["delivery_s"] - 1e-9).all()
    assert (delays_s <= group["delivery_s"] + group["delivery_jitter_s"] + 1e-9).all()
    assert sends.ranks == requests.rank[sends.rows].tolist()
    for rank in range(group["num_ranks"]):
        is_here = np.array(sends.ranks) == rank
        admitted_s = requests.admitted_s[np.array(sends.rows)[is_here]]
        assert (np.diff(admitted_s) >= 0).all()
        assert (admitted_s >= np.maximum.accumulate(np.array(sends.arrives_s)[is_here])).all()
    assert np.isin(requests.admitted_s, steps.start_s).all()
    assert np.isfinite(requests.finished_s).all()
    assert workload.output_tokens.sum() == steps.num_tokens.sum()
    assert steps.num_running.min() > 0
    assert same_but_for_wall_times(records, run(workload, policy, **group))


def rows_without(column: str, records: StepRecords | RequestRecords) -> list[tuple[Any, ...]]:
    """Return the rows of records, less one column."""
    kept = columns(records)
    del kept[column]
    return list(zip(*kept.values(), strict=True))


@examples(120)
@given(
    workloads(),
    groups(),
    st.sampled_from([0.125, 0.25, 1.0, 3.5]),
    st.booleans(),
    st.sampled_from([None, *GATES]),
)
def test_a_delay_is_a_later_arrival(
    workload: Workload,
    group: dict[str, Any],
    delivery_s: float,
    has_barrier: bool,
    gate: str | None,
) -> None:
    """To the ranks, requests that are bound on arrival come as much later as they are on the way.

    Round robin looks at nothing, so it makes the same plans. All times are multiples of 1/8 s, so
    every record is the same, but that requests on their way count as waiting.
    """
    group = group | {"binding": "immediate", "has_barrier": has_barrier}
    if group["prefill_budget_tokens"] is not None and has_barrier:
        group["prefill_gate"] = gate
    assert workload.arrival_s is not None
    later = replace(workload, arrival_s=workload.arrival_s + delivery_s)
    sent = run(workload, "round_robin", delivery_s=delivery_s, **group)
    shifted = run(later, "round_robin", **group)
    assert rows_without("arrival_s", shifted.requests) == rows_without("arrival_s", sent.requests)
    # Without a barrier, steps that begin in the same instant are in no particular order.
    expected, actual = (sorted(rows_without("num_waiting", r.steps)) for r in (shifted, sent))
    assert expected == actual
    assert sent.steps.num_waiting.sum() >= shifted.steps.num_waiting.sum()


@examples(80)
@given(workloads(), groups(), st.sampled_from(POLICIES), st.booleans())
def test_a_way_of_no_length_changes_nothing(
    workload: Workload, group: dict[str, Any], policy: str, has_barrier: bool
) -> None:
    """Requests that are there in the instant in which they were sent were never on their way."""
    group = group | {"has_barrier": has_barrier}
    without = run(workload, policy, **group)
    with patch.object(Delivery, "arrives_s", lambda _, now_s, size: np.full(size, now_s)):
        assert same_but_for_wall_times(without, run(workload, policy, **group))


@examples(60)
@given(workloads(), groups(), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_ledger_agrees_with_a_recount(
    workload: Workload, group: dict[str, Any], has_barrier: bool, seed: int
) -> None:
    """At any time, totals are what the requests add up to, those on their way included."""
    rng = np.random.default_rng(seed)
    sim = SimGroup(make_config(pool_size=1, has_barrier=has_barrier, **group), workload)
    num_sent, now_s = 0, 0.0
    while True:
        rows = np.arange(num_sent, workload.num_requests)[: rng.integers(9)]
        ranks = rng.integers(group["num_ranks"], size=len(rows))
        sim.dispatch(rows, ranks, now_s, now_s + 5 * rng.random(len(rows)))
        num_sent += len(rows)
        assert sim.ledger.recount().tolist() == sim.ledger.ranks.tolist()
        now_s += 0.5
        if sim.advance(now_s, NEVER) == IDLE and num_sent == workload.num_requests:
            break
        assert sim.ledger.recount().tolist() == sim.ledger.ranks.tolist()
    assert 0 == sim.ledger.num_in_flight
    assert workload.output_tokens.sum() == sim.ledger.ranks["generated_tokens"].sum()
