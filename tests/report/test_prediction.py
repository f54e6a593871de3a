"""The result of an examination: gains, verdict, tables and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from balanceroute.errors import OutputError
from balanceroute.report import SimulationResult
from balanceroute.report.extras import plotly_js
from balanceroute.report.prediction import (
    BinResult,
    ClassifierResult,
    PredictionResult,
    judge,
)
from balanceroute.report.prediction.gains import gains_of
from balanceroute.report.prediction.page import build_page, write_page
from balanceroute.report.prediction.result import to_json
from balanceroute.report.prediction.table import bins_of, describe, uses_of
from tests.report.results import WORKLOAD, make_metrics, make_result
from tests.report.test_html import Checker

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

PLAIN = "survival:by=global"


def make_simulation(gains: dict[str, list[float]], plain: float = 0.9) -> SimulationResult:
    """Return runs of both policies, η at `plain` without a classifier and above it by `gains`."""
    runs = []
    for policy, without in (("br_auto", "look_ahead=false"), ("br_h", "horizon=0")):
        for seed in range(len(next(iter(gains.values())))):
            # Seeds differ by more than the gains: they are paired.
            level = plain + 0.05 * seed
            runs.append((f"{policy},{without}", make_metrics(efficiency=level)))
            runs += [
                (f"{policy},classifier={name}", make_metrics(efficiency=level + values[seed]))
                for name, values in gains.items()
            ]
    return make_result(*runs)


def make_prediction(
    asked: str = "learned",
    *,
    is_saved: bool = False,
    gains: dict[str, list[float]] | None = None,
) -> PredictionResult:
    """Return a result with figures by hand."""
    bins = (
        BinResult(number=0, num_samples=1500, mean_prob=0.04, end_ratio=0.05),
        BinResult(number=9, num_samples=500, mean_prob=0.95, end_ratio=0.9),
    )
    names = dict.fromkeys((PLAIN, "survival", asked, "oracle"))
    values = {name: [0.01, 0.012] for name in names if name != PLAIN or name == asked}
    return PredictionResult(
        trace=WORKLOAD,
        num_earlier_requests=10_000,
        num_later_requests=10_000,
        classifier=asked,
        is_saved=is_saved,
        horizon=80,
        num_samples=2000,
        end_ratio=0.25,
        classifiers=tuple(
            ClassifierResult(classifier=name, auc=0.9, brier=0.1, mae_steps=9.0, bins=bins)
            for name in names
        ),
        simulation=make_simulation(gains or values),
    )


def page_without_plotly(result: PredictionResult) -> str:
    """Return the page less the library that it carries."""
    page = build_page(result, command="balanceroute predict evaluate learned x.csv")
    assert page.count(plotly_js()) == 1
    return page.replace(plotly_js(), "")


def test_gains_are_paired_by_seed() -> None:
    """Mean and sample deviation of the differences, not of the values."""
    gains = gains_of(make_simulation({"survival": [0.01, 0.03], "oracle": [0.02, 0.02]}))
    assert 4 == len(gains)
    assert gains["br_h,classifier=survival"].mean == pytest.approx(0.02)
    assert gains["br_h,classifier=survival"].std == pytest.approx(0.0002**0.5)
    assert gains["br_auto,classifier=oracle"].std == pytest.approx(0.0)


def test_a_single_run_has_no_spread() -> None:
    """Nothing is said of chance then."""
    result = make_prediction(gains={"survival": [0.01], "learned": [0.02], "oracle": [0.03]})
    assert (
        "br_auto: knowing all lengths changes η by +0.0300; learned by +0.0200, "
        "survival by +0.0100." == judge(result)[0]
    )
    assert "+0.0200" == uses_of(result)[2][3]


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ([0.03, 0.05], "+0.0400 ± 0.0141; learned by +0.0100 ± 0.0000, survival by +0.0100"),
        ([0.0, 0.0], "+0.0000 ± 0.0000; prediction does not matter here."),
        ([0.0009, 0.0009], "+0.0009 ± 0.0000; prediction does not matter here."),
        ([-0.0002, 0.0008], "+0.0003 ± 0.0007; prediction does not matter here."),
        ([-0.01, 0.03], "+0.0100 ± 0.0283, too uncertain to judge; more --repeats or --slots"),
        ([-0.02, -0.03], "-0.0250 ± 0.0071; looking ahead does harm here, whoever predicts."),
    ],
)
def test_the_verdict_says_what_knowing_all_would_gain(best: list[float], expected: str) -> None:
    """Compared with chance, and with what counts as nothing."""
    gains = {"survival": [0.01, 0.01], "learned": [0.01, 0.01], "oracle": best}
    sentences = judge(make_prediction(gains=gains))
    for policy, sentence in zip(("br_auto", "br_h"), sentences, strict=True):
        assert sentence.startswith(f"{policy}: knowing all lengths changes η by {expected}")


def test_the_oracle_is_not_compared_with_itself() -> None:
    """Asked for itself, only the default stands beside it."""
    gains = {"survival": [0.01, 0.01], "oracle": [0.03, 0.03]}
    (first, _) = judge(make_prediction("oracle", gains=gains))
    assert first.endswith("η by +0.0300 ± 0.0000; survival by +0.0100 ± 0.0000.")


def test_a_saved_one_is_called_by_its_name() -> None:
    """Its path is named once; where space is scarce it is left out."""
    result = make_prediction("learned:model=/a/long/path/x.model", is_saved=True)
    assert "learned:model=/a/long/path/x.model is as it was saved" in describe(result)
    assert ["none", "survival", "learned (saved)", "oracle"] == [
        row[1] for row in uses_of(result)[:4]
    ]
    assert "/a/long" not in " ".join(judge(result))


def test_tenths_without_samples_are_rows_too() -> None:
    """Ten rows, so that two classifiers stand side by side."""
    rows = bins_of(make_prediction().classifiers[0])
    assert ("1,500", "0.040", "0.050") == rows[0]
    assert ("500", "0.950", "0.900") == rows[9]
    assert [("–", "–", "–")] * 8 == rows[1:9]


def test_the_document_is_read_back() -> None:
    """Every field survives."""
    result = make_prediction()
    assert result == msgspec.json.decode(to_json(result), type=PredictionResult)


@pytest.mark.parametrize("asked", ["learned", PLAIN])
def test_the_page_is_well_formed_and_links_only_into_itself(asked: str) -> None:
    """Elements nest, ids are unique, links lead to ids, and the browser may load nothing."""
    checker = Checker()
    page = page_without_plotly(make_prediction(asked))
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    inner = [target for target in checker.targets if target != "data:,"]
    assert {target.removeprefix("#") for target in inner} <= set(checker.ids)
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_page_says_what_matters(tmp_path: Path) -> None:
    """Verdict, figures, settings and command are in it; the verdict comes first."""
    write_page(make_prediction(), tmp_path / "p.html", command="balanceroute predict evaluate x")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    order = ["knowing all lengths", "Brier score", "Calibration", "What policies make", "Settings"]
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert "balanceroute predict evaluate x" in page


def test_plotly_knows_every_setting_of_the_figures() -> None:
    """Plotly's own schema accepts traces and layouts, with colours in place of their names."""
    graph_objects = pytest.importorskip("plotly.graph_objects")
    found = re.search(r'id="plots">(.*?)</script>', page_without_plotly(make_prediction()))
    assert found is not None
    plots: dict[str, Any] = json.loads(re.sub(r'"\$\w+"', '"#123456"', found[1]))
    assert {"calibration", "samples", "efficiency"} == set(plots)
    for plot in plots.values():
        graph_objects.Figure(data=plot["data"], layout=plot["layout"])


def test_a_page_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    """Nothing half-written is left."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        write_page(make_prediction(), tmp_path / "file" / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
