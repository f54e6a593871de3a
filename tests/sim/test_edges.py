"""Corners of the simulator's bookkeeping, each of which could go wrong unseen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from balanceroute.sim.group import NUM_SAMPLES
from balanceroute.sim.run import simulate
from tests.sim.runs import (
    EIGHTH_A_TOKEN,
    Scripted,
    Watched,
    make_config,
    make_workload,
    named,
    run,
)


def test_a_ledger_that_grows_during_a_step() -> None:
    """Requests that arrive during a step and outgrow the ledger leave that step's tokens alone.

    One rank, one slot, and a ledger with room for three requests (G B, and twice a pool of one).
    Seven more arrive while the second request gets its first token.
    """
    workload = make_workload([5] * 9, [1] * 9, [0.0, 0.5, *[1.5] * 7])
    requests = run(workload, "fcfs", binding="immediate", pool_size=1).requests
    assert [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0] == requests.first_token_s.tolist()
    assert requests.finished_s.tolist() == requests.first_token_s.tolist()


def test_a_log_that_outgrows_its_first_rows() -> None:
    """A run of 9,000 steps logs each of them, and thins its samples to every sixteenth."""
    records = run(make_workload([1], [9000], [0.0]), "fcfs")
    assert list(range(9000)) == records.steps.start_s.tolist()
    assert list(range(1, 9001)) == records.steps.max_load_tokens.tolist()
    assert list(range(0, 9000, 16)) == records.samples.time_s.tolist()
    assert list(range(1, 9001, 16)) == records.samples.load_tokens[:, 0].tolist()
    assert len(records.samples.time_s) <= NUM_SAMPLES


def test_a_calendar_that_wraps() -> None:
    """Requests of every length, one a step, each end after as many steps as they have tokens."""
    outputs = np.resize([7, 1, 6, 2, 5, 3, 4], 500)
    requests = run(
        make_workload(np.ones(500), outputs, np.arange(500)), "fcfs", num_slots=7
    ).requests
    assert (np.arange(500) == requests.admitted_s).all()
    assert (outputs == requests.finished_s - requests.admitted_s).all()


def test_a_long_idle_gap() -> None:
    """An idle group jumps to the next arrival, a year later if need be, without steps between."""
    year_s = 365 * 86_400.0
    for staleness_s in (0.0, 1e-9, 1.0, 1e6):
        records = run(make_workload([5, 5], [2, 2], [0.0, year_s]), "fcfs", staleness_s=staleness_s)
        assert [0.0, 1.0, year_s, year_s + 1] == records.steps.start_s.tolist()


def test_a_stale_router_knows_its_own_sends() -> None:
    """Between publications every send counts as queued; which slots are free is known exactly.

    State is published every 3.5 s. Two slots, outputs of one token, one arrival every half second.
    From the second step on two requests start a step; none of it shows until 3.5, when two run.
    """
    watched = Watched(named("fcfs"))
    workload = make_workload([5] * 8, [1] * 8, np.arange(8) / 2)
    records = run(workload, watched, num_slots=2, staleness_s=3.5)
    assert [0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0] == records.requests.admitted_s.tolist()
    assert [0.0, 1.0, 2.0, 3.0, 4.0] == watched.now_s
    assert [[0], [1], [3], [5], [0]] == watched.num_waiting
    assert [[0], [0], [0], [0], [2]] == watched.num_running


def test_a_publication_during_a_step_shows_the_step() -> None:
    """What is published in the middle of a step is the state of that step, until the next time.

    One rank, four slots, a decode of 9 tokens from 0 on, state published every 2.5 s. The request
    of 3 s is planned with what was published at 2.5; that of 6 s with what was published at 5.
    """
    watched = Watched(named("fcfs"))
    workload = make_workload([5, 5, 5], [9, 1, 1], [0.0, 3.0, 6.0])
    run(workload, watched, num_slots=4, staleness_s=2.5)
    assert [0.0, 3.0, 6.0] == watched.now_s
    assert [[0], [1], [1]] == watched.num_running
    assert [[0], [0], [0]] == watched.num_waiting


def test_the_first_publication_shows_a_stationary_start() -> None:
    """A router with a stale view begins with what fills the slots, not with an empty group."""
    watched = Watched(named("fcfs"))
    workload = make_workload([5] * 40, [6] * 40)
    settings: dict[str, Any] = {
        "arrivals": "saturated",
        "num_slots": 8,
        "warmup_steps": 0,
        "staleness_s": 3.0,
    }
    records = run(workload, watched, **settings)
    assert [8] == watched.num_running[0]
    assert records.steps.num_waiting.max() == 0


@pytest.mark.parametrize("policy", ["br_0", "least_requests"])
def test_a_stationary_start_before_a_trace(policy: str) -> None:
    """Slots may be full when the trace's first request arrives; it waits for one of them."""
    workload = make_workload([5, 7], [50, 90], [0.0, 3.0])
    records = run(workload, policy, num_ranks=2, num_slots=3, start="stationary", seed=5)
    assert 6 == records.steps.num_running[0]
    assert records.requests.admitted_s.min() > 0.0
    assert np.isfinite(records.requests.finished_s).all()
    assert records.steps.num_tokens.sum() > workload.output_tokens.sum()


def test_a_stationary_start_leaves_out_what_does_not_fit() -> None:
    """Copies that a rank has no KV tokens for do not start; the rank is never over its limit."""
    workload = make_workload([50] * 40, [50] * 40)
    settings: dict[str, Any] = {
        "arrivals": "saturated",
        "num_slots": 8,
        "warmup_steps": 0,
        "kv_tokens": 250,
    }
    records = run(workload, "fcfs", start="stationary", **settings)
    assert 2 <= records.steps.num_running[0] <= 4  # 50 to 99 tokens each
    assert records.steps.max_load_tokens.max() <= 250


@pytest.mark.parametrize(("binding", "num_running"), [("pooled", 1), ("immediate", 16)])
def test_a_saturated_pool_smaller_than_a_refill(binding: str, num_running: int) -> None:
    """A router plans once a step, so a pool of one starts one request a step, if it has a pool.

    All 16 slots are free at the end of each step, since outputs have one token. Under immediate
    binding one request waits beyond the slots of its rank, and the slots are full.
    """
    workload = make_workload([5] * 200, [1] * 200)
    settings: dict[str, Any] = {
        "arrivals": "saturated",
        "num_ranks": 2,
        "num_slots": 8,
        "pool_size": 1,
        "warmup_steps": 0,
    }
    records = run(workload, "least_requests", start="empty", binding=binding, **settings)
    is_before = records.steps.start_s < records.window_s[1]
    assert {num_running} == set(records.steps.num_running[is_before].tolist())
    expected = 1 if binding == "immediate" else 0
    assert {expected} == set(records.steps.num_waiting[is_before].tolist())


def test_a_burst_larger_than_the_kv_tokens_of_all_ranks() -> None:
    """Under immediate binding ranks queue what they cannot hold: KV tokens limit no plan."""
    workload = make_workload([40] * 30, [4] * 30, [0.0] * 30)
    for policy in ("vllm", "least_tokens", "br_0"):
        records = run(workload, policy, num_ranks=2, num_slots=3, kv_tokens=90, binding="immediate")
        assert np.isfinite(records.requests.finished_s).all()
        assert 26 == records.steps.num_waiting[0]  # two of 40 fit each rank


def test_kv_tokens_that_the_longest_request_just_fills() -> None:
    """A rank with room for one request at its longest serves them one after the other.

    Prompt 5 and output 4: the last step holds 5 + 3 tokens, and the fourth makes 9. A second
    request is admitted beside the first only while both fit, 4 + 5 > 9 from the start.
    """
    records = run(
        make_workload([5, 5], [4, 4], [0.0, 0.0]),
        "fcfs",
        num_slots=2,
        kv_tokens=9,
        binding="immediate",
    )
    assert [5, 6, 7, 8] * 2 == records.steps.max_load_tokens.tolist()
    assert [0, 0] == records.requests.num_preemptions.tolist()
    assert [4.0, 8.0] == records.requests.finished_s.tolist()


def test_the_drain_serves_what_the_window_leaves() -> None:
    """Requests still in a saturated pool when the window closes are served after it.

    The window ends when the pool of five can no longer be filled: four to five wait then, but for
    those admitted at that moment.
    """
    records = run(
        make_workload([5] * 30, [3] * 30),
        "fcfs",
        arrivals="saturated",
        num_slots=2,
        pool_size=5,
        start="empty",
    )
    requests, end_s = records.requests, records.window_s[1]
    assert int((requests.admitted_s >= end_s).sum()) in (4, 5, 6)
    assert (requests.arrival_s <= end_s).all()
    assert np.isfinite(requests.finished_s).all()


def test_seeds_change_the_start_only() -> None:
    """Two seeds of a deterministic policy differ by how the slots were filled."""
    workload = make_workload(np.arange(1, 201), np.arange(200) % 9 + 1)
    settings: dict[str, Any] = {"arrivals": "saturated", "num_ranks": 2, "num_slots": 4}
    one, other = (run(workload, "br_0", seed=seed, **settings) for seed in (0, 1))
    assert one.steps.max_load_tokens[0] != other.steps.max_load_tokens[0]
    empty = [run(workload, "br_0", seed=seed, start="empty", **settings) for seed in (0, 1)]
    assert empty[0].steps.max_load_tokens.tolist() == empty[1].steps.max_load_tokens.tolist()


def test_progress_rises() -> None:
    """Progress is told as the share of requests taken in, ascending."""
    told: list[float] = []
    workload = make_workload(np.ones(2000), np.ones(2000), np.arange(2000))
    simulate(workload, make_config(), named("fcfs"), on_progress=told.append)
    assert told == sorted(told)
    assert 0.0 < told[0] < told[-1] <= 1.0


def test_a_view_shows_the_present() -> None:
    """Each call shows the present: the time of the boundary, and what has arrived by then."""
    watched = Watched(Scripted([0] * 4))
    workload = make_workload([8] * 4, [1] * 4, [0.0, 0.5, 1.0, 2.0])
    run(workload, watched, step_time=EIGHTH_A_TOKEN)  # steps of 2 s
    assert [0.0, 2.0, 4.0, 6.0] == watched.now_s
    assert [1, 3, 2, 1] == watched.num_pooled
