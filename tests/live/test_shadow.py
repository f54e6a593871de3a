"""What shadow mode foretells, against what switching then brings: an engine in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from balanceroute.cluster.costs import StepCosts
from balanceroute.emulator.config import EngineConfig
from balanceroute.errors import ConfigError
from balanceroute.live.comparing import Comparison
from balanceroute.live.decision_file import read_lines
from balanceroute.live.pair import Pair
from balanceroute.live.ticket import Ticket
from balanceroute.live.twin import Twin
from tests.live.fake_engine import FakeEngine, routing, run, serving, until
from tests.live.virtual import Virtual

DECODE = StepCosts(constant_s=0.01, s_per_token=1e-6)
PREFILL = StepCosts(constant_s=0.01, s_per_token=1e-7, prefill_s_per_token=2e-5, budget_tokens=1024)
RANKS, SLOTS, WAITING = 4, 16, 16


def served(
    policy: str, costs: StepCosts, lengths: NDArray[np.int64], shadow: str = ""
) -> tuple[float, Pair | None]:
    """Return the tokens per second of a group kept full, and what its shadow has said."""
    config = EngineConfig(costs=costs, num_ranks=RANKS, num_slots=SLOTS, block_size=1)
    virtual = Virtual(config, lengths, policy=policy, num_waiting=WAITING)
    group, pair = virtual.group, None
    if shadow:
        pair = Pair(policy, shadow, 0, num_ranks=RANKS, num_slots=SLOTS, costs=costs)
        group.arrival_watchers.append(pair.note_arrival)
        group.end_watchers.append(pair.note_end)
    warm_s, warm_tokens, num_tokens = 0.0, 0, 0
    for step in virtual.steps():
        num_tokens = int(group.ledger.ranks["generated_tokens"].sum())
        if step == 100:
            warm_s, warm_tokens = virtual.now_s, num_tokens
        if pair is not None:
            pair.advance()
    return (num_tokens - warm_tokens) / (virtual.now_s - warm_s), pair


def lengths_of(kind: str, count: int = 1500) -> NDArray[np.int64]:
    """Return prompts and outputs."""
    rng = np.random.default_rng(11)
    if kind == "short prompts":
        return np.column_stack([rng.geometric(1 / 400, count), rng.geometric(1 / 60, count)])
    if kind == "long tails":
        prompts = np.minimum(1 + rng.pareto(1.3, count) * 200, 8000).astype(np.int64)
        return np.column_stack([prompts, rng.geometric(1 / 40, count)])
    kinds = rng.random(count) < 0.1
    prompts = np.where(kinds, rng.integers(4000, 6000, count), rng.integers(50, 300, count))
    return np.column_stack([prompts, rng.geometric(1 / 50, count)])


@pytest.mark.slow
@pytest.mark.parametrize("costs", [DECODE, PREFILL], ids=["decode", "prefill"])
@pytest.mark.parametrize("kind", ["short prompts", "long tails", "two kinds"])
def test_the_gain_foretold_is_the_gain_that_comes(kind: str, costs: StepCosts) -> None:
    """Within a fifth of it, or of a point where it is next to nothing."""
    lengths = lengths_of(kind)
    before, pair = served("round_robin", costs, lengths, shadow="br_auto")
    after, _ = served("br_auto", costs, lengths)
    gain = after / before - 1.0
    assert pair is not None
    assert pair.gain_ratio == pytest.approx(gain, rel=0.2, abs=0.01)


def test_a_policy_is_no_better_than_itself() -> None:
    """Both twins are alike, so nothing is foretold."""
    _, pair = served("least_tokens", DECODE, lengths_of("two kinds", 400), shadow="least_tokens")
    assert pair is not None
    assert 0.0 == pair.gain_ratio


def test_nothing_is_foretold_before_anything_is_known() -> None:
    """Not a gain of zero."""
    pair = Pair("fcfs", "br_0", 0, num_ranks=2, num_slots=2, costs=DECODE)
    assert pair.gain_ratio is None


def test_ends_of_what_is_not_known_change_nothing() -> None:
    """Of requests that came before the shadow, and second ends of those that were sent again."""
    alone, told_more = (
        Pair("fcfs", "fcfs", 0, num_ranks=1, num_slots=2, costs=DECODE) for _ in range(2)
    )

    def end(pair: Pair, numbers: range) -> None:
        for number in numbers:
            ticket = Ticket(prompt_tokens=100)
            ticket.number, ticket.output_tokens = number, 3
            pair.note_end(ticket)
        for _ in range(20):
            pair.advance()

    for pair in (alone, told_more):
        for number in range(10):
            ticket = Ticket(prompt_tokens=100)
            ticket.number = number
            pair.note_arrival(ticket)
        end(pair, range(5))
    end(told_more, range(100, 140))
    end(told_more, range(5))
    for num_ended in (0, 10):  # as many are in flight as have ended, and then none is
        end(alone, range(5, num_ended))
        end(told_more, range(5, num_ended))
        assert num_ended == alone.present.num_completed == told_more.present.num_completed
        assert alone.present.sums == told_more.present.sums


def test_a_twin_of_one_rank_takes_the_time_that_its_steps_take() -> None:
    """One request of 100 and 3 tokens: its prompt in one step, then two more steps."""
    costs = StepCosts(constant_s=1.0, s_per_token=0.01)
    twin = Twin("fcfs", 0, num_ranks=1, num_slots=1, costs=costs)
    twin.arrive(0, 0, Ticket(prompt_tokens=100))
    twin.learn(0, 3)
    twin.advance(1, 100)
    assert 1 == twin.num_completed
    assert 3 == twin.sums.num_tokens
    assert 0.0 == twin.sums.idle_ratio


def test_the_router_tells_what_its_shadow_says(tmp_path: Path) -> None:
    """In metrics and on the page once enough is seen, and in the log of decisions."""
    settings = {"shadow": "least_tokens", "step_time": "0.01,1e-7", "slots": 2}
    costs = StepCosts(constant_s=0.01, s_per_token=1e-7)

    async def test() -> None:
        async with serving(FakeEngine()) as engine:
            log = str(tmp_path / "log")
            async with routing(engine, costs=costs, decision_log=log, **settings) as client:
                shadow = client.router.parts.shadow
                assert shadow is not None
                assert "not enough" in shadow.summary
                assert b"balanceroute_shadow_gain" not in (await client.get("/metrics"))[1]
                async with asyncio.timeout(60.0):
                    while shadow.told is None or shadow.told.gain_ratio is None:
                        await client.post({"prompt": [1] * 9, "stream": True})
                assert "least_tokens instead: +" in shadow.summary
                page = (await client.get("/metrics"))[1]
                assert b'balanceroute_shadow_gain_ratio{policy="least_tokens"}' in page
                client.router.parts.change_policy("br_0")
                await until(lambda: shadow.settings.present == "br_0")
        found = Comparison.of(tmp_path / "log")
        assert (0, "") == (found.num_differing, found.cut)
        assert any(line.startswith(b'{"shadow"') for line in read_lines(tmp_path / "log"))

    run(test(), within_s=90.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shadow": "br_0"}, "--shadow needs --step-time and --slots"),
        ({"shadow": "br_9", "step_time": "0.01,1e-7"}, "br_9.*did you mean"),
    ],
)
def test_a_shadow_that_cannot_be_is_refused(settings: dict[str, object], words: str) -> None:
    """Before the router serves anybody."""

    async def test() -> None:
        costs = StepCosts(constant_s=0.01, s_per_token=1e-7)
        async with serving(FakeEngine()) as engine:
            with pytest.raises(ConfigError, match=words):
                async with routing(engine, costs=costs, **settings):
                    pass

    run(test())
