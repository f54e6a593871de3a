"""Costs of a step as a user writes them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from balanceroute.cluster.costs import StepCosts
from balanceroute.errors import ConfigError
from balanceroute.policies.costs import parse_costs
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
