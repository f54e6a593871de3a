"""`balanceroute study`, from the outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Run

TINY = (
    *("study", "azure-2023-code", "--ranks", "2", "--slots", "4", "--pool", "4"),
    *("--requests", "80", "--policy", "br_0"),
)
SMALL = ("--repeats", "2", "--jobs", "1")


def test_it_prints_the_table_and_writes_the_files(run: Run, tmp_path: Path) -> None:
    """One row per value, means with intervals; results, two tables, timings and the plots."""
    outcome = run(*TINY, *SMALL, "--vary", "ranks=2,3", "--out", str(tmp_path), "--plots")
    assert 0 == outcome.code
    assert "ranks=2" in outcome.out
    assert "ranks=3" in outcome.out
    assert "±" in outcome.out
    assert ["cells.jsonl", "study.html", "table.csv", "table.parquet", "timings.csv"] == sorted(
        path.name for path in tmp_path.iterdir()
    )
    page = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert "Efficiency η over ranks" in page
    assert "--vary ranks=2,3" in page


BAD = {
    ("--vary", "rank=2"): "unknown axis 'rank'; did you mean 'ranks'?",
    ("--vary", "ranks=2", "--jobs", "0"): "--jobs must be at least 1, got 0",
    ("--vary", "ranks=2", "--repeats", "0"): "--repeats and --requests must be at least 1",
    ("--vary", "ranks=0"): "--ranks must be at least 1, got 0",
    ("--vary", "burst=2"): "a burst of 2 needs --rate",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """What was wrong, the value got, and the cure."""
    outcome = run(*TINY, *arguments, "--out", str(tmp_path))
    assert (2, "") == (outcome.code, outcome.out)
    assert BAD[arguments] in outcome.err
    assert 1 == len(outcome.err.strip().splitlines())


def test_a_source_that_is_not_there(run: Run, tmp_path: Path) -> None:
    """The study says so before anything runs."""
    outcome = run("study", "nothing.csv", "--vary", "ranks=2", "--out", str(tmp_path))
    assert 2 == outcome.code
    assert "no preset or file is called 'nothing.csv'" in outcome.err
