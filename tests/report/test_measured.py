"""Measured runs beside simulated ones: pairs, ratios, notes, and folders that are none."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from balanceroute.errors import ConfigError
from balanceroute.metrics import Distribution
from balanceroute.report import SimulationResult, from_json, to_json
from balanceroute.report.html import build_page
from balanceroute.report.measured.compare import compare_measured
from balanceroute.report.measured.folder import MeasuredFolder, read_folder
from balanceroute.report.measured.rows import full_name
from balanceroute.report.result import MeasuredResult
from tests.report.measured import CLIENT_METRICS, COUNTS, ENDPOINT, make_measured, write_folder
from tests.report.results import GROUP, make_metrics, make_result, random_run
from tests.report.test_html import Checker, page_without_plotly
from tests.report.test_table import print_table

TPOT = Distribution(mean=0.01, p50=0.01, p95=0.01, p99=0.01)
SIMULATED = make_result(
    ("vllm", make_metrics(throughput_tok_per_s=800.0)),
    ("br_0", make_metrics(throughput_tok_per_s=1000.0, tpot_s=TPOT)),
    ("br_0", make_metrics(throughput_tok_per_s=2000.0, tpot_s=TPOT)),
)


def beside(measured: MeasuredFolder, *seeds: int) -> MeasuredResult:
    """Put a run beside two policies of two and one repeats."""
    return compare_measured(SIMULATED, measured, same_seeds=seeds)


def with_measured(*measured: MeasuredFolder) -> SimulationResult:
    """Return the simulation with runs beside it."""
    return msgspec.structs.replace(SIMULATED, measured=tuple(beside(it, 0, 1) for it in measured))


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ((0,), 0.9),  # 900 / 1000: only the repeat with the same requests
        ((0, 1), 0.6),  # 900 / mean(1000, 2000)
        ((), 0.6),  # none has the same: all of them, and a note says so
    ],
)
def test_a_ratio_is_over_the_repeats_of_the_same_requests(
    seeds: tuple[int, ...], expected: float
) -> None:
    """Measured over simulated; figures that either lacks have none, and neither have totals."""
    found = beside(make_measured(), *seeds)
    assert pytest.approx(expected) == found.ratios["throughput_tok_per_s"]
    assert pytest.approx(4.0) == found.ratios["tpot_s.p99"]
    assert {"throughput_tok_per_s", *(f"tpot_s.{p}" for p in ("mean", "p50", "p95", "p99"))} == set(
        found.ratios
    )
    assert (not seeds) == any("The requests differ" in note for note in found.notes)
    assert "br_0" == found.simulated_policy
    assert (seeds or (0, 1)) == found.simulated_seeds


def test_a_figure_that_was_simulated_as_0_has_no_ratio() -> None:
    """Nothing is divided by 0, and a measured 0 is a ratio of 0."""
    metrics = msgspec.structs.replace(CLIENT_METRICS, idle_ratio=0.5, efficiency=0.0)
    simulated = make_result(("br_0", make_metrics(idle_ratio=0.0, efficiency=0.9)))
    found = compare_measured(simulated, make_measured(metrics=metrics), same_seeds=(0,))
    assert "idle_ratio" not in found.ratios
    assert 0.0 == found.ratios["efficiency"]


def test_what_was_measured_alike_has_no_notes() -> None:
    """Same requests, ranks and load; steady on both sides."""
    assert () == beside(make_measured(), 0).notes


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (make_measured("mine"), r"No simulated policy is called 'mine'.*vllm, br_0"),
        (
            make_measured(endpoint=msgspec.structs.replace(ENDPOINT, ranks=8)),
            r"^8 ranks were measured, 4 simulated",
        ),
        (
            make_measured(endpoint=msgspec.structs.replace(ENDPOINT, concurrency=64)),
            r"^64 requests were kept outstanding when measured, 304 when simulated",
        ),
        (make_measured(window_s=(0.0, 9.0)), r"--start empty, or measure with --warmup-secs"),
        (
            make_measured(requests=msgspec.structs.replace(COUNTS, failed=3)),
            r"^Of 500 measured requests 3 failed; they count in no figure",
        ),
        (
            make_measured(
                is_interrupted=True, requests=msgspec.structs.replace(COUNTS, unfinished=7)
            ),
            r"7 were cut off by an interrupt",
        ),
    ],
)
def test_what_differs_is_said_once(measured: MeasuredFolder, message: str) -> None:
    """One note, and nothing of what is alike."""
    (note,) = beside(measured, 0).notes
    assert re.search(message, note)


@pytest.mark.parametrize(
    ("start", "measured_s", "simulated_s", "is_told"),
    [
        ("empty", (0.0, 10.0), (0.5, 10.5), False),  # a twentieth of the length apart
        ("empty", (0.0, 10.0), (0.0, 12.0), True),  # a sixth
        ("stationary", (5.0, 15.0), (90.0, 105.0), False),  # clocks say nothing; lengths alike
        ("stationary", (5.0, 15.0), (90.0, 190.0), True),  # a tenth of the length
    ],
)
def test_windows_that_differ_are_told(
    start: str,
    measured_s: tuple[float, float],
    simulated_s: tuple[float, float],
    is_told: bool,
) -> None:
    """By their ends from an empty start, by their lengths in a steady state."""
    group = msgspec.structs.replace(GROUP, start=start)
    result = make_result(("br_0", make_metrics()), group=group)
    runs = [msgspec.structs.replace(run, window_s=simulated_s) for run in result.runs]
    result = msgspec.structs.replace(result, runs=tuple(runs))
    found = compare_measured(result, make_measured(window_s=measured_s), same_seeds=(0,))
    assert is_told == any("The windows differ" in note for note in found.notes)


def test_requests_that_differ_are_named_in_the_seconds_of_the_group() -> None:
    """Sent five times as fast to a group five times as fast is the trace's own rate."""
    endpoint = msgspec.structs.replace(ENDPOINT, arrivals="trace", rate_scale=5, concurrency=None)
    (note,) = beside(make_measured(endpoint=endpoint, speedup=5.0)).notes
    assert "20,000 of mooncake-conversation, trace, rate × 1, seed 0 (0123456789abcdef)" in note
    assert "saturated, seeds 0, 1 (0123456789abcdef)" in note


def test_the_document_keeps_what_was_measured() -> None:
    """It survives the round trip; what cannot be told is null, and an old document has none."""
    result = with_measured(make_measured(), make_measured("mine"))
    assert from_json(to_json(result)) == result
    document = json.loads(to_json(result))
    first, second = document["measured"]
    assert (None, None) == tuple(first["run"]["metrics"][it] for it in ("efficiency", "num_steps"))
    assert (None, {}) == (second["simulated_policy"], second["ratios"])
    del document["measured"]
    assert () == from_json(json.dumps(document)).measured


def test_the_table_shows_each_run_beneath_its_policy_in_80_columns() -> None:
    """Dashes for what cannot be told, stars for simulated values only."""
    text = print_table(with_measured(make_measured("a.very.long.host.name:30000"), make_measured()))
    rows = [line.split() for line in text.splitlines()]
    place = next(i for i, row in enumerate(rows) if row[:1] == ["br_0"])
    assert ["measured", "–", "–", "–", "900", "20.0", "40.0", "–", "–"] == rows[place + 1]
    assert ["÷", "simulated", "–", "–", "–", "0.600", "2.000", "4.000", "–", "–"] == rows[place + 2]
    assert not any("*" in "".join(row) for row in rows[place + 1 : -1] if row[0] != "*")
    assert "a.very.long.host" in text.replace("\n", "")
    assert "* best simulated" in text
    assert max(map(len, text.splitlines())) <= 80


def test_large_numbers_and_ratios_fit_80_columns() -> None:
    """Nothing is cut off at millions of tokens, waits of a day, and ratios of thousands."""
    day = Distribution(mean=98765.4, p50=98765.4, p95=98765.4, p99=98765.4)
    large = {
        "efficiency": 0.98765,
        "idle_ratio": 0.98765,
        "mean_imbalance_tokens": 987_654_321.0,
        "throughput_tok_per_s": 9_876_543.0,
        "ttft_s": day,
        "longest_wait_ratio": 1234.5,
    }
    simulated = make_result(
        ("br_0,select_by=margin", make_metrics(**large | {"ttft_s": TPOT, "idle_ratio": 0.001}))
    )
    metrics = msgspec.structs.replace(CLIENT_METRICS, **large)
    found = compare_measured(
        simulated, make_measured("br_0,select_by=margin", metrics=metrics), same_seeds=(0,)
    )
    text = print_table(msgspec.structs.replace(simulated, measured=(found,)))
    for value in ("987,654", "9,876,543", "98,765", "1,234", "9,876,540", "987.6", "1.000"):
        assert value in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_runs_of_one_name_are_numbered() -> None:
    """In the order in which they were given."""
    result = with_measured(make_measured(), make_measured("mine"), make_measured())
    names = [full_name(result, each) for each in result.measured]
    assert ["br_0, measured 1", "mine, measured", "br_0, measured 2"] == names


def test_the_page_draws_and_tells_what_was_measured() -> None:
    """Lines with circles in the policy's colour, rows and notes, all of it well-formed."""
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    metrics = msgspec.structs.replace(CLIENT_METRICS, efficiency=0.75, constant_ratio=0.5)
    runs = [make_measured(metrics=metrics), make_measured("<mine>")]
    result = with_measured(*runs)
    digests = [replace(runs[0].digest, policy=policy) for policy in ("vllm", "br_0")]
    page = page_without_plotly(result, digests, [run.digest for run in runs])
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert "no engine was measured" not in page
    assert "No simulated policy is called &#39;&lt;mine&gt;&#39;" in page
    found = re.search(r'id="plots">(.*?)</script>', page)
    assert found is not None
    plots = json.loads(found[1])
    lines = {it["name"]: it for it in plots["envelopes"]["data"]}
    assert ["vllm", "br_0", "br_0, measured", "<mine>, measured"] == list(lines)
    assert ["lines", "lines", "lines+markers", "lines+markers"] == [
        it["mode"] for it in lines.values()
    ]
    assert lines["br_0"]["line"] == lines["br_0, measured"]["line"]
    assert lines["<mine>, measured"]["line"]["color"] not in {
        lines[name]["line"]["color"] for name in ("vllm", "br_0")
    }
    # steps of the second are not known, so its time is not drawn as if nobody waited
    assert ["br_0, measured", "br_0", "vllm"] == plots["time"]["data"][0]["y"]
    assert {"loads-0", "loads-1", "loads-2", "loads-3"} <= set(plots)


def test_plotly_knows_the_circles() -> None:
    """Its own schema accepts the lines of measured runs."""
    graph_objects = pytest.importorskip("plotly.graph_objects")
    result = with_measured(make_measured())
    page = build_page(result, [], measured=[make_measured().digest])
    found = re.search(r'id="plots">(.*?)</script>', page)
    assert found is not None
    plots = json.loads(re.sub(r'"\$\w+"', '"#123456"', found[1]))
    for plot in plots.values():
        graph_objects.Figure(data=plot["data"], layout=plot["layout"])


def test_a_folder_is_read_back(tmp_path: Path) -> None:
    """As it was written."""
    records = random_run("br_0", spread=0.1)
    folder = write_folder(make_measured(records=records), records, tmp_path / "out")
    found = read_folder(folder)
    assert ("br_0", str(folder), 4) == (found.run.policy, found.folder, found.digest.num_ranks)


def test_what_is_no_folder_of_a_run_is_bad_input(tmp_path: Path) -> None:
    """Each with the file, the cause and the cure, in one line."""
    records = random_run("br_0", spread=0.1)
    folder = write_folder(make_measured(records=records), records, tmp_path / "out")

    def refusal(pattern: str) -> None:
        with pytest.raises(ConfigError, match=pattern) as caught:
            read_folder(folder)
        assert str(folder) in str(caught.value)

    whole = (folder / "records.npz").read_bytes()
    write_folder(make_measured(records=records, seed=1), records, folder)
    refusal(r"result\.json is of 'br_0' under seed 1 and records\.npz of 'br_0' under seed 0")
    write_folder(make_measured(records=records), records, folder)
    (folder / "records.npz").write_bytes(whole[: len(whole) // 2])
    refusal(r"records\.npz: not records of a run")
    (folder / "records.npz").unlink()
    refusal(r"records\.npz: not records of a run")
    (folder / "result.json").write_bytes(to_json(SIMULATED))
    refusal(r"not a result of schema balanceroute\.measurement\.v1: .*`balanceroute load")
    (folder / "result.json").unlink()
    refusal(r"result\.json: No such file or directory; give the folder")
    folder.rmdir()
    refusal(r"there is no such folder; give the folder that `balanceroute load --out` wrote")
