"""What a step costs, learned from the ends of steps while plans are made at any moment of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from balanceroute.cluster.costs import StepCosts
from balanceroute.live import telling
from balanceroute.policies.auto import BrAuto
from balanceroute.policies.base import times_releases
from balanceroute.vllm_plugin.balancer import Balancer
from balanceroute.vllm_plugin.facts import RequestFacts
from tests.vllm_plugin.stand_in import EngineCoreOutput

NUM_RANKS, NUM_SLOTS, NUM_STEPS = 2, 16, 700
MANY_STEPS = 3000
CONSTANT_S, S_PER_TOKEN, PREFILL_S_PER_TOKEN = 0.02, 1e-6, 5e-5


class Engines:
    """Ranks that take as long as a law says, and a client that plans in the middle of steps too."""

    def __init__(self, prefill_shared: float) -> None:
        self.shared, self.now_s, self.constant_s = prefill_shared, 0.0, CONSTANT_S
        self.rng = np.random.default_rng(3)
        self.balancer = Balancer(
            num_ranks=NUM_RANKS,
            num_slots=NUM_SLOTS,
            kv_tokens=1 << 20,
            policy=BrAuto(),
            is_pooled=True,
            clock=lambda: self.now_s,
        )
        self.left: list[dict[str, int]] = [{} for _ in range(NUM_RANKS)]  # output tokens
        self.new: list[dict[str, int]] = [{} for _ in range(NUM_RANKS)]  # prompt tokens
        self.names = map(str, itertools.count())

    def arrive(self) -> None:
        """Hold a request, which joins the rank that it is given with the next step."""
        name = next(self.names)
        prompt_tokens, output_tokens = self.rng.integers(20, 1000), self.rng.integers(2, 40)

        def join(rank: int) -> None:
            self.left[rank][name] = int(output_tokens)
            self.new[rank][name] = int(prompt_tokens)

        self.balancer.hold(RequestFacts(request_id=name, prompt_tokens=int(prompt_tokens)), join)

    def step(self) -> None:
        """Make a step of all ranks, with a look in the middle of it."""
        running = [dict(left) for left in self.left]
        prompts = np.array([sum(new.values()) for new in self.new], np.float64)
        loads = self.balancer.group.ledger.ranks["load_tokens"] + prompts
        own_s = S_PER_TOKEN * loads + (1.0 - self.shared) * PREFILL_S_PER_TOKEN * prompts
        took_s = own_s.max() + self.shared * PREFILL_S_PER_TOKEN * prompts.mean() + self.constant_s
        self.new = [{} for _ in range(NUM_RANKS)]
        ended_s = self.now_s + took_s
        self.now_s += 0.4 * took_s
        self.arrive()
        self.balancer.group.plan()
        self.now_s = ended_s
        for rank, names in enumerate(running):
            outputs = []
            for name in names:
                self.left[rank][name] -= 1
                is_over = self.left[rank][name] == 0
                outputs.append(EngineCoreOutput(name, [7], "length" if is_over else None))
            over = {output.request_id for output in outputs if output.finish_reason}
            for name in over:
                del self.left[rank][name]
            self.balancer.take_step(rank, outputs, over)
        self.balancer.group.end_step()
        self.balancer.group.plan()

    def costs(self) -> StepCosts:
        """Return what has been learned by now."""
        costs = self.balancer.group.view().costs
        assert isinstance(costs, StepCosts)
        return costs


def busy_engines(prefill_shared: float) -> Engines:
    """Return ranks with twice as many requests as they have slots for."""
    engines = Engines(prefill_shared)
    for _ in range(2 * NUM_RANKS * NUM_SLOTS):
        engines.arrive()
    engines.balancer.group.plan()
    return engines


@pytest.mark.parametrize("shared", [0.0, 0.97, 1.0])
def test_the_costs_are_found(shared: float) -> None:
    """To a tenth; and prefill is timed unless next to all of it falls to all ranks."""
    engines = busy_engines(shared)
    for _ in range(NUM_STEPS):
        engines.step()
    costs = engines.costs()
    assert costs.constant_s == pytest.approx(CONSTANT_S, rel=0.1)
    assert costs.prefill_s_per_token == pytest.approx(PREFILL_S_PER_TOKEN, rel=0.1)
    assert costs.prefill_shared == pytest.approx(shared, abs=0.1)
    assert times_releases(engines.balancer.group.policy) == (shared == 0.0)


def test_few_steps_are_looked_at_once_costs_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """And still a change is found."""
    monkeypatch.setattr(telling, "SETTLED_SAMPLES", 512)
    engines = busy_engines(1.0)
    for _ in range(NUM_STEPS):
        engines.step()
    learner = engines.balancer.group._telling._learner
    assert learner is not None
    num_samples = learner.num_samples
    engines.constant_s = 2.0 * CONSTANT_S
    for _ in range(MANY_STEPS):
        engines.step()
    assert learner.num_samples - num_samples == pytest.approx(
        MANY_STEPS / telling.STEPS_PER_SAMPLE, abs=2
    )
    assert engines.costs().constant_s == pytest.approx(2.0 * CONSTANT_S, rel=0.1)
