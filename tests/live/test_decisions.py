"""The log of decisions: what it holds, and that it gives the same plans again, byte for byte."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from balanceroute.cli import app
from balanceroute.cluster.costs import StepCosts
from balanceroute.emulator.config import EngineConfig
from balanceroute.errors import ConfigError, LogError
from balanceroute.live import decision_file
from balanceroute.live.comparing import Comparison
from balanceroute.live.decision_file import LogWriter, full_files, read_lines
from balanceroute.live.decision_log import DecisionLog
from balanceroute.policies import make_policy
from tests.live.fake_engine import FakeEngine, routing, run, serving
from tests.live.virtual import Virtual

DECODE = StepCosts(constant_s=0.01, s_per_token=1e-6)
PREFILL = StepCosts(constant_s=0.01, s_per_token=1e-6, prefill_s_per_token=2e-5, budget_tokens=512)


def logged(
    path: Path,
    policy: str = "br_auto",
    *,
    costs: StepCosts = DECODE,
    num_requests: int = 400,
    max_bytes: int = 1 << 30,
    meddle: Callable[[Virtual, int], object] = lambda virtual, step: None,
    num_ranks: int = 4,
    num_slots: int = 8,
    **more: Any,
) -> Virtual:
    """Serve requests in virtual time with a log; `meddle` is called after each step."""
    rng = np.random.default_rng(5)
    lengths = np.column_stack(
        [rng.geometric(1 / 300, num_requests), rng.geometric(1 / 40, num_requests)]
    )
    config = EngineConfig(costs=costs, num_ranks=num_ranks, num_slots=num_slots, block_size=1)
    virtual = Virtual(config, lengths, policy=policy, num_waiting=12, **more)
    log = DecisionLog(path, group=virtual.group, max_bytes=max_bytes, max_files=0, costs=costs)
    log.note_policy(policy, 0)
    virtual.group.replace_policy(make_policy(policy, rng=np.random.default_rng((0, 2))))
    for step in virtual.steps():
        meddle(virtual, step)
    log.close()
    return virtual


@pytest.mark.parametrize("costs", [DECODE, PREFILL], ids=["decode", "prefill"])
@pytest.mark.parametrize(
    "policy", ["br_auto", "br_0", "br_h", "random", "power_of_two", "vllm", "least_tokens"]
)
def test_every_plan_is_the_same_again(tmp_path: Path, policy: str, costs: StepCosts) -> None:
    """Also of those that follow requests, learn from them, or throw dice."""
    logged(tmp_path / "log", policy, costs=costs)
    found = Comparison.of(tmp_path / "log")
    assert found.num_plans > 50
    assert (0, "", "") == (found.num_differing, found.difference, found.cut)


def test_what_else_can_happen_is_in_the_log(tmp_path: Path) -> None:
    """Foreign requests, closed ranks, new limits and ranks, left requests, streams in chunks."""

    def meddle(virtual: Virtual, step: int) -> None:
        group = virtual.group
        if step % 7 == 0 and group.num_waiting > 3:
            ticket = list(group._pooled.values())[1]
            group.leave(ticket)
            if step % 14 == 0:  # and comes again
                group.enter(ticket)
        group.foreign_reqs[1] = step % 3
        group.foreign_tokens[1] = 100 * (step % 3)
        group.set_open(2, is_open=step % 11 != 0)
        group.num_slots[3] = 8 - step % 2

    logged(tmp_path / "log", meddle=meddle, stream_interval=4, num_requests=600)
    found = Comparison.of(tmp_path / "log")
    assert (0, "") == (found.num_differing, found.difference)


def test_another_policy_would_be_noticed(tmp_path: Path) -> None:
    """The replay does ask the policy: with another name in the log, plans differ."""
    logged(tmp_path / "log", "least_tokens", num_requests=120)
    lines = [line.replace(b'"least_tokens"', b'"fcfs"') for line in read_lines(tmp_path / "log")]
    rewrite(tmp_path / "log", lines)
    found = Comparison.of(tmp_path / "log")
    assert found.num_differing > 0
    assert found.difference.startswith('then {"n":')
    result = CliRunner().invoke(app, ["replay", str(tmp_path / "log")])
    assert 1 == result.exit_code


def rewrite(path: Path, lines: list[bytes]) -> None:
    """Write a log of these lines."""
    compressor = zlib.compressobj(wbits=31)
    text = b"".join(line + b"\n" for line in lines)
    path.write_bytes(compressor.compress(text) + compressor.flush())


def test_files_are_full_at_their_size_and_replay_as_one(tmp_path: Path) -> None:
    """And a run after another goes behind it, with a policy that begins anew."""
    logged(tmp_path / "log", max_bytes=1_000, num_requests=1000)
    num_files = len(full_files(tmp_path / "log"))
    assert num_files >= 2
    assert all(path.stat().st_size < 30_000 for _, path in full_files(tmp_path / "log"))
    logged(tmp_path / "log")
    found = Comparison.of(tmp_path / "log")
    assert (0, "") == (found.num_differing, found.cut)
    assert num_files + 1 == len(full_files(tmp_path / "log"))


def test_a_run_without_its_beginning_says_so(tmp_path: Path) -> None:
    """What the policy had learned is gone, so no plan is made up."""
    logged(tmp_path / "log", max_bytes=1_000, num_requests=1000)
    (tmp_path / "log.1").unlink()
    with pytest.raises(LogError, match=r"first files are gone.*--decision-log-files 0"):
        Comparison.of(tmp_path / "log")


@pytest.mark.parametrize("part", [0.3, 0.7, 0.999])
def test_a_log_that_is_cut_short_replays_as_far_as_it_goes(tmp_path: Path, part: float) -> None:
    """The command says how far that is, and fails unless that is enough."""
    path = tmp_path / "log"
    logged(path, "least_tokens")
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    found = Comparison.of(path)
    assert "cut short after" in found.cut
    assert 0 == found.num_differing
    result = CliRunner().invoke(app, ["replay", str(path), "--allow-cut"])
    assert 0 == result.exit_code
    assert f"{found.num_plans:,} of {found.num_plans:,} plans are the same" in result.output
    with pytest.raises(LogError, match=r"cut short after .* --allow-cut"):
        CliRunner().invoke(app, ["replay", str(path)], catch_exceptions=False)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello", "is not a decision log, or is damaged"),
        (b"", "cut short"),
        (zlib.compress(b'{"a": 1}\n', wbits=31), "its first line is no header"),
        (
            zlib.compress(
                b'{"decisions":9,"version":"1","run":"a","segment":0,"num_ranks":1,"costs":null}\n',
                wbits=31,
            ),
            "is of format 9; this version reads 2",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    """In words, not with a traceback."""
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(LogError, match=words):
        CliRunner().invoke(app, ["replay", str(tmp_path / "log")], catch_exceptions=False)


def test_a_line_that_is_damaged_is_named(tmp_path: Path) -> None:
    """With its file and its number."""
    logged(tmp_path / "log", "fcfs", num_requests=60)
    lines = list(read_lines(tmp_path / "log"))
    lines[4] = b'{"n": 2}'
    rewrite(tmp_path / "log", lines)
    with pytest.raises(LogError, match=r"log, line 5: not what this version writes"):
        Comparison.of(tmp_path / "log")


def test_a_place_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    """Rather than a router whose log turns out not to be there."""
    (tmp_path / "file").write_bytes(b"")
    group = Virtual(EngineConfig(costs=DECODE, num_ranks=1), np.zeros((0, 2), np.int64)).group
    with pytest.raises(ConfigError, match="cannot write the decision log"):
        DecisionLog(tmp_path / "file" / "log", group=group, max_bytes=1, max_files=0, costs=None)


def test_a_log_that_falls_behind_ends_and_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so; what had been handed over is in it, and the router's end is not held up."""
    monkeypatch.setattr(decision_file, "MAX_QUEUED", 1)
    path = tmp_path / "log"
    writer = LogWriter(path, max_bytes=1 << 30, max_files=0, num_ranks=1, costs=None)
    while not writer.has_failed:
        writer.write({"n": 0})
    closing = threading.Thread(target=writer.close, daemon=True)
    closing.start()
    closing.join(30.0)
    assert not closing.is_alive()
    assert "ends here: 1 lines wait to be written" in caplog.text
    header, *lines = read_lines(path)
    assert b'"decisions"' in header
    assert {b'{"n":0}'} == set(lines)


def test_a_request_takes_few_bytes(tmp_path: Path) -> None:
    """Of 8 ranks with 72 slots each, with the reason why it went where it went."""
    path = tmp_path / "log"
    logged(path, costs=PREFILL, num_ranks=8, num_slots=72, num_requests=2000)
    lines = [msgspec.json.decode(line) for line in read_lines(path)]
    num_placed = sum(len(line.get("why", ())) for line in lines)
    assert num_placed > 1900
    assert path.stat().st_size / num_placed <= 150


def test_the_router_says_why_by_the_clients_own_ids(tmp_path: Path) -> None:
    """From a request's id to the loads, the margin and F of every rank."""
    path = tmp_path / "log"

    async def test() -> None:
        async with serving(FakeEngine()) as one, serving(FakeEngine()) as two:
            async with routing(one, two, decision_log=str(path), policy="least_tokens") as client:
                await client.post(headers={"X-Request-Id": "mine"})
                client.router.group.policy = None  # type: ignore[assignment]  # so that it raises
                await client.post(headers={"X-Request-Id": "second"})

    run(test())
    found = Comparison.of(path, about="mine")
    assert (2, 0, "") == (found.num_plans, found.num_differing, found.cut)
    assert [0, 0, 2] == [found.reasons[0][key] for key in ("load", "margin", "tokens")]
    assert 1 == len(found.reasons[0]["others"])
    specs = [msgspec.json.decode(line).get("policy") for line in read_lines(path)]
    assert ["least_tokens", "least_tokens"] == [spec for spec in specs if spec]
    result = CliRunner().invoke(app, ["replay", str(path), "--why", "second"])
    assert "not rank" in result.output
    with pytest.raises(LogError, match="no decision about a request 'third' in 2 plans"):
        CliRunner().invoke(app, ["replay", str(path), "--why", "third"], catch_exceptions=False)
