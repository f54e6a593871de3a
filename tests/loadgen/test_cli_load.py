"""`balanceroute load` as a user meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from balanceroute.loadgen import load_records
from balanceroute.report.measurement import from_json
from tests.cli.command import Run
from tests.loadgen.servers import FakeServer, in_thread, stream_tokens

TRACE = "arrival_s,prompt_tokens,output_tokens\n" + "".join(
    f"{row / 50},{5 + row},{1 + row % 4}\n" for row in range(20)
)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Return the path of twenty small requests, 20 ms apart."""
    path = tmp_path / "small.csv"
    path.write_text(TRACE)
    return str(path)


def test_json_is_the_result_and_nothing_else(run: Run, trace: str) -> None:
    """Standard output parses, standard error is empty, and figures of steps are null."""
    with in_thread(FakeServer()) as url:
        outcome = run("load", trace, "--url", url, "--json")
    document = json.loads(outcome.out)
    assert (0, "") == (outcome.code, outcome.err)
    assert ("balanceroute.measurement.v1", "measured") == (document["schema"], document["source"])
    assert 20 == document["workload"]["num_requests"]
    assert (64, None) == (document["endpoint"]["concurrency"], document["endpoint"]["ranks"])
    (measured,) = document["runs"]
    assert {"sent": 20, "answered": 20, "failed": 0, "unfinished": 0, "wrong_lengths": 0} == (
        measured["requests"]
    )
    metrics = measured["metrics"]
    assert (50, None, None) == tuple(
        metrics[name] for name in ("num_tokens", "efficiency", "longest_wait_ratio")
    )
    assert metrics["ttft_s"]["p99"] > 0
    from_json(outcome.out)


def test_the_table_fits_80_columns(run: Run, trace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that cannot be told have no column."""
    monkeypatch.setenv("COLUMNS", "80")
    with in_thread(FakeServer()) as url:
        outcome = run("load", trace, "--url", url, "--arrivals", "trace", "--label", "mine")
    assert 0 == outcome.code
    assert 80 >= max(len(line) for line in outcome.out.splitlines())
    assert "20 of 20 requests answered." in outcome.out
    assert "mine" in outcome.out
    assert "TPOT" in outcome.out
    assert "η" not in outcome.out


def test_out_holds_the_result_and_the_records(run: Run, trace: str, tmp_path: Path) -> None:
    """The folder is made; the records are readable."""
    out = tmp_path / "new" / "folder"
    with in_thread(FakeServer()) as url:
        outcome = run("load", trace, "--url", url, "--out", str(out))
    assert 0 == outcome.code
    assert {"result.json", "records.npz"} == {path.name for path in out.iterdir()}
    assert from_json((out / "result.json").read_bytes()).runs[0].requests.answered == 20
    assert 20 == len(load_records(out / "records.npz").requests.arrival_s)


def test_failed_requests_make_the_exit_code_1(run: Run, trace: str) -> None:
    """And a line that says how many and why."""

    async def every_fifth(
        server: FakeServer, request: web.Request, body: dict[str, Any]
    ) -> web.StreamResponse:
        if len(server.arrived_s) % 5 == 0:
            return web.json_response({"error": {"message": "queue full"}}, status=429)
        return await stream_tokens(server, request, body)

    with in_thread(FakeServer(every_fifth)) as url:
        outcome = run("load", trace, "--url", url)
    assert 1 == outcome.code
    assert "4 of 20 requests failed: 4 HTTP 429." in outcome.out
    assert "HTTP 429: queue full" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "http://127.0.0.1:1"], "cannot be reached"),
        (["--url", "nowhere"], "is not a URL"),
        (["--url", "http://h:1", "--arrivals", "sometimes"], "--arrivals must be one of"),
        (["--url", "http://h:1", "--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["--url", "http://h:1", "--requests", "0"], "must be at least 1"),
        (["--url", "http://h:1", "--out", "/dev/null/x"], "--out"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, trace: str, arguments: list[str], message: str
) -> None:
    """Before anything is sent, and without a traceback."""
    outcome = run("load", trace, *arguments)
    assert (2, "") == (outcome.code, outcome.out)
    assert 1 == len(outcome.err.splitlines())
    assert message in outcome.err


def test_a_missing_trace_is_bad_input(run: Run) -> None:
    """As for every command."""
    outcome = run("load", "no-such-trace", "--url", "http://127.0.0.1:1")
    assert 2 == outcome.code
    assert "no preset or file is called 'no-such-trace'" in outcome.err


def test_ctrl_c_reports_what_was_measured(tmp_path: Path) -> None:
    """One SIGINT while answers are under way: a table, what was cut off, exit code 130."""
    trace = tmp_path / "long.csv"
    trace.write_text("prompt_tokens,output_tokens\n" + "4,2\n" * 5 + "4,100000\n" * 5)
    server = FakeServer(gap_s=0.01)
    with in_thread(server) as url:
        command = ["load", str(trace), "--url", url, "--concurrency", "5"]
        code = "from balanceroute.cli import main; main()"
        with subprocess.Popen(
            [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True
        ) as process:
            while len(server.arrived_s) < 10 and process.poll() is None:
                pass
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=20)
    assert 130 == process.returncode
    assert "5 of 10 requests answered." in out
    assert "5 requests were cut off" in out.replace("\n", " ")
