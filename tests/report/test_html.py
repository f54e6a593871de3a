"""The web page: self-contained, whole, the same for the same result."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from balanceroute.errors import MissingExtraError, OutputError
from balanceroute.metrics import summarize
from balanceroute.report import SimulationResult
from balanceroute.report.digest import MAX_POINTS, RunDigest, digest, make_cdf
from balanceroute.report.extras import plotly_js
from balanceroute.report.figures import (
    MAX_RANK_LINES,
    Curve,
    distribution,
    envelopes,
    rank_loads,
    time_shares,
)
from balanceroute.report.html import build_page, write_report
from balanceroute.types import RunRecords
from tests.report.results import GROUP, WORKLOAD, make_result, random_run

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

CURVE = Curve(name="br_0", index=0)


def two_policies(num_ranks: int = 4) -> tuple[SimulationResult, list[RunRecords]]:
    """Return a result of two policies, two repeats each, and its records."""
    runs = [
        random_run(policy, spread=spread, num_ranks=num_ranks, seed=seed)
        for policy, spread in (("vllm", 0.2), ("br_0,select_by=margin", 0.02))
        for seed in (0, 1)
    ]
    group = msgspec.structs.replace(GROUP, ranks=num_ranks)
    return make_result(*((run.policy, summarize(run)) for run in runs), group=group), runs


def page_without_plotly(
    result: SimulationResult, digests: list[RunDigest], measured: Sequence[RunDigest] = ()
) -> str:
    """Return the page less the library that it carries."""
    command = "balanceroute simulate mooncake-conversation"
    page = build_page(result, digests, measured=measured, command=command)
    assert page.count(plotly_js()) == 1
    return page.replace(plotly_js(), "")


class Checker(HTMLParser):
    """Collects ids, links and unclosed elements."""

    VOID = ("meta", "link", "wbr", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.targets += [values[name] or "" for name in ("href", "src") if name in values]
        self.targets += [f"#{values[n]}" for n in ("aria-labelledby",) if n in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_links_only_into_itself() -> None:
    """Elements nest, ids are unique, links lead to ids, and the browser may load nothing."""
    result, runs = two_policies()
    checker = Checker()
    page = page_without_plotly(result, [digest(run) for run in runs[::2]])
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    inner = [target for target in checker.targets if target != "data:,"]
    assert {target.removeprefix("#") for target in inner} <= set(checker.ids)
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_page_says_what_matters(tmp_path: Path) -> None:
    """Verdict, marks, settings, command and definitions are in it; the verdict comes first."""
    result, runs = two_policies()
    write_report(result, runs, tmp_path / "report.html", command="balanceroute simulate x")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    order = ["Moving from vllm to br_0,select_by=margin", 'class="mark">best', "Settings"]
    places = [page.index(text) for text in [*order, "What the columns mean"]]
    assert places == sorted(places)
    assert "balanceroute simulate x" in page
    assert WORKLOAD.fingerprint in page
    assert "Means of 2 repeats" in page


def test_the_same_result_gives_the_same_page() -> None:
    """No date, no random ids."""
    result, runs = two_policies()
    digests = [digest(run) for run in runs]
    assert build_page(result, digests) == build_page(result, digests)


def test_names_are_escaped() -> None:
    """A file may be called anything."""
    workload = msgspec.structs.replace(WORKLOAD, name="<script>alert(1)</script>")
    result, runs = two_policies()
    result = msgspec.structs.replace(result, workload=workload)
    page = page_without_plotly(result, [digest(runs[0])])
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


@pytest.mark.parametrize("num_ranks", [1, 4, MAX_RANK_LINES + 1])
def test_plotly_knows_every_setting_of_the_figures(num_ranks: int) -> None:
    """Plotly's own schema accepts traces and layouts, with colours in place of their names."""
    graph_objects = pytest.importorskip("plotly.graph_objects")
    result, runs = two_policies(num_ranks)
    page = page_without_plotly(result, [digest(run) for run in runs])
    found = re.search(r'id="plots">(.*?)</script>', page)
    assert found is not None
    plots: dict[str, Any] = json.loads(re.sub(r'"\$\w+"', '"#123456"', found[1]))
    assert ("envelopes" in plots) == (num_ranks > 1)
    for plot in plots.values():
        graph_objects.Figure(data=plot["data"], layout=plot["layout"])


def test_many_ranks_are_drawn_as_bands_and_few_as_lines() -> None:
    """Beyond 32 ranks: smallest, band of two, envelope and mean."""
    few, many = (
        digest(random_run("br_0", spread=0.1, num_ranks=ranks, num_steps=50))
        for ranks in (MAX_RANK_LINES, MAX_RANK_LINES + 1)
    )
    assert len(rank_loads("few", "br_0", few, max_tokens=1.0).traces) == MAX_RANK_LINES + 2
    assert len(rank_loads("many", "br_0", many, max_tokens=1.0).traces) == 5


def test_lines_are_cut_down_and_keep_both_ends() -> None:
    """A long run has at most 600 points a line."""
    run = random_run("br_0", spread=0.1, num_steps=5000)
    cut = digest(run)
    assert cut.load_tokens.shape == (MAX_POINTS, 4)
    assert (cut.time_s[0], cut.time_s[-1]) == (run.samples.time_s[0], run.samples.time_s[-1])


def test_a_curve_starts_at_the_share_of_zeros() -> None:
    """Three of four waits are 0, which no logarithmic axis holds."""
    cdf = make_cdf(np.array([0.0, 0.0, 0.0, 8.0]))
    (trace,) = distribution("wait", "wait", "s", [(CURVE, cdf)]).traces
    assert isinstance(trace["y"], list)
    assert trace["y"][0] == pytest.approx(0.76)
    nothing = make_cdf(np.zeros(3)), make_cdf(np.empty(0))
    assert (
        distribution("wait", "wait", "s", [(CURVE, nothing[0]), (CURVE, nothing[1])]).traces == []
    )


def test_the_envelope_is_drawn_for_counted_steps_only() -> None:
    """A drain with one busy rank would hide everything else."""
    run = digest(random_run("br_0", spread=0.1))
    (trace,) = envelopes([(CURVE, run)]).traces
    counted = (run.time_s >= run.window_s[0]) & (run.time_s < run.window_s[1])
    assert isinstance(trace["x"], list)
    assert len(trace["x"]) == np.count_nonzero(counted) < len(run.time_s)


def test_a_run_without_samples_or_requests_has_a_page() -> None:
    """Nothing observed is said, and nothing fails."""
    empty = RunDigest(
        policy="br_0",
        seed=0,
        num_ranks=4,
        window_s=(0.0, 1.0),
        time_s=np.empty(0),
        load_tokens=np.empty((0, 4), dtype=np.int64),
        tpot=make_cdf(np.empty(0)),
        ttft=make_cdf(np.empty(0)),
        wait=make_cdf(np.empty(0)),
    )
    result, _ = two_policies()
    assert "Nothing above 0 was observed." in page_without_plotly(result, [empty])
    assert build_page(result, [])
    assert time_shares(()).traces


def test_a_page_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    """Nothing half-written is left."""
    (tmp_path / "file").write_bytes(b"")
    result, runs = two_policies()
    with pytest.raises(OutputError):
        write_report(result, runs, tmp_path / "file" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("missing", ["plotly", "jinja2"])
def test_a_missing_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is the command that cures it."""
    real_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    result, runs = two_policies()
    digests = [digest(run) for run in runs]
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'balanceroute\[report\]'"):
        build_page(result, digests)
