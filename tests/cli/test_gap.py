"""`balanceroute gap`, from the outside."""

from __future__ import annotations

import json

import pytest

from tests.cli.command import Run

TINY = ("azure-2023-conv", "--ranks", "3", "--slots", "4", "--pool", "6", "--requests", "80")


def test_the_step_optimum_has_no_gap_and_others_have_one(run: Run) -> None:
    """bf_io is compared with itself; no plan is below the optimum of its step."""
    policies = ("--policy", "round_robin", "--policy", "bf_io")
    document = json.loads(run("gap", *TINY, *policies, "--every", "1", "--json").out)
    assert "balanceroute.gap.v1" == document["schema"]
    by_name = {each["policy"]: each for each in document["policies"]}
    assert 0.0 == by_name["bf_io"]["gap_ratio"]
    assert by_name["round_robin"]["gap_ratio"] > 0.05
    for each in by_name.values():
        assert 0 < each["num_compared"] == each["num_plans"]
        assert (0, 0) == (each["num_too_large"], each["num_unproven"])
        assert 0.0 < each["bound_gap_ratio"] < 1.0


def test_what_is_too_large_is_counted(run: Run) -> None:
    """Each plan is compared or counted as too large."""
    arguments = (*TINY, "--policy", "br_0", "--every", "1", "--max-pairs", "6")
    gap = json.loads(run("gap", *arguments, "--json").out)["policies"][0]
    assert 0 < gap["num_too_large"]
    assert gap["num_plans"] == gap["num_compared"] + gap["num_too_large"]


def test_without_a_comparison_the_bound_stands(run: Run) -> None:
    """The table has dashes, and the distance to perfect balance."""
    arguments = (*TINY, "--policy", "br_0", "--every", "1000000")
    gap = json.loads(run("gap", *arguments, "--json").out)["policies"][0]
    assert (None, 0) == (gap["gap_ratio"], gap["num_compared"])
    table = run("gap", *arguments).out
    assert "–" in table
    assert f"{gap['bound_gap_ratio']:.2%}" in table


@pytest.mark.parametrize("every", ["0", "-1"])
def test_every_must_be_positive(run: Run, every: str) -> None:
    """One line on standard error, and exit code 2."""
    outcome = run("gap", *TINY, "--every", every)
    assert (2, "") == (outcome.code, outcome.out)
    assert f"--every must be at least 1 plan, got {every}" in outcome.err
