import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from balanceroute.cli.trace import app
from balanceroute.errors import ConfigError, TraceError
from balanceroute.workload import PRESETS, read_trace
from balanceroute.workload.download import PUBLIC_TRACES, PublicTrace

ROWS = "arrival_s,prompt_tokens,output_tokens\n0,100,30\n1,200,20\n4,600,10\n5,1,0\n"


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(ROWS)
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_stats_fits_80_columns(trace_file: Path) -> None:
    """The page names the figures and the rows left out."""
    text = run("stats", trace_file)
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("t.csv: 3 requests\n")
    assert "mean rate                                0.75 requests/s\n" in text
    assert "correlation of prompt and output         -0.94\n" in text
    assert "note: 1 row without output tokens left out.\n" in text


def test_stats_json_is_the_documented_one(trace_file: Path) -> None:
    """Nothing but JSON is printed."""
    document = json.loads(run("stats", trace_file, "--json"))
    assert document["schema"] == "balanceroute.trace_stats.v1"
    assert document["prompt_tokens"] == {
        "mean": 300.0,
        "p50": 200,
        "p90": 600,
        "p99": 600,
        "max": 600,
    }
    assert document["arrivals"] == {
        "span_s": 4.0,
        "rate_per_s": 0.75,
        "gap_cv": 0.5,
        "busiest_ratio": None,
    }
    assert len(document["fingerprint"]) == 16


def test_stats_of_a_preset_draws_as_asked() -> None:
    """--requests and --seed go to the draw."""
    first, again, other = (
        json.loads(run("stats", "br-azure", "--requests", 50, "--seed", seed, "--json"))
        for seed in (1, 1, 2)
    )
    assert first["num_requests"] == 50
    assert first["fingerprint"] == again["fingerprint"]
    assert first["fingerprint"] != other["fingerprint"]


def test_list_shows_presets_and_public_traces() -> None:
    """Both tables fit 80 columns; JSON has the addresses."""
    text = run("list")
    assert max(map(len, text.splitlines())) <= 80
    for name in (*PRESETS, *PUBLIC_TRACES):
        assert name in text
    document = json.loads(run("list", "--json"))
    assert list(PRESETS) == [preset["name"] for preset in document["presets"]]
    assert PUBLIC_TRACES["burstgpt"].url in [trace["url"] for trace in document["downloads"]]


def test_convert_sorts_and_is_read_back(tmp_path: Path) -> None:
    """The cure that messages name works as printed."""
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n5,1,1\n3,2,2\n")
    out = tmp_path / "sorted.csv"
    with pytest.raises(TraceError, match="run `balanceroute trace convert --sort"):
        run("convert", path, out)
    text = run("convert", "--sort", path, out)
    assert f"{out}: 2 requests\nRows were sorted by arrival.\n" == text
    assert read_trace(out).prompt_tokens.tolist() == [2, 1]


def test_format_is_passed_on(trace_file: Path, tmp_path: Path) -> None:
    """--format overrules detection, here with a format whose columns are missing."""
    with pytest.raises(TraceError, match="no column holds the arrival"):
        run("stats", trace_file, "--format", "azure")


def test_download_takes_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command passes trace, folder and mirror on, and asks to cite."""
    taken: list[tuple[PublicTrace, object, object]] = []

    def fetch(
        trace: PublicTrace, folder: Path, *, url: str, on_bytes: Callable[[int, int], None]
    ) -> Path:
        taken.append((trace, folder, url))
        on_bytes(1, 2)
        return folder / trace.file_name

    monkeypatch.setattr("balanceroute.workload.download.download", fetch)
    text = run("download", "burstgpt", "--out", tmp_path, "--url", "http://mirror/x.csv")
    assert [(PUBLIC_TRACES["burstgpt"], tmp_path, "http://mirror/x.csv")] == taken
    assert f"{tmp_path / 'BurstGPT_1.csv'}: 1,429,737 requests, CC-BY-4.0\n" in text.replace(
        "\n\n", "\n"
    )
    assert "Please cite Wang et al., BurstGPT, KDD 2025." in text


def test_download_of_an_unknown_trace() -> None:
    """The message lists the traces."""
    with pytest.raises(ConfigError, match="there are azure-2024-conv, "):
        run("download", "nothing")


def test_help_needs_no_numpy() -> None:
    """Start-up stays instant: heavy packages are imported by commands, not by the module."""
    code = (
        "import sys, balanceroute.cli.trace\n"
        "print([m for m in ('numpy', 'pyarrow', 'numba', 'rich.progress') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
