"""Every policy decides as it did: plans of a short simulation against files.

A change that is meant is written with ``pytest tests/golden --rewrite-golden`` and explained in a
changelog fragment under *Placement changes*.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.policies import Plan, Policy, make_policy
from balanceroute.policies.base import Binding, follows_requests
from balanceroute.policies.registry import BUILT_IN
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.types import Workload

FOLDER = Path(__file__).parent
SPECS = (
    # Which of several optimal plans bf_io finds is for the solver to say, and its versions differ.
    *(name for name in BUILT_IN if name != "bf_io"),
    "smg_least_load,window_s=0.1",  # measures throughput within the run
    "br_0,select_by=margin",
    "br_0,r_max=8,s_greedy=0",
    "br_h,projection=hard",
)

NUM_REQUESTS = 120
CONFIG = SimConfig(
    step_time=StepTime(name="golden", constant_s=0.01, s_per_token=1e-6),
    num_ranks=4,
    num_slots=5,
    kv_tokens=8000,
    arrivals="trace",
)


class Recorder:
    """Passes plans on and notes which request went where."""

    binding: ClassVar[Binding] = "pooled"  # unused: the configuration names the policy's own

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.follows_requests = follows_requests(policy)
        self.lines: list[str] = []

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Plan as the policy does."""
        plan = self._policy.plan(view, pool)
        sent = np.column_stack((pool.ids[plan.requests], plan.ranks)).tolist()
        self.lines.append(json.dumps({"waiting": len(pool), "sent": sent}))
        return plan


def workload() -> Workload:
    """Return requests in bursts of four on average.

    Drawn with Park and Miller's generator, so that no library's new version changes them.
    """
    state, draws = 1, []
    for _ in range(3 * NUM_REQUESTS):
        state = 48_271 * state % (2**31 - 1)
        draws.append(state)
    prompt, output, gap = np.array(draws).reshape(3, NUM_REQUESTS)
    arrival_s = np.cumsum((gap % 4 == 0) * (gap % 97)) * 1e-3
    return Workload(
        name="golden",
        prompt_tokens=(1 + prompt % 2000).astype(np.int32),
        output_tokens=(1 + output % 40).astype(np.int32),
        arrival_s=arrival_s - arrival_s[0],
    )


@pytest.mark.parametrize("spec", SPECS)
def test_decision_api_are_those_on_file(spec: str, request: pytest.FixtureRequest) -> None:
    """One line per plan: how many waited, and each request sent with its rank."""
    policy = make_policy(spec, rng=np.random.default_rng(0))
    recorder = Recorder(policy)
    simulate(workload(), replace(CONFIG, binding=policy.binding), recorder)
    text = "".join(f"{line}\n" for line in recorder.lines)
    path = FOLDER / f"{spec.replace(',', '-').replace('=', '-')}.jsonl"
    if request.config.getoption("--rewrite-golden"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text
