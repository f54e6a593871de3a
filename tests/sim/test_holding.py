"""Policies that hold requests back although slots are free, and when they are asked again."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import PlanError
from balanceroute.policies.base import Binding, Plan
from balanceroute.policies.classic import assign_lowest
from balanceroute.sim.run import simulate
from tests.sim.runs import Holding, Watched, make_config, make_workload, run


class Gathering:
    """Holds requests until so many wait, or until a time, and sends them where least run."""

    binding: ClassVar[Binding] = "pooled"

    def __init__(self, num_requests: int, *, until_s: float = np.inf) -> None:
        self._num_requests = num_requests
        self._until_s = until_s

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send all that fit, or none."""
        if len(pool) < self._num_requests and view.now_s < self._until_s:
            return Plan.oldest(np.zeros(0, np.int64))
        runs = view.num_inflight_reqs.astype(np.float64)
        return Plan.oldest(assign_lowest(view, pool, runs, np.ones(len(pool))))


class FirstThenGathering(Gathering):
    """The same, but the first request does not wait."""

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send the oldest at time 0."""
        return Plan.oldest(np.zeros(1, np.int64)) if view.now_s == 0 else super().plan(view, pool)


@pytest.mark.parametrize("has_barrier", [True, False])
@pytest.mark.parametrize("staleness_s", [0.0, 2.5])
def test_a_running_group_asks_again_at_each_boundary(staleness_s: float, has_barrier: bool) -> None:
    """While a request runs, one that is held back is offered at the end of every step.

    One rank, steps of 1 s. The first request runs from 0 to 6; the second comes at 0.5 and is held
    until the clock shows 4.
    """
    watched = Watched(FirstThenGathering(9, until_s=4.0))
    records = run(
        make_workload([5, 5], [6, 1], [0.0, 0.5]),
        watched,
        num_slots=2,
        staleness_s=staleness_s,
        has_barrier=has_barrier,
    )
    assert [0.0, 1.0, 2.0, 3.0, 4.0] == watched.now_s
    assert [0.0, 4.0] == records.requests.admitted_s.tolist()
    assert [6.0, 5.0] == records.requests.finished_s.tolist()


def test_idle_ranks_ask_at_the_boundaries_of_the_others() -> None:
    """Without a barrier an idle rank can take a request at any time: on arrival, and at each end.

    Rank 0 runs the first request from 0 to 6, rank 1 is idle until the second comes off hold.
    """
    watched = Watched(FirstThenGathering(9, until_s=4.0))
    workload = make_workload([5, 5], [6, 1], [0.0, 0.5])
    records = run(workload, watched, num_ranks=2, has_barrier=False)
    assert [0.0, 0.5, 1.0, 2.0, 3.0, 4.0] == watched.now_s
    assert [0, 1] == records.requests.rank.tolist()
    assert [0.0, 4.0] == records.requests.admitted_s.tolist()
    # With state published every 2.5 s, ranks show something new then, and the policy is asked too.
    stale = Watched(FirstThenGathering(9, until_s=4.0))
    run(workload, stale, num_ranks=2, has_barrier=False, staleness_s=2.5)
    assert [0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 4.0] == stale.now_s


@pytest.mark.parametrize("has_barrier", [True, False])
@pytest.mark.parametrize("staleness_s", [0.0, 3.0])
def test_an_idle_group_waits_for_the_next_arrival(staleness_s: float, has_barrier: bool) -> None:
    """Where no request runs, time goes on to the next arrival, and no step is made meanwhile."""
    watched = Watched(Gathering(3))
    records = run(
        make_workload([5] * 3, [1, 2, 1], [0.0, 10.0, 20.5]),
        watched,
        num_ranks=2,
        num_slots=2,
        staleness_s=staleness_s,
        has_barrier=has_barrier,
    )
    assert [0.0, 10.0, 20.5] == watched.now_s
    assert [20.5] * 3 == records.requests.admitted_s.tolist()
    assert 20.5 == records.steps.start_s[0]


def test_a_stale_router_is_asked_once_it_sees_the_group_idle() -> None:
    """A publication that shows the last request gone is an event, those after it are none.

    The first request runs from 0 to 1, the second comes at 0.5, the third at 10; state is published
    every 3 s, so that the router sees an idle group at 3.
    """
    settings: dict[str, Any] = {"num_slots": 2}
    workload = make_workload([5] * 3, [1] * 3, [0.0, 0.5, 10.0])
    exact, stale = (Watched(FirstThenGathering(2)) for _ in range(2))
    run(workload, exact, **settings)
    assert [0.0, 1.0, 10.0] == exact.now_s
    records = run(workload, stale, staleness_s=3.0, **settings)
    assert [0.0, 1.0, 3.0, 10.0] == stale.now_s
    assert [0.0, 10.0, 10.0] == records.requests.admitted_s.tolist()


@pytest.mark.parametrize("has_barrier", [True, False])
@pytest.mark.parametrize("staleness_s", [0.0, 3.0])
def test_the_rest_that_is_never_sent(staleness_s: float, has_barrier: bool) -> None:
    """Three requests for a policy that sends two at a time: the error comes once nothing runs."""
    watched = Watched(Gathering(2))
    workload = make_workload([5] * 3, [4] * 3, [0.0, 0.0, 2.5])
    with pytest.raises(PlanError, match="Watched holds back 1 requests while the group is idle"):
        run(
            workload,
            watched,
            num_ranks=2,
            num_slots=2,
            staleness_s=staleness_s,
            has_barrier=has_barrier,
        )
    assert watched.now_s[-1] >= 4.0  # after the last step of the two


def test_the_error_names_the_policy_as_the_user_wrote_it() -> None:
    """A comparison of several policies says which of them holds requests back."""
    config = make_config()
    with pytest.raises(PlanError, match=r"^waves,patience=3 holds back 1 requests"):
        simulate(make_workload([5], [1], [0.0]), config, Holding(), label="waves,patience=3")
