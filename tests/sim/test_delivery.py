"""Requests that are on their way to a rank for a while; timelines by hand, steps last C = 1 s."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from balanceroute.kernels.lockstep import ALWAYS, BOUNDARY, DUE, IDLE, NEVER
from balanceroute.sim.delivery import Delivery
from balanceroute.sim.group import SimGroup
from tests.sim.runs import Scripted, Watched, make_config, make_workload, named, run
from tests.sim.test_holding import Gathering
from tests.sim.test_properties import same_but_for_wall_times


@pytest.mark.parametrize("has_barrier", [True, False])
@pytest.mark.parametrize("staleness_s", [0.0, 0.3])
@pytest.mark.parametrize(("binding", "b_admitted_s"), [("pooled", 2.5), ("immediate", 1.5)])
def test_a_request_is_taken_once_it_has_come(
    binding: str, b_admitted_s: float, staleness_s: float, has_barrier: bool
) -> None:
    """A step takes what has reached its rank when it begins, that very instant included."""
    # Half a second on the way. a is sent at 0 and finds the rank idle: steps at 0.5, 1.5, 2.5.
    # b arrives at 1. Pooled, it is sent at the boundary at 1.5, comes at 2, and starts at 2.5.
    # Immediate, it is sent at 1 and comes at 1.5, just as a step begins.
    records = run(
        make_workload([5, 5], [3, 1], [0.0, 1.0]),
        "fcfs",
        num_slots=2,
        binding=binding,
        delivery_s=0.5,
        staleness_s=staleness_s,
        has_barrier=has_barrier,
    )
    assert [0.5, b_admitted_s] == records.requests.admitted_s.tolist()
    assert [1.5, b_admitted_s + 1] == records.requests.first_token_s.tolist()
    assert [3.5, b_admitted_s + 1] == records.requests.finished_s.tolist()
    assert [0.5, 1.5, 2.5] == records.steps.start_s.tolist()


@pytest.mark.parametrize("has_barrier", [True, False])
@pytest.mark.parametrize("staleness_s", [0.0, 1e-9, 0.7, 1e6])
@pytest.mark.parametrize("binding", ["pooled", "immediate"])
def test_an_idle_group_waits_for_the_delivery(
    binding: str, staleness_s: float, has_barrier: bool
) -> None:
    """Nothing steps while all requests are on their way, and each boundary is not waited for."""
    # 4 s on the way. a is there at 4, b (sent at 2) at 6; c, sent at 20, is there at 24.
    records = run(
        make_workload([5] * 3, [1] * 3, [0.0, 2.0, 20.0]),
        "round_robin",
        num_slots=3,
        binding=binding,
        delivery_s=4.0,
        staleness_s=staleness_s,
        has_barrier=has_barrier,
    )
    assert [4.0, 6.0, 24.0] == records.requests.admitted_s.tolist()
    assert [4.0, 6.0, 24.0] == records.steps.start_s.tolist()
    assert [1, 1, 1] == records.steps.num_running.tolist()
    assert [1, 0, 0] == records.steps.num_waiting.tolist()  # b is on its way


@pytest.mark.parametrize(
    ("has_barrier", "b_admitted_s", "starts_s", "num_waiting"),
    [
        (True, 1.5, [0.5, 1.5], [1, 0]),  # b waits for a's step to end, and counts as waiting
        (False, 0.75, [0.5, 0.75], [0, 0]),  # each step counts its own rank
    ],
)
def test_idle_ranks_and_the_steps_of_others(
    has_barrier: bool, b_admitted_s: float, starts_s: list[float], num_waiting: list[int]
) -> None:
    """With a barrier a delivery waits for the step under way, without one only for its rank."""
    # a, rank 0: sent at 0, there at 0.5. b, rank 1: sent at 0.25, there at 0.75.
    records = run(
        make_workload([5, 5], [1, 1], [0.0, 0.25]),
        "round_robin",
        num_ranks=2,
        binding="immediate",
        delivery_s=0.5,
        has_barrier=has_barrier,
    )
    assert [0.5, b_admitted_s] == records.requests.admitted_s.tolist()
    assert starts_s == records.steps.start_s.tolist()
    assert num_waiting == records.steps.num_waiting.tolist()


@pytest.mark.parametrize("has_barrier", [True, False])
def test_nobody_overtakes_on_the_way_to_a_rank(has_barrier: bool) -> None:
    """What is sent later and would be faster comes together with what was sent before it."""
    # Rank 0: 5 s, 1 s and 6 s on the way: there at 5, 5 and 6. Rank 1: there at 2.
    sim = SimGroup(
        make_config(num_ranks=2, num_slots=3, has_barrier=has_barrier),
        make_workload([5] * 4, [1] * 4),
    )
    sim.dispatch(
        np.arange(4), np.array([0, 0, 1, 0]), 0.0, arrives_s=np.array([5.0, 1.0, 2.0, 6.0])
    )
    assert 2.0 == sim.quiet_until_s
    assert DUE == sim.advance(1.5, NEVER)  # nobody has come
    assert sim.is_at_boundary
    assert DUE == sim.advance(2.0, NEVER)  # the router acts before the step that begins at 2
    assert sim.is_at_boundary
    assert BOUNDARY == sim.advance(np.inf, ALWAYS)
    assert 3.0 == sim.now_s
    assert IDLE == sim.advance(np.inf, NEVER)
    records = sim.request_records(np.zeros(4))
    assert [5.0, 5.0, 2.0, 6.0] == records.admitted_s.tolist()
    assert [2.0, 5.0, 6.0] == sim.step_records().start_s.tolist()


@pytest.mark.parametrize("staleness_s", [0.0, 1.0])
def test_the_router_knows_what_it_has_sent(staleness_s: float) -> None:
    """A request on its way counts as waiting at the rank, whether or not the view is stale."""
    # 2 s on the way. Idle until a comes at 2, so the policy is asked at each arrival: at 0, 0.5
    # and 1.5 it sees nobody, a, and a and b as waiting. Steps at 2, 3, 4, ...: b (there at 2.5) and
    # c (3.5) start at 3 and 4. d arrives as the step that began at 2 ends: a runs, b and c wait. It
    # is there at 5.
    watched = Watched(named("fcfs"))
    records = run(
        make_workload([5] * 4, [4] * 4, [0.0, 0.5, 1.5, 3.0]),
        watched,
        num_slots=4,
        delivery_s=2.0,
        staleness_s=staleness_s,
    )
    assert [0.0, 0.5, 1.5, 3.0] == watched.now_s
    assert [[0], [0], [0], [1]] == watched.num_running
    assert [[0], [1], [2], [2]] == watched.num_waiting
    assert [2.0, 3.0, 4.0, 5.0] == records.requests.admitted_s.tolist()


def test_requests_on_their_way_take_slots() -> None:
    """A pooled policy cannot send a request to a slot that one on its way is going to take."""
    # One slot, 2 s on the way, two tokens each. a: sent 0, runs 2 to 4. b can be sent at 4 only.
    records = run(make_workload([5, 5], [2, 2], [0.0, 0.0]), "fcfs", delivery_s=2.0)
    assert [2.0, 6.0] == records.requests.admitted_s.tolist()


def test_a_policy_that_holds_is_asked_at_arrivals_and_ends_of_steps() -> None:
    """A delivery is no event for the router: it does not know of it."""
    # Two at a time. a and b are sent at 1 (b's arrival) and come at 4; c arrives at 2 and is held.
    # Steps at 4 and 5. d arrives at 5.5; both are sent at 6, nothing runs then, and come at 9.
    watched = Watched(Gathering(2))
    records = run(
        make_workload([5] * 4, [2] * 4, [0.0, 1.0, 2.0, 5.5]), watched, num_slots=4, delivery_s=3.0
    )
    assert [0.0, 1.0, 2.0, 5.0, 6.0] == watched.now_s
    assert [4.0, 4.0, 9.0, 9.0] == records.requests.admitted_s.tolist()
    assert [4.0, 5.0, 9.0, 10.0] == records.steps.start_s.tolist()


def test_a_saturated_pool() -> None:
    """Slots are empty while requests are on their way, and a stationary start is there at once."""
    # One slot, one token each, half a second on the way: sent at 0, 1.5, 3, 4.5.
    workload = make_workload([8] * 4, [1] * 4)
    saturated: dict[str, Any] = {"arrivals": "saturated", "pool_size": 1, "warmup_steps": 0}
    records = run(workload, "fcfs", delivery_s=0.5, start="empty", **saturated)
    assert [0.5, 2.0, 3.5, 5.0] == records.requests.admitted_s.tolist()
    assert [0.5, 2.0, 3.5, 5.0] == records.steps.start_s.tolist()
    # From a full start: the slot is free at 1, and the first request is there at 1.5.
    records = run(workload, "fcfs", delivery_s=0.5, start="stationary", **saturated)
    assert [0.0, 1.5, 3.0, 4.5, 6.0] == records.steps.start_s.tolist()


@pytest.mark.parametrize(
    ("gate", "ranks", "arrivals_s", "expected"),
    [
        # a is there at 2. c (rank 0) is there at 4; x (rank 1) is sent at 3.5 and there at 5.5.
        # Until then rank 1 has nothing, which counts as decoding: c is held in steps 4 and 5. In
        # step 6 both can prefill and rank 1 decodes nothing: released.
        ("trtllm", [0, 0, 1], [0.0, 2.0, 3.5], [2.0, 6.0, 6.0]),
        # a is there at 2, c at 2.5. Step 2 leaves nothing in the queue though c is on its way, so
        # the rank is not capacity-bound, and c waits for the third step after 2.
        ("vllm,prefill_schedule_interval=3", [0, 0], [0.0, 0.5], [2.0, 5.0]),
        # a and b are there at 2. c (rank 0) is there at 4.5, d (rank 1) at 5.5. In step 5 only
        # rank 0 can prefill; in step 6 both can.
        ("sglang", [0, 1, 0, 1], [0.0, 0.0, 2.5, 3.5], [2.0, 2.0, 6.0, 6.0]),
    ],
)
def test_gates_do_not_see_what_is_on_its_way(
    gate: str, ranks: list[int], arrivals_s: list[float], expected: list[float]
) -> None:
    """Engines wait for each other by what has reached them."""
    num_requests = len(ranks)
    records = run(
        make_workload([2] * num_requests, [40] * num_requests, arrivals_s),
        Scripted(ranks),
        num_ranks=2,
        num_slots=4,
        binding="immediate",
        prefill_budget_tokens=16,
        prefill_gate=gate,
        delivery_s=2.0,
    )
    assert expected == records.requests.admitted_s.tolist()


def test_jitter_is_uniform_and_comes_from_the_seed() -> None:
    """Mean and variance of ten thousand draws, and what the seed decides."""
    # 2 + uniform on [0, 1/2]: mean 2.25, standard deviation 0.5 / sqrt(12) = 0.1443
    times_s = Delivery(2.0, 0.5, np.random.default_rng(0)).arrives_s(10.0, 10_000) - 10.0
    assert times_s.min() >= 2.0
    assert times_s.max() <= 2.5
    assert abs(times_s.mean() - 2.25) < 4 * 0.1443 / 100
    assert times_s.std() == pytest.approx(0.1443, rel=0.03)
    # Alone on its rank, a request starts when it is there, so a run shows the draws.
    arrival_s = np.arange(20) * 10.0
    workload = make_workload([5] * 20, [1] * 20, arrival_s)
    first, again, other = (
        run(workload, "fcfs", seed=seed, delivery_s=2.0, delivery_jitter_s=0.5)
        for seed in (1, 1, 2)
    )
    assert same_but_for_wall_times(first, again)
    assert not same_but_for_wall_times(first, other)
    delays_s = first.requests.admitted_s - arrival_s
    assert 2.0 <= delays_s.min() < delays_s.max() <= 2.5
    assert 20 == len(np.unique(delays_s))
