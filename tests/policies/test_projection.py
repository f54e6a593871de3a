"""The projection: kept up to date request by request, it equals one made from scratch."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.kernels.ledger import FREE
from balanceroute.policies import Plan, Policy, make_policy
from balanceroute.policies.base import Binding
from balanceroute.policies.projection import Projection
from balanceroute.predict.base import Requests
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.types import Workload

KEPT = 0.97  # probability that a request outlives one more step, at any age
HORIZONS = np.array([0, 10, 20, 30])


class Memoryless:
    """Requests end with the same probability at each step, so age tells nothing."""

    def __init__(self) -> None:
        self.num_tokens = self.num_ends = 0

    def survival(self, requests: Requests, horizons: Int64Array) -> Float64Array:
        """Return KEPT to the power of each horizon."""
        return np.tile(KEPT ** horizons.astype(np.float64), (len(requests), 1))

    def p_finish(self, requests: Requests, horizon: int) -> Float64Array:
        """Return 1 - S(H)."""
        return np.full(len(requests), 1.0 - KEPT**horizon)

    def mean_remaining(self, requests: Requests, horizon: int) -> Float64Array:
        """Return the horizon; nobody asks."""
        return np.full(len(requests), float(horizon))

    def learn(self, requests: Requests, since_tokens: Int64Array, has_ended: BoolArray) -> None:
        """Count what was seen."""
        self.num_tokens += int((requests.generated_tokens - since_tokens).sum())
        self.num_ends += int(has_ended.sum())


class Watcher:
    """Places as another policy does, and compares the projection at each plan."""

    binding: ClassVar[Binding] = "pooled"
    follows_requests: ClassVar[bool] = True

    def __init__(self, policy: Policy, classifier: Memoryless, rtol: float) -> None:
        self._policy = policy
        self._projection = Projection(classifier, with_refills=False)
        self._projection.set_horizons(HORIZONS)
        self._rtol = rtol
        self.num_compared = 0
        self.generated_tokens = 0

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Compare, and plan as the other one."""
        self._projection.update(view)
        self._compare(view)
        self.generated_tokens = int(view.generated_tokens.sum())
        return self._policy.plan(view, pool)

    def _compare(self, view: GroupView) -> None:
        assert view.entries is not None
        running = np.flatnonzero(view.entries["state"] != FREE)
        tokens = view.entries["prompt_tokens"][running] + view.ages_tokens(running)
        expected = np.zeros((view.num_ranks, len(HORIZONS)))
        for k, horizon in enumerate(HORIZONS):
            shares = (tokens + horizon) * KEPT**horizon
            np.add.at(expected[:, k], view.entries["rank"][running], shares)
        np.testing.assert_allclose(
            self._projection.loads(view), expected, rtol=self._rtol, atol=1e-6
        )
        self.num_compared += 1


def watched_run(
    config: SimConfig, *, rtol: float, num_requests: int = 1500
) -> tuple[Watcher, Memoryless]:
    """Run least_tokens under the eyes of a projection."""
    rng = np.random.default_rng(5)
    workload = Workload(
        name="memoryless",
        prompt_tokens=rng.integers(1, 900, num_requests).astype(np.int32),
        output_tokens=rng.geometric(1 - KEPT, num_requests).astype(np.int32),
    )
    classifier = Memoryless()
    watcher = Watcher(make_policy("least_tokens", rng=rng), classifier, rtol)
    simulate(workload, config, watcher)
    return watcher, classifier


STEPS = StepTime(name="unit", constant_s=0.01, s_per_token=1e-6)


def test_equals_a_projection_from_scratch() -> None:
    """Starts, ends and a thousand steps later the sums are still those of the requests."""
    config = SimConfig(step_time=STEPS, num_ranks=3, num_slots=8, pool_size=16)
    watcher, classifier = watched_run(config, rtol=1e-9)
    assert watcher.num_compared > 400
    # Every token and every end that was seen was taught, once, except what runs since the last
    # look: at most a few tokens for each of 24 requests.
    assert 0 <= watcher.generated_tokens - classifier.num_tokens < 24 * 200
    assert classifier.num_ends > 1400


def test_lessons_may_wait() -> None:
    """However many ends and ages have come together, each is taught once, and in order."""
    rng = np.random.default_rng(6)
    workload = Workload(
        name="short",
        prompt_tokens=np.full(4000, 10, np.int32),
        output_tokens=rng.integers(1, 9, 4000).astype(np.int32),
    )
    classifier = Memoryless()
    projection = Projection(classifier, with_refills=False)
    least_tokens, num_plans, generated, num_ends = make_policy("least_tokens", rng=rng), 0, 0, 0

    class Late:
        binding: ClassVar[Binding] = "pooled"
        follows_requests: ClassVar[bool] = True

        def plan(self, view: GroupView, pool: PoolView) -> Plan:
            nonlocal num_plans, generated, num_ends
            num_plans += 1
            projection.note(view)
            if num_plans % 16 == 0:
                num_ends += projection.teach()
                generated = int(view.generated_tokens.sum())
            elif num_plans % 4 == 0:
                projection.look(view)
            return least_tokens.plan(view, pool)

    config = SimConfig(step_time=STEPS, num_ranks=3, num_slots=32, pool_size=64, start="empty")
    simulate(workload, config, Late())
    assert num_ends == classifier.num_ends
    assert num_ends > 3000
    assert 0 <= generated - classifier.num_tokens < 96 * 8


def test_holds_under_preemption() -> None:
    """Requests that lose their slot count on as if they grew, until the next look corrects it."""
    config = SimConfig(
        step_time=STEPS, num_ranks=3, num_slots=8, pool_size=16, kv_tokens=4000, start="empty"
    )
    watcher, _ = watched_run(config, rtol=0.02)
    assert watcher.num_compared > 400
