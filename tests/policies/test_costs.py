"""Costs of a step as a user writes them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.ledger import Ledger
from balanceroute.cluster.sight import look
from balanceroute.errors import ConfigError
from balanceroute.policies.costs import CostSource, parse_costs
from balanceroute.specs import read_settings
from tests.policies.toy_group import EXPERTS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.02:2.2e-8:1900:1e-5:2048", replace(EXPERTS, budget_tokens=2048)),
        (
            "0.02:2.2e-8:1900:1e-5:2048:0.5:3e-3",
            replace(EXPERTS, budget_tokens=2048, prefill_shared=0.5, mixed_step_s=3e-3),
        ),
        ("0.01:0:0:0:1", StepCosts(constant_s=0.01, s_per_token=0.0, budget_tokens=1)),
    ],
)
def test_costs_are_read(text: str, expected: StepCosts) -> None:
    """As the value of a setting among others."""
    settings = read_settings(
        "policy p", f"window=64,costs={text},x=1".split(","), ["costs", "window", "x"]
    )
    assert expected == parse_costs(settings["costs"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "costs must be C:TL:KAPPA0:TP:BUDGET[:SIGMA[:M]], in seconds and tokens, got ''"),
        ("1:2:3:4", "got '1:2:3:4'; write for example 0.02:2.2e-8:1900:1e-5:2048"),
        ("1:2:3:4:5:0:0:0", "got '1:2:3:4:5:0:0:0'; write for example"),
        ("fast:0:0:0:9", "costs: C must be a number of at least 0, got 'fast'; the form is C:TL"),
        ("1:-1:0:0:9", "costs: TL must be a number of at least 0, got '-1'"),
        ("1:0:inf:0:9", "costs: KAPPA0 must be a number of at least 0, got 'inf'"),
        ("1:0:0:nan:9", "costs: TP must be a number of at least 0, got 'nan'"),
        ("1:0:0:0:0", "costs: BUDGET must be a number from 1 to 1e+12, got '0'"),
        ("1:0:0:0:1.5", "costs: BUDGET must be a whole number of tokens, got '1.5'"),
        ("1:0:0:0:9:1.5", "costs: SIGMA must be a number from 0 to 1, got '1.5'"),
        ("1:0:0:0:9:1:", "costs: M must be a number of at least 0, got ''"),
        ("0:0:0:1:9", "costs: C and TL cannot both be 0, got '0:0:0:1:9'"),
    ],
)
def test_wrong_costs_are_named(text: str, message: str) -> None:
    """What is wrong, the value got, what is allowed."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_costs(text)


def test_the_same_is_learned_where_requests_are_passed_over() -> None:
    """What a step costs does not depend on who is about to end, though the sums leave those out."""
    ledger, rng, now_s = Ledger(num_ranks=1, keeps_events=True), np.random.default_rng(0), 0.0
    limits = (np.array([64]), np.ones(1, np.bool_), np.zeros(1, np.int64), np.zeros(1, np.int64))
    as_it_is, ahead = CostSource("learned"), CostSource("learned")
    running: dict[int, int] = {}  # steps left
    num_passed_over = 0
    for _ in range(80):
        sight, events = look(ledger.ranks, *limits, is_immediate=False), ledger.take_events()
        later = sight.without_leaving(ledger.accounts.entries, 2)
        assert later.passed_over is not None
        num_passed_over += int(later.passed_over[0, 0])
        learned = [
            source.of(
                seen.view(
                    now_s=now_s,
                    kv_capacity_tokens=np.array([1 << 20]),
                    costs=None,
                    entries=ledger.accounts.entries,
                    events=events,
                )
            )
            for source, seen in ((as_it_is, sight), (ahead, later))
        ]
        prompt_tokens, output_tokens = int(rng.integers(50, 900)), int(rng.integers(2, 30))
        handle = ledger.send(rank=0, prompt_tokens=prompt_tokens, max_tokens=output_tokens)
        ledger.start(handle)
        ledger.prefill(handle, prompt_tokens)
        running[handle] = output_tokens
        load_tokens = int(ledger.ranks["load_tokens"][0])
        now_s += 0.01 + 1e-6 * load_tokens + 2e-5 * prompt_tokens
        ledger.step(rank=0)
        running = {handle: left - 1 for handle, left in running.items()}
        for handle in [handle for handle, left in running.items() if left == 0]:
            ledger.finish(handle)
            del running[handle]
    assert num_passed_over > 80
    assert learned[0] is not None
    assert learned[0].prefill_s_per_token == pytest.approx(2e-5, rel=0.05)
    assert learned[0] == learned[1]
