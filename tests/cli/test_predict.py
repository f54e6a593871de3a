"""`balanceroute predict fit` and `evaluate` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balanceroute.predict import boosting, evaluate, fit, load, save, split_by_time
from balanceroute.predict.files import HEADER
from balanceroute.predict.survival import Survival
from balanceroute.report.prediction import run as examination
from balanceroute.workload import load as load_workload
from tests.cli.command import Run

TRACE = ["azure-2023-conv", "--requests", "600"]
GROUP = ["--ranks", "2", "--slots", "4", "--repeats", "1"]
TINY = [*TRACE, *GROUP]


def document_of(out: str) -> dict[str, Any]:
    """Return a result less what depends on the wall clock."""
    document: dict[str, Any] = json.loads(out)
    for each in document["simulation"]["runs"]:
        del each["metrics"]["wall_s"], each["metrics"]["decision_us"]
    return document


def write_trace(path: Path, num_requests: int) -> Path:
    """Write a file of requests whose outputs are twice their prompts."""
    rows = "".join(f"{10 + i % 7},{20 + 2 * (i % 7)}\n" for i in range(num_requests))
    path.write_text(f"prompt_tokens,output_tokens\n{rows}")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the path of a classifier that has learnt a preset's earlier half."""
    path = tmp_path / "a.model"
    earlier, _ = split_by_time(load_workload("azure-2023-conv", num_requests=600))
    save(fit(earlier, "survival"), path)
    return path


def test_fit_saves_what_was_learnt(run: Run, tmp_path: Path) -> None:
    """The file, made with its directory, is what the library makes of the same requests."""
    out = tmp_path / "new" / "conv.model"
    outcome = run("predict", "fit", *TRACE, "--out", str(out), "--classifier", "survival:memory=99")
    assert (0, "") == (outcome.code, outcome.err)
    first = outcome.out.splitlines()[0]
    assert first.startswith(f"{out}: survival:memory=99, taught 600 requests of azure-2023-conv (")
    expected = tmp_path / "expected"
    save(fit(load_workload("azure-2023-conv", num_requests=600), "survival:memory=99"), expected)
    assert expected.read_bytes() == out.read_bytes()


def test_fit_goes_on_from_a_saved_one(run: Run, tmp_path: Path, model: Path) -> None:
    """`NAME:model=FILE` is taught on and saved elsewhere; the file is as it was."""
    before, out = model.read_bytes(), tmp_path / "on.model"
    spec = f"survival:model={model}"
    assert 0 == run("predict", "fit", *TRACE, "--out", str(out), "--classifier", spec).code
    taught = load(out)
    assert isinstance(taught, Survival)
    assert before == model.read_bytes() != out.read_bytes()


def test_json_is_the_documented_result_and_nothing_else(run: Run) -> None:
    """Standard output parses as the schema, with what the library measures."""
    outcome = run("predict", "evaluate", "exact_match", *TINY, "--json", "-")
    assert (0, "") == (outcome.code, outcome.err)
    document = document_of(outcome.out)
    assert "balanceroute.prediction.v1" == document["schema"]
    assert (300, 300) == (document["num_earlier_requests"], document["num_later_requests"])
    names = ["survival:by=global", "survival", "exact_match", "oracle"]
    assert names == [each["classifier"] for each in document["classifiers"]]
    earlier, later = split_by_time(
        load_workload("azure-2023-conv", num_requests=600, with_arrivals=False)
    )
    for each in document["classifiers"][:3]:
        expected = evaluate(fit(earlier, each["classifier"]), later, 80, is_taught=True)
        assert (expected.auc, expected.brier) == (each["auc"], each["brier"])
        assert expected.mae_steps == each["mae_steps"]
        assert document["num_samples"] == sum(part["num_samples"] for part in each["bins"])
        assert document["end_ratio"] == expected.end_ratio
    oracle = document["classifiers"][3]
    assert (1.0, 0.0, 0.0) == (oracle["auc"], oracle["brier"], oracle["mae_steps"])
    assert [
        "br_auto,look_ahead=false",
        *(f"br_auto,classifier={name}" for name in names[1:]),
        "br_h,horizon=0",
        *(f"br_h,classifier={name}" for name in names[1:]),
    ] == [each["policy"] for each in document["simulation"]["runs"]]


def test_the_same_seed_gives_the_same_result(run: Run) -> None:
    """Draws, fits, starts and noise repeat themselves; another seed gives another."""
    spec = "noisy_oracle:auc=0.8"
    first, second, other = (
        document_of(run("predict", "evaluate", spec, *TINY, "--seed", seed, "--json", "-").out)
        for seed in ("3", "3", "4")
    )
    assert first == second != other


def test_a_file_is_what_its_specification_is(run: Run, model: Path) -> None:
    """A path and ``NAME:model=PATH`` give the same figures, and leave the file as it was."""
    before = model.read_bytes()
    by_path, by_name = (
        document_of(run("predict", "evaluate", text, *TINY, "--json", "-").out)
        for text in (str(model), f"survival:model={model}")
    )
    assert by_path == by_name
    assert by_path["is_saved"]
    assert f"survival:model={model}" == by_path["classifier"]
    assert before == model.read_bytes()
    # It was taught the same requests as the classifier that is fitted here.
    fitted, saved = by_path["classifiers"][1], by_path["classifiers"][2]
    assert fitted["brier"] == saved["brier"]


def test_page_and_figures_are_written(run: Run, tmp_path: Path) -> None:
    """One page that asks nobody, the JSON, and the tables as well."""
    page, figures = tmp_path / "new" / "page.html", tmp_path / "figures.json"
    outcome = run(
        "predict", "evaluate", "survival", *TINY, "--html", str(page), "--json", str(figures)
    )
    assert 0 == outcome.code
    assert "balanceroute.prediction.v1" == json.loads(figures.read_text())["schema"]
    text = page.read_text()
    assert 'src="http' not in text
    assert "predict evaluate survival azure-2023-conv" in text
    assert "wait max" in outcome.out


@pytest.mark.parametrize("spec", ["survival:by=global", "survival:memory=40000:max_classes=512"])
def test_tables_fit_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    """No line is wider than a plain terminal, whatever the classifier is called."""
    monkeypatch.setenv("COLUMNS", "80")
    outcome = run("predict", "evaluate", spec, *TINY, "--repeats", "2")
    assert 0 == outcome.code
    assert 80 >= max(len(line) for line in outcome.out.splitlines())
    assert "AUC" in outcome.out
    assert "observed" in outcome.out
    assert "br_auto: knowing all lengths" in outcome.out


def test_the_first_requests_of_a_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long file is cut, a short one is drawn from for the simulation only, and both are said."""
    trace = write_trace(tmp_path / "t.csv", 60)
    monkeypatch.setattr(examination, "DEFAULT_MAX_REQUESTS", 50)
    outcome = run("predict", "evaluate", "survival", str(trace), *GROUP)
    assert "t.csv, 50 requests of 60: learnt from the first 25" in outcome.out
    assert "note: 64 requests drawn with replacement with seed 0." in outcome.out
    document = run("predict", "evaluate", "survival", str(trace), *GROUP, "--json", "-").out
    simulated = json.loads(document)["simulation"]["workload"]
    assert (25, "with_replacement") == (simulated["num_source_requests"], simulated["sampling"])


def test_all_end_or_none_does(run: Run, tmp_path: Path) -> None:
    """There is no AUC then, and that is not an error."""
    trace = write_trace(tmp_path / "t.csv", 60)
    for horizon, ratio in (("1000", 1.0), ("1", 0.0)):
        outcome = run(
            "predict",
            "evaluate",
            "survival",
            str(trace),
            *GROUP,
            "--horizon",
            horizon,
            "--json",
            "-",
        )
        document = json.loads(outcome.out)
        assert np.isclose(ratio, document["end_ratio"], atol=0.05)
        if ratio == 1.0:
            assert [None] * 3 == [each["auc"] for each in document["classifiers"]]


FIT = ["fit", *TRACE, "--out", "x.model"]
EVALUATE = ["evaluate", "survival", *TRACE]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fit", "azure-2023-cnov", "--out", "x"], "did you mean 'azure-2023-conv'?"),
        ([*FIT, "--classifier", "survivl"], "unknown classifier 'survivl'; did you mean"),
        ([*FIT, "--classifier", "survival:by=tenant"], "by must be one of class, global"),
        ([*FIT, "--classifier", "survival:memory=x"], "memory must be of type int, got 'x'"),
        ([*FIT, "--classifier", "oracle"], "needs output_tokens, which only a simulation"),
        ([*FIT, "--classifier", "survival:model=gone"], "gone: cannot be read (No such file"),
        ([*FIT, "--requests", "0"], "number of requests must be at least 1, got 0"),
        ([*FIT, "--format", "azure"], "--format is for files"),
        ([*FIT, "--seed", "-1"], "seed must be at least 0"),
        (["fit", "one.csv", "--out", "one.csv"], "--out one.csv is the trace itself"),
        (["fit", "one.csv", "--out", "one.csv/x"], "cannot write"),
        (["fit", "one.csv", "--out", "."], ".: is a directory; name a file in it"),
        (["fit", "one.csv", "--out", "x", "--requests", "2"], "at most the 1 of one.csv, got 2"),
        (["fit", "one.csv", "--out", "x", "--requests", "0"], "--requests must be at least 1"),
        (["evaluate", "gone.model", *TRACE], "unknown classifier or file 'gone.model'"),
        (["evaluate", "survivl", *TRACE], "did you mean 'survival'?"),
        (["evaluate", "cut.model", *TRACE], "cut.model: cut off or changed"),
        (["evaluate", "other.model", *TRACE], "other.model: format version 9, this release reads"),
        (["evaluate", "one.csv", *TRACE], "one.csv: not a classifier's file"),
        (["evaluate", ".", *TRACE], ".: cannot be read (Is a directory)"),
        (["evaluate", "exact_match:model=a.model", *TRACE], "holds the classifier survival, not"),
        (["evaluate", "noisy_oracle", *TRACE], "give either error or auc"),
        (["evaluate", "survival", "gone.csv"], "no preset or file is called 'gone.csv'"),
        (["evaluate", "survival", "one.csv"], "one.csv is too short to split"),
        (["evaluate", "survival", "a.model"], "a.model: holds binary data"),
        ([*EVALUATE, "--horizon", "0"], "horizon must be at least 1 step, got 0"),
        ([*EVALUATE, "--horizon", "1" * 30], "horizon must be at most 1,000,000,000 steps"),
        ([*EVALUATE, "--fit-ratio", "1"], "fit-ratio must be above 0 and below 1, got 1.0"),
        ([*EVALUATE, "--fit-ratio", "nan"], "fit-ratio must be above 0 and below 1, got nan"),
        ([*EVALUATE, "--fit-ratio", "0.0001"], "is too short to split"),
        ([*EVALUATE, "--ranks", "0"], "--ranks must be at least 1, got 0"),
        ([*EVALUATE, "--slots", "0"], "--slots must be at least 1, got 0"),
        ([*EVALUATE, "--pool", "0"], "--pool must be at least 1, got 0"),
        ([*EVALUATE, "--repeats", "0"], "--repeats must be at least 1, got 0"),
        ([*EVALUATE, "--seed", "-1"], "--seed must be at least 0, got -1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run,
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    """What was wrong on one line of stderr, nothing on stdout, no traceback, and no file."""
    monkeypatch.chdir(tmp_path)
    data = model.read_bytes()
    (tmp_path / "cut.model").write_bytes(data[: HEADER.size + 9])
    (tmp_path / "other.model").write_bytes(data[:24] + b"\x09" + data[25:])
    write_trace(tmp_path / "one.csv", 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    outcome = run("predict", *arguments)
    assert (2, "") == (outcome.code, outcome.out)
    assert 1 == len(outcome.err.splitlines())
    assert expected in outcome.err
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("command", [["fit", "--out", "x", "--classifier"], ["evaluate"]])
def test_the_extra_is_named_where_it_is_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """At once, before a long trace is read."""
    monkeypatch.setattr(boosting, "is_installed", lambda: False)
    outcome = run("predict", *command, "learned", *TRACE)
    assert 2 == outcome.code
    assert "pip install 'balanceroute[learned]'" in outcome.err
