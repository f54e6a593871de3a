"""A study: its cells, its store, its table, and that being killed changes none of them."""

from __future__ import annotations

import csv
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scipy import stats

from balanceroute.errors import ConfigError, WorkerError
from balanceroute.study import workers
from balanceroute.study.axes import Setup, parse_axis
from balanceroute.study.cell import run_cell
from balanceroute.study.interval import t_95
from balanceroute.study.plan import Cell, Study
from balanceroute.study.run import RESULTS_NAME, run_study
from balanceroute.study.store import Store

BASE = Setup(ranks=2, slots=4, pool=4)


def make_study(*axes: str, policies: tuple[str, ...] = ("br_0",), repeats: int = 2) -> Study:
    return Study(
        source="azure-2023-code",
        source_hash="",
        policies=policies,
        axes=tuple(parse_axis(text) for text in axes),
        base=BASE,
        num_requests=120,
        num_repeats=repeats,
    )


def test_one_axis_at_a_time_or_all_combinations() -> None:
    """Two axes of two values: four places apart, or four combined; the same run counts once."""
    apart = make_study("ranks=2,3", "slots=4,5")
    assert [{"ranks": "2"}, {"ranks": "3"}, {"slots": "4"}, {"slots": "5"}] == [
        point.place for point in apart.points()
    ]
    assert 3 * 2 == len(apart.cells())  # ranks=2 and slots=4 are both the base
    full = Study(
        source="burstgpt",
        source_hash="",
        policies=("br_0",),
        axes=apart.axes,
        is_full=True,
        num_repeats=1,
    )
    assert [(str(g), str(b)) for g, b in itertools.product((2, 3), (4, 5))] == [
        tuple(point.place.values()) for point in full.points()
    ]


def test_a_setting_of_policies_concerns_those_that_have_it() -> None:
    """br_0 has no horizon, so it has no row there."""
    study = make_study("horizon=0,8", policies=("br_0", "br_h"))
    assert ["br_h,horizon=0", "br_h,horizon=8"] == [
        point.cells[0].policy for point in study.points()
    ]


BAD = {
    ("ranks=2,2",): "names a value twice",
    ("ranks=",): "must list values, as in ranks=4,8,16",
    ("ranks=two",): "--vary ranks takes values of type int, got 'two'",
    ("horizon=8",): "none of br_0 has that setting",
    ("ranks=2", "ranks=3"): "each axis once",
    (): "--vary must be given",
}


@pytest.mark.parametrize("axes", BAD)
def test_bad_axes_are_refused(axes: tuple[str, ...]) -> None:
    """Before anything runs."""
    with pytest.raises(ConfigError, match=BAD[axes]):
        make_study(*axes)


def test_a_burst_needs_a_rate() -> None:
    """The message says so, and what it was."""
    with pytest.raises(ConfigError, match="a burst of 4 needs --rate"):
        run_cell(make_study("burst=4").cells()[0])


@pytest.mark.parametrize(
    "axis", ["staleness=0,0.5", "rate=5,50", "pool=2,8", "auc=0.5,0.9,1", "gamma=0.9", "beta=8"]
)
def test_every_axis_reaches_the_runs(axis: str) -> None:
    """Its values give figures, and no two values the same ones where the axis counts."""
    study = make_study(axis, policies=("br_h",), repeats=1)
    figures = [run_cell(cell).figures for cell in study.cells()]
    assert all(figure["efficiency"] is not None for figure in figures)
    assert len(figures) == len({str(figure) for figure in figures})


def test_bursts_keep_the_rate() -> None:
    """Requests that come four at a time wait longer, at the same number per second."""
    study = Study(
        source="azure-2023-code",
        source_hash="",
        policies=("br_0",),
        axes=(parse_axis("burst=1,16"),),
        base=Setup(ranks=2, slots=4, rate=20.0),
        num_requests=400,
        num_repeats=1,
    )
    alone, together = (run_cell(cell).figures for cell in study.cells())
    assert alone["ttft_s.p99"] is not None
    assert together["ttft_s.p99"] is not None
    assert together["ttft_s.p99"] > alone["ttft_s.p99"]


def test_interrupted_and_resumed_it_gives_the_same_table(tmp_path: Path) -> None:
    """Broken off after three cells of eight and run again, every byte of the table is the same."""
    study = make_study("ranks=2,3", "slots=5,6")
    run_study(study, tmp_path / "whole")

    def break_off(done: int, total: int) -> None:
        assert 8 == total
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "broken", on_progress=break_off)
    assert not (tmp_path / "broken" / "table.csv").exists()
    seen: list[int] = []
    run_study(study, tmp_path / "broken", on_progress=lambda done, _: seen.append(done))
    assert [3, 4, 5, 6, 7, 8] == seen
    for name in ("table.csv", "table.parquet"):
        whole, resumed = (tmp_path / run / name for run in ("whole", "broken"))
        assert whole.read_bytes() == resumed.read_bytes()


def test_the_table_holds_means_and_intervals(tmp_path: Path) -> None:
    """CSV and Parquet say the same; with two repeats the interval is 12.7 deviations over √2."""
    rows = run_study(make_study("ranks=2,3"), tmp_path)
    written = list(csv.DictReader((tmp_path / "table.csv").read_text("utf-8").splitlines()))
    assert ["2", "3"] == [row["ranks"] for row in written]
    columns = pq.read_table(tmp_path / "table.parquet").to_pydict()
    for row, line, mean in zip(rows, written, columns["efficiency"], strict=True):
        interval = row.figures["efficiency"]
        assert interval.mean == mean == float(line["efficiency"])
        assert interval.low is not None
        assert interval.low < mean < float(line["efficiency.high95"])


def test_a_torn_line_is_run_anew(tmp_path: Path) -> None:
    """What a kill left of a line is dropped, and all lines before it stay."""
    study = make_study("ranks=2,3", repeats=1)
    run_study(study, tmp_path)
    path = tmp_path / RESULTS_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    seen: list[int] = []
    run_study(study, tmp_path, on_progress=lambda done, _: seen.append(done))
    assert [1, 2] == seen
    assert whole.splitlines()[0] == path.read_bytes().splitlines()[0]
    assert 2 == len(path.read_bytes().splitlines())


def test_another_file_is_not_taken_for_a_store(tmp_path: Path) -> None:
    """It is refused with the cure, and stays as it is."""
    path = tmp_path / RESULTS_NAME
    path.write_text("not a result\n")
    with pytest.raises(ConfigError, match="does not hold results of a study"):
        Store(path, [])
    assert "not a result\n" == path.read_text()


@pytest.mark.parametrize("num_degrees", [*range(1, 41), 100, 1000])
def test_t_quantiles(num_degrees: int) -> None:
    """The table and the expansion agree with SciPy to four digits."""
    assert stats.t.ppf(0.975, num_degrees) == pytest.approx(t_95(num_degrees), rel=1e-4)


ARGUMENTS = (
    *("study", "azure-2023-code", "--policy", "br_0", "--vary", "ranks=2,3,4,5"),
    *("--vary", "slots=5,6,7", "--full", "--pool", "4", "--requests", "200"),
)


MAIN = "from balanceroute.cli import main; main()"
#: The same, but it and its processes are killed once there are two results.
KILLED = f"""
import os, signal
from balanceroute.study.store import Store

add = Store.add

def add_or_die(self, result):
    add(self, result)
    if len(self.results) == 2:
        os.killpg(0, signal.SIGKILL)

Store.add = add_or_die
{MAIN}
"""


def command(out: Path, *more: str, main: str = MAIN) -> list[str]:
    return [sys.executable, "-c", main, *ARGUMENTS, "--out", str(out), *more]


@pytest.mark.slow
def test_killed_with_two_processes_it_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle, the same command again, and the table of a run without a kill."""
    dying = command(tmp_path / "killed", "--jobs", "2", main=KILLED)
    killed = subprocess.run(dying, start_new_session=True, timeout=240, check=False)
    assert -signal.SIGKILL == killed.returncode
    results = tmp_path / "killed" / RESULTS_NAME
    num_before = results.read_bytes().count(b"\n")
    assert 2 <= num_before < 36
    subprocess.run(command(tmp_path / "killed", "--jobs", "2"), check=True, capture_output=True)
    subprocess.run(command(tmp_path / "whole", "--jobs", "1"), check=True, capture_output=True)
    tables = [(tmp_path / run / "table.csv").read_bytes() for run in ("killed", "whole")]
    assert tables[0] == tables[1]
    assert 36 == results.read_bytes().count(b"\n")


@pytest.mark.slow
def test_a_dead_process_is_an_error_that_names_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a trace, and nothing that was done is lost."""
    study = make_study("ranks=2,3", repeats=1)
    monkeypatch.setattr(workers, "run_cell", die)
    with pytest.raises(WorkerError, match="one of 2 processes died"):
        run_study(study, tmp_path, num_jobs=2)


def die(_cell: Cell) -> None:
    os._exit(1)


@pytest.mark.slow
def test_a_local_ray_cluster_gives_the_same_table(tmp_path: Path) -> None:
    """Two workers; the table is that of this machine's own processes."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    subprocess.run(command(tmp_path / "ray", "--ray", "local"), check=True, capture_output=True)
    subprocess.run(command(tmp_path / "here", "--jobs", "1"), check=True, capture_output=True)
    tables = [(tmp_path / run / "table.csv").read_bytes() for run in ("ray", "here")]
    assert tables[0] == tables[1]
