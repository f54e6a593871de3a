"""`balanceroute fleet`, from the outside, and `simulate --groups`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import Run

SMALL = ("azure-2023-conv", "--groups", "3", "--ranks", "2-3", "--slots", "3", "--requests", "300")
TRACE = '{{"timestamp": {}, "input_length": {}, "output_length": 3, "hash_ids": {}}}'


def test_fronts_are_compared(run: Run) -> None:
    """One row each; the document has every figure."""
    fronts = ("--front", "round_robin", "--front", "br_fleet")
    outcome = run("fleet", *SMALL, *fronts, "--json")
    assert (0, "") == (outcome.code, outcome.err)
    document = json.loads(outcome.out)
    assert ("balanceroute.fleet.v1", 3, 7) == tuple(
        document[name] for name in ("schema", "groups", "ranks")
    )
    assert ["round_robin", "br_fleet"] == [each["front"] for each in document["runs"]]
    table = run("fleet", *SMALL, *fronts).out
    for each in document["runs"]:
        assert f"{each['efficiency']:.4f}" in table


def test_a_trace_that_names_blocks(run: Run, tmp_path: Path) -> None:
    """Turns of a conversation find what came before them, whoever chooses, in one group."""
    path = tmp_path / "blocks.jsonl"
    lines = [TRACE.format(1000 * k, 512 * (k + 1), list(range(k + 1))) for k in range(10)]
    path.write_text("\n".join(lines))
    cached = ("--cache-tokens", "99999", "--prefill-budget", "512", "--groups", "1")
    settings = ("fleet", str(path), "--arrivals", "trace", "--front", "least_tokens", "--json")
    its = json.loads(run(*settings, *cached).out)["runs"][0]
    assert its["prefix_hit_ratio"] == pytest.approx(sum(range(10)) / sum(range(1, 11)))
    assert its["efficiency"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ranks", "many"), "--ranks must be a number, or a range as 16-64, got 'many'"),
        (("--ranks", "4-"), "--ranks must be a number, or a range as 16-64, got '4-'"),
        (("--ranks", "4-2"), "got 4-2"),
        (("--groups", "0"), "--groups must be at least 1, got 0"),
        (("--front", "br_flet"), "did you mean 'br_fleet'"),
        (("--front", "br_fleet", "--front", "br_fleet"), "a front is named twice"),
        (("--front", "br_fleet,excess=-1"), "excess must be a number above 0, got -1.0"),
        (("--policy", "nobody"), "unknown policy 'nobody'"),
        (("--arrivals", "often"), "--arrivals"),
        (("--cache-tokens", "100"), "--cache-tokens needs --prefill-budget"),
        (("--report-interval", "-1"), "--report-interval must be above 0 seconds, got -1.0"),
        (("--rate", "5"), "--rate is for --arrivals poisson"),
        (("--processes", "0"), "--processes must be at least 1, got 0"),
        (("--requests", "20"), "raise --requests"),
        (("--seed", "-1"), "--seed must be at least 0, got -1"),
    ],
)
def test_bad_input(run: Run, arguments: tuple[str, ...], message: str) -> None:
    """One line on standard error, and exit code 2."""
    outcome = run("fleet", *SMALL, *arguments)
    assert (2, "") == (outcome.code, outcome.out)
    assert message in outcome.err
    assert 1 == outcome.err.count("\n")


def test_one_brain_over_several_barriers(run: Run) -> None:
    """Groups wait for their own slowest rank only, so less is lost."""
    group = ("--ranks", "8", "--slots", "4", "--requests", "400", "--policy", "round_robin")
    alone = ("simulate", "azure-2023-conv", *group)
    one = json.loads(run(*alone, "--json").out)
    four = json.loads(run(*alone, "--groups", "4", "--json").out)
    assert (1, 4) == (one["group"]["groups"], four["group"]["groups"])
    assert one["runs"][0]["metrics"]["efficiency"] < four["runs"][0]["metrics"]["efficiency"]
    assert "4 barriers" in " ".join(run(*alone, "--groups", "4").out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--groups", "3"), "--groups must be at least 1 and divide --ranks (8), got 3"),
        (("--groups", "0"), "--groups must be at least 1 and divide --ranks (8), got 0"),
        (("--groups", "2", "--no-barrier"), "no --no-barrier"),
    ],
)
def test_groups_that_cannot_be(run: Run, arguments: tuple[str, ...], message: str) -> None:
    """They are refused by name."""
    outcome = run("simulate", "azure-2023-conv", "--ranks", "8", *arguments)
    assert (2, "") == (outcome.code, outcome.out)
    assert message in outcome.err
