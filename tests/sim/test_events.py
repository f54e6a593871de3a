"""What a run tells a policy that follows requests, against the records that it leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.cluster import ledger
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.kernels.ledger import ENDED, PREEMPTED, SENT, RecordArray
from balanceroute.policies.base import Plan
from balanceroute.policies.classic import LeastTokens
from balanceroute.sim.config import StepTime
from balanceroute.types import Workload
from tests.policies.following import Following
from tests.sim.runs import EIGHTH_A_TOKEN, make_workload, named, run
from tests.sim.test_properties import examples, groups, same_but_for_wall_times, workloads

KNOWN = ("client_ids", "max_tokens", "prompt_hashes")
COSTLY = StepTime(name="costly requests", constant_s=1.0, s_per_token=1e-3, kappa0_tokens=7.0)


def known(workload: Workload) -> Workload:
    """Return a workload with all that may be known of its requests."""
    rows = np.arange(workload.num_requests)
    return replace(
        workload,
        client_ids=(rows % 3).astype(np.int32),
        max_tokens=np.where(rows % 2, workload.output_tokens + 5, 0).astype(np.int32),
        prompt_hashes=(rows % 4) - 2,
    )


def rows_of(events: RecordArray, kind: int) -> list[int]:
    """Return the requests of all events of a kind, in order."""
    found: list[int] = events["request"][events["kind"] == kind].tolist()
    return found


def check_told(told: RecordArray, workload: Workload, requests: Any) -> None:
    """See that every event of a request of the workload tells its lengths, rank and traits."""
    row = told["request"]
    assert (told["prompt_tokens"] == workload.prompt_tokens[row]).all()
    assert (told["rank"] == requests.rank[row]).all()
    assert (told["client"] == np.asarray(workload.client_ids)[row]).all()
    assert (told["max_tokens"] == np.asarray(workload.max_tokens)[row]).all()
    assert (told["prompt_hash"] == np.asarray(workload.prompt_hashes)[row]).all()
    has_ended = told["kind"] == ENDED
    assert (told["generated_tokens"] <= workload.output_tokens[row]).all()
    assert (told["generated_tokens"] == workload.output_tokens[row])[has_ended].all()
    assert (told["has_completed"] == has_ended).all()


@examples(150)
@given(workloads(), groups(), st.booleans())
def test_events_add_up_to_the_records(
    workload: Workload, group: dict[str, Any], has_barrier: bool
) -> None:
    """At every plan exactly the requests have ended that the records say, preempted as often.

    With stale views they are those of the last publication, S seconds ago or less. (Without a
    barrier another rank may end a step at this very moment, which then counts for neither, and
    publications may be further apart.)
    """
    workload, policy = known(workload), Following()
    staleness_s = group["staleness_s"]
    requests = run(workload, policy, has_barrier=has_barrier, **group).requests
    check_told(policy.told, workload, requests)
    ended: list[int] = []
    num_preempted = np.zeros(workload.num_requests, np.int64)
    for now_s, events in zip(policy.now_s, policy.events, strict=True):
        ended += rows_of(events, ENDED)
        np.add.at(num_preempted, rows_of(events, PREEMPTED), 1)
        latest = set(np.flatnonzero(requests.finished_s <= now_s).tolist())
        shown_s = now_s if staleness_s == 0 else now_s - staleness_s - 1e-9
        least = set(np.flatnonzero(requests.finished_s < shown_s).tolist())
        assert len(ended) == len(set(ended))
        assert set(ended) <= latest
        if has_barrier or staleness_s == 0:
            assert least <= set(ended)
        if has_barrier and staleness_s == 0:
            assert latest == set(ended)
    assert (num_preempted <= requests.num_preemptions).all()
    assert (num_preempted == requests.num_preemptions)[ended].all()


@examples(60)
@given(workloads(), groups(), st.booleans())
def test_following_changes_nothing(
    workload: Workload, group: dict[str, Any], has_barrier: bool
) -> None:
    """A policy that is told of requests leaves the same records as one that is not."""
    pooled = group | {"binding": "pooled", "has_barrier": has_barrier}
    plain = run(workload, LeastTokens(), **pooled)
    assert same_but_for_wall_times(plain, run(workload, Following(), **pooled))


@examples(60)
@given(workloads(), st.integers(1, 3), st.integers(1, 4), st.sampled_from(["pooled", "immediate"]))
def test_ages_are_steps_since_admission(
    workload: Workload, num_ranks: int, num_slots: int, binding: str
) -> None:
    """Without preemptions a request has a token for each step that ended since it started."""
    policy = Following()
    records = run(
        workload,
        policy,
        num_ranks=num_ranks,
        num_slots=num_slots,
        step_time=EIGHTH_A_TOKEN,
        binding=binding,
    )
    starts_s = records.steps.start_s
    ends_s = starts_s + records.steps.duration_s
    for now_s, ages in zip(policy.now_s, policy.ages_tokens, strict=True):
        for row, age in ages.items():
            has_run = (starts_s >= records.requests.admitted_s[row]) & (ends_s <= now_s)
            assert has_run.sum() == age


def test_a_preempted_request_keeps_its_tokens() -> None:
    """By hand: two prompts of 10 in 24 KV tokens have three tokens each when the second must go.

    After its preemption it is computed again, ends with all its tokens, and is told of throughout.
    """
    policy = Following(named("round_robin"))
    workload = make_workload([10, 10, 1], [6, 6, 1], [0.0, 0.0, 90.0])
    records = run(workload, policy, num_slots=2, kv_tokens=24)
    assert [0, 1, 0] == records.requests.num_preemptions.tolist()
    (first, last) = policy.events
    assert [] == first.tolist()
    names = ["kind", "request", "generated_tokens", "has_completed"]
    assert [
        (SENT, 0, 0, 0),
        (SENT, 1, 0, 0),
        (PREEMPTED, 1, 3, 0),
        (ENDED, 0, 6, 1),
        (ENDED, 1, 6, 1),
    ] == last[names].tolist()


@pytest.mark.parametrize("has_barrier", [True, False])
@pytest.mark.parametrize("num_rows", [1, 7, 64])
def test_no_event_is_lost_while_nobody_asks(
    num_rows: int, has_barrier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two plans 900 requests end, where there is room for few events at first."""
    monkeypatch.setattr(ledger, "FEWEST_EVENT_ROWS", num_rows)
    outputs = 1 + np.arange(901) % 7
    arrivals_s = np.zeros(901)
    arrivals_s[-1] = 1e6
    policy = Following()
    workload = known(make_workload(1 + np.arange(901) % 5, outputs, arrivals_s))
    run(workload, policy, num_ranks=2, num_slots=3, binding="immediate", has_barrier=has_barrier)
    (first, last) = policy.events
    assert [] == first.tolist()
    assert list(range(900)) == rows_of(last, SENT)
    assert list(range(900)) == sorted(rows_of(last, ENDED))
    assert outputs[:900].sum() == last["generated_tokens"].sum()


@pytest.mark.parametrize("staleness_s", [0.0, 5.0])
def test_requests_of_a_stationary_start_are_told_of(staleness_s: float) -> None:
    """They are copies of rows of the workload, at some age, and in nobody's log."""
    rng = np.random.default_rng(3)
    workload = known(make_workload(rng.integers(1, 30, 60), rng.integers(1, 12, 60)))
    policy = Following()
    settings: dict[str, Any] = {"num_ranks": 2, "num_slots": 3, "pool_size": 4}
    records = run(workload, policy, arrivals="saturated", staleness_s=staleness_s, **settings)
    first = policy.events[0]
    sent = first[first["kind"] == SENT]
    assert [0, 1, 0, 1, 0, 1] == sent["rank"].tolist()
    assert (workload.prompt_tokens[sent["request"]] == sent["prompt_tokens"]).all()
    assert all(0 <= age < workload.output_tokens[row] for row, age in policy.ages_tokens[0].items())
    told = policy.told
    has_ended = told["kind"] == ENDED
    whole = workload.output_tokens[told["request"]]
    assert (told["generated_tokens"] == whole)[has_ended].all()
    num_logged = int((records.requests.finished_s <= policy.now_s[-1] - staleness_s).sum())
    num_told = int(has_ended.sum())
    assert num_logged <= num_told <= num_logged + 6 + int(staleness_s) * 6


class Peeking(LeastTokens):
    """Notes what it is shown of the waiting requests and of the group."""

    follows_requests: ClassVar[bool] = False

    def __init__(self) -> None:
        self.shown: list[tuple[int, ...]] = []
        self.views: list[GroupView] = []

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Note and plan."""
        columns = (pool.ids, pool.client_ids, pool.max_tokens, pool.prompt_hashes)
        others = (pool.preferred_ranks, pool.saved_tokens)
        self.shown += zip(*(column.tolist() for column in (*columns, *others)), strict=True)
        self.views.append(view)
        return super().plan(view, pool)


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("arrivals", ["trace", "saturated"])
def test_the_pool_shows_what_the_workload_knows(arrivals: str, is_known: bool) -> None:
    """Client, limit and prompt of each request wherever it stands; a simulation prefers no rank."""
    plain = make_workload(1 + np.arange(90) % 13, 1 + np.arange(90) % 7, np.arange(90) / 4)
    workload, policy = known(plain) if is_known else plain, Peeking()
    group = {"num_ranks": 2, "num_slots": 3, "warmup_steps": 0}
    run(workload, policy, arrivals=arrivals, binding="pooled", **group)
    assert 90 == len({row for row, *_ in policy.shown})
    assert len(policy.shown) > 90  # some were left waiting, and moved up
    for row, *traits in policy.shown:
        expected = [workload.columns[name][row] for name in KNOWN] if is_known else [-1, 0, 0]
        assert [*expected, -1, 0] == traits


def test_the_view_shows_what_a_step_costs() -> None:
    """Tokens per request and the ranks' speeds, as configured."""
    policy = Peeking()
    workload = make_workload([3], [1], [0.0])
    run(workload, policy, num_ranks=2, rank_speeds=(1.0, 0.5), step_time=COSTLY)
    run(workload, policy, num_ranks=2)
    slow, equal = policy.views
    assert slow.speeds is not None
    assert [1.0, 0.5] == slow.speeds.tolist()
    assert equal.speeds is None
    assert [7.0, 0.0] == [slow.kappa0_tokens, equal.kappa0_tokens]
    assert slow.entries is None
