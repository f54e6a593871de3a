"""Policies by name: ours, those of other packages, and those in a file."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest

from balanceroute.errors import ConfigError
from balanceroute.policies import registry
from balanceroute.policies.classic import RoundRobin
from balanceroute.policies.registry import find_policy, make_policy, policy_names
from tests.policies.views import build

MINE = """
from __future__ import annotations
from dataclasses import dataclass
import numpy as np
from balanceroute.policies import Plan

@dataclass
class Settings:
    step: int = 1

class Mine:
    binding = "pooled"

    def __init__(self, *, step: int, share: float = 0.5, is_bold: bool = False, tag: str = "a",
                 rng: np.random.Generator) -> None:
        if step < 1:
            raise ValueError(f"step must be at least 1, got {step}")
        self.given = (step, share, is_bold, tag, type(rng).__name__)

    def plan(self, view, pool):
        return Plan.oldest(np.zeros(0, np.int64))

class NoPlan:
    binding = "pooled"

number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return str(path)


@pytest.mark.parametrize("name", policy_names())
def test_every_name_builds_a_policy(name: str) -> None:
    """Each policy says how it binds and can plan."""
    policy = build(name)
    assert policy.binding in ("pooled", "immediate")
    assert callable(policy.plan)


UNKNOWN = {
    "br0": "unknown policy 'br0'; did you mean 'br_0'? Known: random, round_robin, ",
    "leasttokens": "unknown policy 'leasttokens'; did you mean 'least_tokens'? Known: ",
    "qqq": "unknown policy 'qqq'. Known: random, ",
    "": "unknown policy ''. Known: random, ",
    "br_0,selectby=margin": (
        "unknown setting 'selectby' for policy br_0; did you mean 'select_by'? "
        "Known: select_by, s_greedy, r_max, window"
    ),
    "random,seed=3": "unknown setting 'seed' for policy random. Known: none (it takes no settings)",
    "random,rng=3": "unknown setting 'rng' for policy random. Known: none (it takes no settings)",
    "br_0,margin": "unknown setting 'margin' for policy br_0",
    "br_0,": "unknown setting '' for policy br_0. Known: ",
    "br_0,r_max=four": "policy br_0: setting r_max must be of type int, got 'four'",
    "br_0,r_max=4.5": "policy br_0: setting r_max must be of type int, got '4.5'",
    "vllm,snapshot_s=": "policy vllm: setting snapshot_s must be of type float, got ''",
    "br_0,r_max=4,r_max=5": "policy br_0: setting 'r_max' is given twice",
}


@pytest.mark.parametrize("spec", UNKNOWN)
def test_what_is_unknown_or_of_the_wrong_kind_is_said(spec: str) -> None:
    """One line with the value got, what is allowed, and the nearest name if one is near."""
    with pytest.raises(ConfigError, match=re.escape(UNKNOWN[spec])) as caught:
        build(spec)
    assert "\n" not in str(caught.value)


def test_spaces_around_names_and_values_do_not_matter() -> None:
    """People write a space after a comma."""
    assert "pooled" == build(" br_0 , r_max = 8").binding


def test_a_policy_in_a_file(mine: str) -> None:
    """Settings are read as the types that the constructor asks for."""
    policy = build(f"{mine}:Mine,step=2,share=1e-3,is_bold=True,tag=x y")
    assert (2, 1e-3, True, "x y", "Generator") == policy.given  # type: ignore[attr-defined]


FAULTS = {
    "{mine}:Mine": "setting 'step' is required",
    "{mine}:Mine,step=0": "Mine: step must be at least 1, got 0",
    "{mine}:Mine,step=1,is_bold=perhaps": "setting is_bold must be of type bool, got 'perhaps'",
    "{mine}:Yours": "mine.py defines no 'Yours'",
    "{mine}:NoPlan": "mine.py: NoPlan is not a policy: it must be a class with 'plan'",
    "{mine}:number": "mine.py: number is not a policy: it must be a class with 'plan'",
    "no/such.py:Mine": "policy file no/such.py does not exist",
}


@pytest.mark.parametrize("spec", FAULTS)
def test_faults_of_a_policy_file_are_said(spec: str, mine: str) -> None:
    """The error names the file and what is wrong with it."""
    with pytest.raises(ConfigError, match=re.escape(FAULTS[spec])):
        build(spec.format(mine=mine))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def plan(:", "cannot be loaded: SyntaxError("),
        ("import no_such_module", "cannot be loaded: ModuleNotFoundError("),
        ("x = 1 / 0", "cannot be loaded: ZeroDivisionError("),
        ("import math; math.no_such_name", "cannot be loaded: AttributeError("),
        ("raise RuntimeError('no licence')", "cannot be loaded: RuntimeError('no licence')"),
    ],
)
def test_a_file_that_fails_to_load_is_named(tmp_path: Path, text: str, message: str) -> None:
    """Whatever a user's file raises becomes one line."""
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"policy file {path} {message}")):
        build(f"{path}:Mine")


def test_an_installed_policy_is_found_by_its_entry_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its name is listed after ours; ours cannot be replaced."""
    theirs = EntryPoints(
        EntryPoint(name, "balanceroute.policies.classic:RoundRobin", registry.ENTRY_POINT_GROUP)
        for name in ("theirs", "vllm")
    )
    monkeypatch.setattr(registry, "entry_points", theirs.select)
    assert [*registry.BUILT_IN, "theirs"] == policy_names()
    assert RoundRobin is find_policy("theirs")
    assert isinstance(build("theirs"), RoundRobin)
    assert not isinstance(build("vllm"), RoundRobin)


def test_an_entry_point_that_leads_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that announced it is at fault, and its import error is shown."""
    theirs = EntryPoints([EntryPoint("theirs", "no_such_module:X", registry.ENTRY_POINT_GROUP)])
    monkeypatch.setattr(registry, "entry_points", theirs.select)
    with pytest.raises(ConfigError, match="policy theirs cannot be loaded: ModuleNotFoundError"):
        build("theirs")


def test_the_generator_reaches_policies_that_draw() -> None:
    """The policy uses the very generator it was given."""
    rng = np.random.default_rng(5)
    policy = make_policy("random", rng=rng)
    assert policy._rng is rng  # type: ignore[attr-defined]
