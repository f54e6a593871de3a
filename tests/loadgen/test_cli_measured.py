"""`balanceroute load`, then `balanceroute simulate --measured`, as a user meets them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from balanceroute.cluster.costs import StepCosts
from balanceroute.emulator.config import EngineConfig, ServerConfig
from balanceroute.emulator.serve import emulated_group
from tests.cli.command import Outcome, Run
from tests.loadgen.servers import FakeServer, in_thread

RANKS, SLOTS, CONSTANT_S, S_PER_TOKEN = 2, 2, 0.02, 1e-5
SPEEDUP = 2.0
TRACE = "arrival_s,prompt_tokens,output_tokens\n" + "".join(
    f"{row * 0.1:.1f},{100 + 10 * row},{4 + row % 5}\n" for row in range(24)
)


class Emulated(FakeServer):
    """A tiny emulated group instead of the fake engine, at twice the speed."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FakeServer]:
        """Serve on a free port for the time of the context."""
        costs = StepCosts(constant_s=CONSTANT_S, s_per_token=S_PER_TOKEN)
        engine = EngineConfig(costs=costs, num_ranks=RANKS, num_slots=SLOTS)
        config = ServerConfig(engine=engine, port=0, speedup=SPEEDUP)
        async with emulated_group(config) as group:
            self.url = group.urls[0]
            yield self


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Return the path of 24 small requests."""
    path = tmp_path / "small.csv"
    path.write_text(TRACE)
    return str(path)


@pytest.fixture
def url() -> Iterator[str]:
    """Serve a tiny emulated group."""
    with in_thread(Emulated()) as served:
        yield served


def simulate(run: Run, trace: str, *options: str) -> Outcome:
    """Simulate the tiny group."""
    group = ["--ranks", str(RANKS), "--slots", str(SLOTS), "--start", "empty", "--requests", "24"]
    step_time = f"{CONSTANT_S},{S_PER_TOKEN}"
    return run("simulate", trace, *group, "--step-time", step_time, "--policy", "vllm", *options)


def test_a_saturated_run_stands_beside_its_simulation(
    run: Run, trace: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same requests and load: figures of balance on both sides, in table, document and page."""
    monkeypatch.setenv("COLUMNS", "80")
    folder, out = tmp_path / "measured", tmp_path / "report"
    command = ["--pool", "4", "--steps-url", url, "--label", "vllm", "--out", str(folder)]
    assert 0 == run("load", trace, "--url", url, *command).code
    beside = ["--pool", "4", "--warmup-steps", "0", "--measured", str(folder)]
    outcome = simulate(run, trace, *beside, "--out", str(out))
    assert (0, "") == (outcome.code, outcome.err)
    assert 80 >= max(map(len, outcome.out.splitlines()))
    rows = [line.split() for line in outcome.out.splitlines()]
    names = [" ".join(row[:2]) for row in rows]
    assert names.index("÷ simulated") == 1 + next(
        place for place, row in enumerate(rows) if row[:1] == ["measured"]
    )
    document: dict[str, Any] = json.loads((out / "result.json").read_bytes())
    (measured,) = document["measured"]
    assert ("vllm", [0], str(folder)) == (
        measured["simulated_policy"],
        measured["simulated_seeds"],
        measured["folder"],
    )
    assert document["workload"]["fingerprint"] == measured["workload"]["fingerprint"]
    assert not any("requests differ" in note for note in measured["notes"])
    assert any("emulated seconds" in note for note in measured["run"]["notes"])
    assert pytest.approx(1.0, rel=0.2) == measured["ratios"]["efficiency"]
    assert pytest.approx(1.0, rel=0.3) == measured["ratios"]["mean_step_s"]
    assert "vllm, measured" in (out / "report.html").read_text(encoding="utf-8")


def test_times_of_an_open_loop_are_compared_in_the_seconds_of_the_group(
    run: Run, trace: str, url: str, tmp_path: Path
) -> None:
    """Sent twice as fast to a group twice as fast, requests come as in the trace; else not."""
    folder = tmp_path / "measured"
    command = ["--arrivals", "trace", "--rate-scale", "2", "--label", "vllm", "--out", str(folder)]
    assert 0 == run("load", trace, "--url", url, "--steps-url", url, *command).code
    notes = {}
    for rate in ("1", "2"):
        options = ["--arrivals", "trace", "--rate-scale", rate, "--measured", str(folder)]
        options += ["--warmup-steps", "0", "--json"]
        (measured,) = json.loads(simulate(run, trace, *options).out)["measured"]
        notes[rate] = " ".join(measured["notes"])
    assert "requests differ" not in notes["1"]
    assert "trace, rate × 1, seed 0" in notes["2"]
    assert "trace, rate × 2, seed 0" in notes["2"]


def test_a_server_whose_steps_are_not_known_has_dashes(
    run: Run, trace: str, url: str, tmp_path: Path
) -> None:
    """No figure of balance is 0 or divided; latencies are there."""
    folder = tmp_path / "measured"
    command = ["--concurrency", "8", "--label", "vllm", "--out", str(folder)]
    assert 0 == run("load", trace, "--url", url, *command).code
    options = ["--pool", "4", "--warmup-steps", "0", "--measured", str(folder), "--json"]
    (measured,) = json.loads(simulate(run, trace, *options).out)["measured"]
    metrics = measured["run"]["metrics"]
    balance = ("efficiency", "idle_ratio", "mean_imbalance_tokens", "num_steps", "energy_j")
    assert [None] * len(balance) == [metrics[name] for name in balance]
    assert not {"efficiency", "idle_ratio"} & set(measured["ratios"])
    assert {"throughput_tok_per_s", "tpot_s.p99", "ttft_s.p50"} <= set(measured["ratios"])


def test_no_folder_of_a_run_is_one_line_and_exit_code_2(
    run: Run, trace: str, tmp_path: Path
) -> None:
    """Before anything is simulated."""
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "No such file or directory"), ("none", "no such folder")):
        outcome = simulate(run, trace, "--measured", str(tmp_path / name))
        assert (2, "") == (outcome.code, outcome.out)
        assert 1 == len(outcome.err.splitlines())
        assert message in outcome.err
        assert "give the folder that `balanceroute load --out` wrote" in outcome.err
