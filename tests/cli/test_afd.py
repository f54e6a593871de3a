"""`balanceroute afd` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from balanceroute.afd.profile import read_profile
from tests.cli.command import Run

TRACE = ["azure-2024-conv", "--requests", "3000"]
GROUP = ["--slots", "32", "--max-workers", "24"]
PLAN = ["afd", "plan", *TRACE, *GROUP]


def write_trace(path: Path, rows: list[str]) -> str:
    """Write a trace of lengths."""
    path.write_text("\n".join(["prompt_tokens,output_tokens", *rows]) + "\n")
    return str(path)


def write_profile(path: Path, **costs: float) -> str:
    """Write a profile of one device each."""
    attention = {"s_per_token": 1e-6, "constant_s": 1e-3, **costs}
    ffn = {"s_per_request": 1e-5, "constant_s": 5e-3}
    document = {"model": "m", "device": "d", "attention": attention, "ffn": ffn}
    path.write_text(json.dumps(document))
    return str(path)


@pytest.mark.slow
def test_plan_prints_its_answer_first(run: Run) -> None:
    """How many, how sure, what binds; then the paper's rules and what moves r."""
    outcome = run(*PLAN, "--device", "h200_sxm", "--model", "deepseek-v3")
    assert (0, "") == (outcome.code, outcome.err)
    text = " ".join(outcome.out.split())
    assert "One FFN worker (8 devices) should serve r = 15 attention workers" in text
    assert "At r = 15 FFN takes longest, by" in text
    for part in ("mean field", "barrier-aware", "fit of ffn", "note: "):
        assert part in text


@pytest.mark.slow
def test_plan_as_json(run: Run) -> None:
    """The fields that scripts go by, and the profile used."""
    outcome = run(*PLAN, "--json")
    assert (0, "") == (outcome.code, outcome.err)
    plan = json.loads(outcome.out)
    assert plan["schema"] == "balanceroute.afd-plan.v1"
    assert plan["theta_interval"][0] < plan["theta_tokens"] < plan["theta_interval"][1]
    assert plan["nu_tokens"] > 0
    assert plan["r_interval"]["low"] <= plan["r_star"] <= plan["r_interval"]["high"]
    assert plan["regime"] == "ffn"
    assert (plan["profile"]["model"], plan["profile"]["device"]) == ("deepseek-v3", "h200_sxm")
    assert len(plan["curve"]) == 24


@pytest.mark.slow
def test_plan_writes_a_page(run: Run, tmp_path: Path) -> None:
    """With curve, regimes, simulated points and the chosen r, beside the document."""
    outcome = run(*PLAN, "--out", str(tmp_path), "--attention-price", "2", "--ffn-price", "3")
    assert (0, "") == (outcome.code, outcome.err)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert f"r* = {plan['r_star']}" in page
    assert "Longest stage: FFN for r = 1 to" in page
    assert "Simulated bundles" in page
    assert len(plan["simulated"]) > 5
    assert plan["best"]["cost_per_million"] > 0


@pytest.mark.slow
def test_a_plan_over_time(run: Run) -> None:
    """Windows of a minute, and what changing r is worth."""
    outcome = run(
        "afd", "plan", "azure-2024-conv", "--requests", "9000", *GROUP, "--window-s", "60"
    )
    assert (0, "") == (outcome.code, outcome.err)
    assert "windows of 60 s" in " ".join(outcome.out.split())


def test_simulate_says_who_is_idle_for_what(run: Run) -> None:
    """In words and in JSON, with a policy the metrics of each microbatch too."""
    simulate = ["afd", "simulate", *TRACE, "--workers", "4", "--slots", "16", "--cycles", "300"]
    outcome = run(*simulate)
    assert (0, "") == (outcome.code, outcome.err)
    assert "attention idle: barrier" in outcome.out
    document = json.loads(run(*simulate, "--policy", "br_0", "--json").out)
    assert len(document["metrics"]) == 2
    assert 0.9 < document["metrics"][0]["efficiency"] <= 1
    assert document["idle"]["attention_ffn_ratio"] > 0


def test_sweep_marks_the_best(run: Run) -> None:
    """Simulated beside predicted, for the sizes asked for."""
    sweep = ["afd", "sweep", *TRACE, "--workers", "2-4,8", "--slots", "16", "--cycles", "300"]
    outcome = run(*sweep)
    assert (0, "") == (outcome.code, outcome.err)
    assert "8 *" in outcome.out
    points = json.loads(run(*sweep, "--json").out)["points"]
    assert [2, 3, 4, 8] == [each["r"] for each in points]


def test_a_fitted_profile_can_be_planned_with(run: Run, tmp_path: Path) -> None:
    """From a CSV of measurements to a plan."""
    rows = ["stage,requests,tokens,time_ms"]
    rows += [f"attention,{n},{n * 1000},{1 + n / 100}" for n in (8, 32, 128)]
    rows += [f"ffn,{n},,{5 + n / 100}" for n in (8, 32, 128)]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    profile = tmp_path / "mine.json"
    outcome = run("afd", "profile", "fit", str(tmp_path / "m.csv"), "--out", str(profile))
    assert (0, "") == (outcome.code, outcome.err)
    assert "note: The network was not measured" in outcome.out
    assert read_profile(profile).ffn.s_per_request == pytest.approx(1e-5)
    outcome = run(*PLAN, "--profile", str(profile), "--json")
    assert json.loads(outcome.out)["profile"]["ffn"]["constant_s"] == pytest.approx(5e-3)


def test_the_shipped_profiles_are_listed_with_their_errors(run: Run) -> None:
    """Six of them."""
    outcome = run("afd", "profile", "list")
    assert (0, "") == (outcome.code, outcome.err)
    assert outcome.out.count("attention, 1 device") == 6
    assert "4.3 / 12 %" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tpot-target-ms", "1"], "no bundle gives a TPOT of 1 ms: the least with 32 slots"),
        (["--slots", "4000"], "memory is too small for the batch: 2 × 4000 requests hold up to"),
        (["--slots", "0"], "--slots must be 1 to 16384, got 0"),
        (["--microbatches", "5"], "--microbatches must be 1 to 3, got 5"),
        (["--device", "h20_sxm"], "there is no profile 'deepseek-v3.h20_sxm'; did you mean"),
        (["--profile", "none.json"], "profile none.json cannot be read: No such file"),
        (["--policy", "br_9"], "unknown policy 'br_9'"),
        (["--ffn-price", "3"], "--attention-price and --ffn-price go together"),
        (["--window-s", "1e9"], "into 0 whole windows"),
    ],
)
def test_what_cannot_be_planned(run: Run, arguments: list[str], message: str) -> None:
    """One line that says what cannot hold, and exit code 2."""
    outcome = run("afd", "plan", *TRACE, "--max-workers", "24", "--slots", "32", *arguments)
    assert (2, "") == (outcome.code, outcome.out)
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_trace_with_one_request(run: Run, tmp_path: Path) -> None:
    """It says how many it takes."""
    outcome = run("afd", "plan", write_trace(tmp_path / "one.csv", ["10,5"]))
    assert 2 == outcome.code
    assert "has 1 request, from which no spread can be told" in outcome.err


def test_a_profile_with_a_negative_slope(run: Run, tmp_path: Path) -> None:
    """It is named with its value."""
    profile = write_profile(tmp_path / "p.json", s_per_token=-1e-9)
    outcome = run(*PLAN, "--profile", profile)
    assert 2 == outcome.code
    assert "attention.s_per_token must be a number of at least 0, got -1e-09" in outcome.err


@pytest.mark.parametrize("text", ["", "0-3", "5-2", "a", "1,,2"])
def test_sizes_that_are_none(run: Run, text: str) -> None:
    """What would do is in the message."""
    outcome = run("afd", "sweep", *TRACE, "--workers", text)
    assert 2 == outcome.code
    assert "--workers must be numbers of at least 1 like 1-16 or 2,4,8" in outcome.err
