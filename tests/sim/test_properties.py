"""What must hold of every run, on small random instances under many policies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balanceroute.kernels.lockstep import ALWAYS, BOUNDARY, DUE, NEVER
from balanceroute.policies.base import follows_requests
from balanceroute.policies.registry import BUILT_IN
from balanceroute.sim.group import SimGroup
from balanceroute.types import RunRecords, Workload
from tests.sim.runs import (
    EIGHTH_A_TOKEN,
    Watched,
    columns,
    make_config,
    make_workload,
    named,
    run,
)

POLICIES = (*BUILT_IN, "br_0,select_by=margin", "br_0,r_max=8,s_greedy=0")

# Gaps in quarters of a second put many arrivals on step boundaries and on each other.
LENGTHS = st.tuples(st.integers(1, 30), st.integers(1, 12), st.sampled_from([0, 0, 1, 2, 7, 90]))
CACHED = st.sampled_from([0.0, 0.0, 0.3, 1.0])  # of what may be cached of a prompt


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Draw up to 24 requests with arrival times, some with a cached prefix."""
    rows = draw(st.lists(st.tuples(LENGTHS, CACHED), min_size=1, max_size=24))
    prompts, outputs, gaps = zip(*(lengths for lengths, _ in rows), strict=True)
    cached = [int(share * (lengths[0] - 1)) for lengths, share in rows]
    workload = make_workload(prompts, outputs, np.cumsum(gaps) / 4)
    return replace(workload, cached_tokens=np.array(cached, np.int32))


@st.composite
def groups(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a small group; 42 KV tokens are what the longest request needs."""
    num_slots = draw(st.integers(1, 4))
    budget = draw(st.none() | st.integers(num_slots, num_slots + 30))
    return {
        "step_time": EIGHTH_A_TOKEN,
        "num_ranks": draw(st.integers(1, 3)),
        "num_slots": num_slots,
        "kv_tokens": draw(st.none() | st.integers(42, 90)),
        "prefill_budget_tokens": budget,
        "prefix_cache": budget is not None and draw(st.booleans()),
        "binding": draw(st.sampled_from([None, "pooled", "immediate"])),
        "staleness_s": draw(st.sampled_from([0.0, 0.0, 0.3, 5.0, 10_000.0])),
    }


def examples(num_examples: int) -> settings:
    return settings(max_examples=num_examples, deadline=None, derandomize=True)


def same_but_for_wall_times(one: RunRecords, other: RunRecords) -> bool:
    """Tell whether two runs left the same bytes, NaN included."""
    return all(
        np.array_equal(np.array(column), np.array(columns(theirs)[name]), equal_nan=True)
        for mine, theirs in ((one.steps, other.steps), (one.requests, other.requests))
        for name, column in columns(mine).items()
    )


@examples(150)
@given(workloads(), groups(), st.sampled_from(POLICIES))
def test_every_request_is_served_once(
    workload: Workload, group: dict[str, Any], policy: str
) -> None:
    """Each request is admitted after it arrived, runs without a gap, and ends with its last token.

    A request that was never preempted gets one token in each step from its first to its last; a
    preempted one takes longer. The steps make as many tokens as the requests ask for: recomputed
    tokens are not made again.
    """
    records = run(workload, policy, **group)
    requests, steps = records.requests, records.steps
    assert np.isfinite(requests.finished_s).all()
    assert (requests.arrival_s <= requests.admitted_s).all()
    assert (requests.admitted_s < requests.first_token_s).all()
    ends_s = steps.start_s + steps.duration_s
    first = np.searchsorted(ends_s, requests.first_token_s)
    last = np.searchsorted(ends_s, requests.finished_s)
    assert (ends_s[last] == requests.finished_s).all()
    is_whole = requests.num_preemptions == 0
    assert (last - first == workload.output_tokens - 1)[is_whole].all()
    assert (last - first >= workload.output_tokens - 1).all()
    assert workload.output_tokens.sum() == steps.num_tokens.sum()
    if group["kv_tokens"] is None:
        assert is_whole.all()


@examples(150)
@given(workloads(), groups(), st.sampled_from(POLICIES))
def test_limits_hold_at_every_step(workload: Workload, group: dict[str, Any], policy: str) -> None:
    """No rank holds more requests or KV tokens than it can, and steps follow one another.

    Pooled and with KV tokens to spare, the router sends a request only where a slot is free, so
    nothing ever waits inside a rank that has no prefill budget.
    """
    records = run(workload, policy, **group)
    steps = records.steps
    assert steps.num_running.max() <= group["num_ranks"] * group["num_slots"]
    if group["kv_tokens"] is not None:
        assert steps.max_load_tokens.max() <= group["kv_tokens"]
    elif group["prefill_budget_tokens"] is None and records.binding == "pooled":
        assert steps.num_waiting.max() == 0
    assert (steps.start_s[1:] >= (steps.start_s + steps.duration_s)[:-1]).all()
    assert (steps.min_load_tokens * group["num_ranks"] <= steps.sum_load_tokens).all()
    assert (steps.sum_load_tokens <= steps.max_load_tokens * group["num_ranks"]).all()
    assert (steps.refill_max_load_tokens <= steps.refill_sum_load_tokens).all()
    assert steps.refill_sum_load_tokens[-1] == 0


@examples(100)
@given(workloads(), groups(), st.integers(0, 2**32 - 1))
def test_the_ledger_agrees_with_a_recount(
    workload: Workload, group: dict[str, Any], seed: int
) -> None:
    """In the middle of each step and at its end, running totals are what the requests add up to.

    Requests are sent to any rank at any time, so the ledger grows while steps are under way.
    """
    rng = np.random.default_rng(seed)
    limits = make_config(pool_size=1, **group)
    sim = SimGroup(limits, workload)
    num_sent = 0
    while True:
        rows = np.arange(num_sent, workload.num_requests)[: rng.integers(9)]
        sim.dispatch(rows, rng.integers(limits.num_ranks, size=len(rows)), 0.0)
        num_sent += len(rows)
        assert sim.ledger.recount().tolist() == sim.ledger.ranks.tolist()
        if not sim.is_at_boundary:
            assert BOUNDARY == sim.advance(np.inf, ALWAYS)
        elif sim.advance(sim.now_s + 0.5, NEVER) == DUE:  # half a second is less than a step
            assert (sim.ledger.ranks["num_running"] <= sim.num_slots).all()
            assert (sim.ledger.ranks["load_tokens"] <= sim.kv_tokens).all()
        elif num_sent == workload.num_requests:
            break
    totals = sim.ledger.ranks
    for name in ("load_tokens", "due_tokens", "prompt_tokens", "num_running", "num_waiting"):
        assert (totals[name] == 0).all(), name
    assert workload.output_tokens.sum() == totals["generated_tokens"].sum()


@examples(40)
@given(workloads(), groups(), st.sampled_from(POLICIES), st.integers(0, 3))
def test_the_same_seed_gives_the_same_records(
    workload: Workload, group: dict[str, Any], policy: str, seed: int
) -> None:
    """Two runs with the same inputs leave the same records, byte for byte."""
    again = [run(workload, policy, seed=seed, **group) for _ in range(2)]
    assert same_but_for_wall_times(*again)


@examples(80)
@given(workloads(), groups(), st.sampled_from(POLICIES))
def test_prefill_that_costs_nothing_is_decode_only(
    workload: Workload, group: dict[str, Any], policy: str
) -> None:
    """With a budget that never binds and t_p = 0, co-located ranks are decode-only ranks."""
    unlimited = group | {"prefill_budget_tokens": 1_000_000}
    decode_only = group | {"prefill_budget_tokens": None, "prefix_cache": False}
    assert same_but_for_wall_times(
        run(workload, policy, **unlimited), run(workload, policy, **decode_only)
    )


@examples(80)
@given(workloads(), groups(), st.sampled_from(POLICIES))
def test_publications_at_every_boundary_are_exact(
    workload: Workload, group: dict[str, Any], policy: str
) -> None:
    """State published at each step boundary is no staler than the truth.

    Steps and arrivals fall on multiples of 1/8 s, so a staleness of 1/8 s publishes at each of
    them. In the middle of a step nothing is published, since only the router's own sends are new;
    so a policy that follows requests, which sees sends among its entries, is asked at boundaries.
    """
    if follows_requests(named(policy)):
        group = group | {"binding": "pooled"}
    exact, published = group | {"staleness_s": 0.0}, group | {"staleness_s": 1 / 8}
    assert same_but_for_wall_times(
        run(workload, policy, **exact), run(workload, policy, **published)
    )


@examples(40)
@given(workloads(), groups(), st.integers(1, 9), st.sampled_from(["stationary", "empty"]))
def test_a_saturated_pool_is_full_until_it_runs_dry(
    workload: Workload, group: dict[str, Any], pool_size: int, start: str
) -> None:
    """The router sees a full pool at every call until the requests run out; then the window ends.

    Without KV limits or a budget, a pool that can fill all slots keeps them busy until then.
    """
    free = {
        "kv_tokens": None,
        "prefill_budget_tokens": None,
        "prefix_cache": False,
        "staleness_s": 0.0,
    }
    saturated = {"arrivals": "saturated", "pool_size": pool_size, "binding": "pooled"}
    num_slots = group["num_ranks"] * group["num_slots"]
    enough = make_workload(
        np.resize(workload.prompt_tokens, 4 * num_slots + pool_size),
        np.resize(workload.output_tokens, 4 * num_slots + pool_size),
    )
    watched = Watched(named("least_tokens"))
    records = run(enough, watched, warmup_steps=0, start=start, **(group | free | saturated))
    dry_s = records.window_s[1]
    seen = zip(watched.now_s, watched.num_pooled, strict=True)
    assert {pool_size} == {size for now_s, size in seen if now_s < dry_s}
    if pool_size >= num_slots:
        before = records.steps.start_s < dry_s
        assert (records.steps.num_running[before] == num_slots).all()
    requests = records.requests
    assert np.isfinite(requests.finished_s).all()
    assert requests.arrival_s.max() <= dry_s < records.steps.start_s[-1] + 1


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("binding", ["pooled", "immediate"])
def test_every_policy_serves_a_saturated_group(policy: str, binding: str) -> None:
    """Whatever the policy and the binding, a saturated run ends with everything served."""
    rng = np.random.default_rng(15)
    workload = make_workload(rng.integers(1, 60, 400), rng.geometric(0.2, 400))
    records = run(
        workload,
        policy,
        arrivals="saturated",
        binding=binding,
        num_ranks=3,
        num_slots=4,
        kv_tokens=250,
        prefill_budget_tokens=64,
        prefill_s_per_token=0.01,
    )
    assert np.isfinite(records.requests.finished_s).all()
    assert records.window_s[0] < records.window_s[1] < records.steps.start_s[-1]
