"""BF-IO: its plans are the optimum, and it says so where it cannot tell."""

from __future__ import annotations

import itertools
import logging
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from balanceroute.errors import ConfigError, MissingExtraError
from balanceroute.policies import Plan, Policy, check_policy, make_policy, solver
from balanceroute.policies.bf_io import BfIo
from balanceroute.policies.step_program import StepProblem, step_imbalance, write_program
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from tests.policies.views import make_pool, make_view, placements
from tests.sim.runs import make_workload

SETTINGS = (
    "bf_io,horizon=6,max_pairs=24,max_nodes=1",
    "bf_io,horizon=8,spacing=4,refills=true,max_pairs=24,max_nodes=1",
    "bf_io,warm_start=br_auto,window=16,max_pairs=24,max_nodes=1",
)


@pytest.mark.parametrize("spec", SETTINGS)
def test_the_contract_is_kept_with_other_settings(spec: str) -> None:
    """The defaults are checked with all other policies."""
    check_policy(spec, rounds=3)


@st.composite
def problems(draw: st.DrawFn) -> StepProblem:
    """Draw up to 3 ranks, 5 requests and 3 horizons, so that every plan can be tried."""
    num_ranks, num_waiting = draw(st.integers(2, 3)), draw(st.integers(1, 5))
    num_horizons = draw(st.integers(1, 3))

    def tokens(rows: int, most: int) -> NDArray[np.float64]:
        row = st.lists(st.integers(0, most), min_size=num_horizons, max_size=num_horizons)
        return np.array(draw(st.lists(row, min_size=rows, max_size=rows)), np.float64)

    gains = tokens(num_waiting, 40)
    return StepProblem(
        loads=tokens(num_ranks, 100),
        weights=np.ones(num_horizons),
        gains=gains,
        prompt_tokens=np.maximum(gains[:, 0], 1).astype(np.int64),
        max_sends=np.array(
            draw(st.lists(st.integers(0, 3), min_size=num_ranks, max_size=num_ranks))
        ),
        free_kv_tokens=np.full(num_ranks, draw(st.sampled_from([30, 60, 10_000]))),
    )


def plans(problem: StepProblem) -> list[Plan]:
    """Return every plan that keeps the limits."""
    num_ranks = len(problem.loads)
    found = []
    for where in itertools.product(range(-1, num_ranks), repeat=len(problem.gains)):
        places = np.array(where)
        requests = np.flatnonzero(places >= 0)
        ranks = places[requests]
        tokens = np.bincount(ranks, problem.prompt_tokens[requests], num_ranks)
        sends = np.bincount(ranks, minlength=num_ranks)
        if (sends <= problem.max_sends).all() and (tokens <= problem.free_kv_tokens).all():
            found.append(Plan(requests, ranks))
    return found


@settings(max_examples=150, deadline=None)
@given(problems(), st.data())
def test_no_plan_is_better(problem: StepProblem, data: st.DataObject) -> None:
    """From any start, the result is as good as the best of all plans of as many requests."""
    allowed = plans(problem)
    start = data.draw(st.sampled_from(allowed))
    if len(start) == 0:
        return
    best = min(step_imbalance(problem, plan) for plan in allowed if len(plan) == len(start))
    policy = BfIo()
    assert best == pytest.approx(step_imbalance(problem, policy.improve(problem, start)), abs=1e-6)
    assert (1, 0) == (policy.num_solved, policy.num_unproven)


def test_it_finds_what_a_greedy_rule_misses() -> None:
    """Margins 30 and 20, two slots each: 15 + 15 and 10 + 10 fill them to the token.

    The greedy rule takes 25 for the first, after which nothing comes out even.
    """
    view = make_view(load=[100, 70, 80], slots=[1, 2, 2], running=[1, 0, 0])
    prompts = [25, 15, 15, 10, 10]
    assert [(1, 1), (2, 1), (3, 2), (4, 2)] == placements(make("bf_io"), view, prompts)
    assert 0 in [request for request, _ in placements(make_start(), view, prompts)]


def test_equal_requests_are_one_kind() -> None:
    """Twenty requests of one length on two ranks are two columns, the oldest of them go first."""
    problem = StepProblem(
        loads=np.array([[9.0], [5.0], [5.0]]),
        weights=np.ones(1),
        gains=np.full((20, 1), 4.0),
        prompt_tokens=np.full(20, 4),
        max_sends=np.array([0, 2, 2]),
        free_kv_tokens=np.full(3, 1000),
    )
    start = Plan(np.array([5, 9]), np.array([1, 2]))
    program, kinds, pairs = write_program(problem, start)
    assert (1, 2) == (len(kinds.members), len(pairs.kinds))
    assert program.num_continuous + 2 == len(program.cost)


def make(spec: str) -> BfIo:
    policy = make_policy(spec, rng=np.random.default_rng(0), output_tokens=np.zeros(0, np.int32))
    assert isinstance(policy, BfIo)
    return policy


def test_too_large_a_program_is_not_tried_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """Four requests on two ranks are eight pairs; the warning comes once, the count goes on."""
    policy = make("bf_io,max_pairs=7")
    view = make_view(load=[10, 0], slots=2)
    with caplog.at_level(logging.WARNING):
        first = placements(policy, view, [5, 6, 7, 8])
        assert first == placements(policy, view, [5, 6, 7, 8])
    assert ["8 pairs of request and rank are more than 7" in text for text in caplog.messages] == [
        True
    ]
    assert (0, 2) == (policy.num_solved, policy.num_unproven)
    assert first == placements(make_start(), view, [5, 6, 7, 8])


def make_start() -> Policy:
    return make_policy("br_0,select_by=margin", rng=np.random.default_rng(0))


def test_a_limit_is_said_and_the_plan_is_no_worse_than_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A time limit that no search can keep leaves the warm start's plan or a better one."""
    policy = make("bf_io,time_limit_s=1e-9")
    rng = np.random.default_rng(5)
    view = make_view(load=rng.integers(0, 9000, 6).tolist(), slots=3)
    pool = make_pool(rng.integers(1, 4000, 30).tolist())
    with caplog.at_level(logging.WARNING):
        plan = policy.plan(view, pool)
    assert "bf_io: a plan is the best one known and not proven optimal" in caplog.messages[0]
    start = make_policy("br_0,select_by=margin", rng=rng).plan(view, pool)
    problem = policy.problem(view, pool)
    assert step_imbalance(problem, plan) <= step_imbalance(problem, start)
    assert (0, 1) == (policy.num_solved, policy.num_unproven)


def test_with_true_lengths_the_horizon_sees_what_ends() -> None:
    """A horizon under the oracle beats none where ends decide the loads; figures of one run."""
    rng = np.random.default_rng(2)
    workload = make_workload(rng.integers(1, 400, 400), rng.integers(1, 30, 400), None)
    config = SimConfig(
        step_time=StepTime(name="test", constant_s=0.0, s_per_token=1.0),
        num_ranks=4,
        num_slots=4,
        pool_size=12,
        start="empty",
    )
    totals = []
    for spec in ("bf_io,time_limit_s=60", "bf_io,time_limit_s=60,horizon=6,classifier=oracle"):
        policy = make_policy(spec, rng=rng, output_tokens=workload.output_tokens)
        totals.append(float(simulate(workload, config, policy).steps.duration_s.sum()))
    assert totals[1] < totals[0]


BAD = {
    "bf_io,horizon=-1": "horizon must be in 0..256 steps, got -1",
    "bf_io,spacing=0": "spacing must be at least 1, got 0",
    "bf_io,refills=true": "refills needs a horizon and a spacing that is a multiple of 4",
    "bf_io,max_nodes=0": "max_nodes must be at least 1, got 0",
    "bf_io,time_limit_s=0": "time_limit_s must be above 0 and finite, got 0.0",
    "bf_io,warm_start=fcfs": "warm_start",
}


@pytest.mark.parametrize("spec", BAD)
def test_bad_settings_are_refused(spec: str) -> None:
    """The message names the setting, its value and what is allowed."""
    with pytest.raises(ConfigError, match=BAD[spec]):
        make(spec)


def test_without_the_extra_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else needs highspy, so its absence shows when the policy is built."""
    monkeypatch.setitem(sys.modules, "highspy", None)
    monkeypatch.setattr(solver, "is_installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'balanceroute\[solver\]'"):
        make("bf_io")
