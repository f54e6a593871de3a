"""`balanceroute emulate`, as a process of its own and in this one."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from balanceroute.cli import main
from tests.emulator.serving import DEADLINE_S, completion

COMMAND = [sys.executable, "-c", "from balanceroute.cli import main; main()", "emulate"]


@contextlib.contextmanager
def emulating(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Start the command and yield it with the addresses that it prints."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            word, *urls = process.stdout.readline().split()
            assert "serving" == word
            yield process, urls
        finally:
            process.kill()


async def break_off(url: str, stop: Callable[[], None]) -> None:
    """Stop a server while it streams; the stream is cut."""
    body = completion(100_000, stream=True)
    async with (
        asyncio.timeout(DEADLINE_S),
        aiohttp.ClientSession() as client,
        client.post(f"{url}/v1/completions", json=body) as answer,
    ):
        assert (await answer.content.readline()).startswith(b"data: ")
        stop()
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


async def read(url: str) -> bytes:
    async with aiohttp.ClientSession() as client, client.get(url) as answer:
        return await answer.read()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_serves_until_a_signal_comes(number: signal.Signals, code: int) -> None:
    """It prints where it is, serves, cuts streams when it is told to stop, and ends quickly."""
    with emulating("--ranks", "2", "--slots", "3") as (process, (url,)):
        asyncio.run(break_off(url, lambda: process.send_signal(number)))
        assert code == process.wait(timeout=10)
        assert process.stderr is not None
        assert "" == process.stderr.read()


def test_groups_and_ports() -> None:
    """Two groups of two ranks with a port each are four servers."""
    arguments = ("--groups", "2", "--ranks", "2", "--port-per-rank", "--served-model-name", "m")
    with emulating(*arguments) as (_, urls):
        assert 4 == len(set(urls))
        shown = asyncio.run(read(f"{urls[3]}/metrics"))
        assert b'engine="1",model_name="m"' in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--speedup", "0"], "--speedup must be a number above 0"),
        (["--port", "70000"], "--port must be from 0 to 65535"),
        (["--port", "65535", "--groups", "2"], "leaves 1 ports, but 2 are needed"),
        (["--role", "spectator"], "--role must be one of plain, prefill, decode, both"),
        (["--role", "prefill,decode"], "--role names 2 groups, but there are 1"),
        (["--kv-blocks", "4", "--max-model-len", "65"], "needs more than the 64 KV tokens"),
        (["--step-time", "nothing"], "neither a preset"),
        (["--prefill-time", "1e-5"], "needs --prefill-budget"),
        (["--rank-speeds", "1,x"], "--rank-speeds must be numbers"),
        (["--mean-output-tokens", "0.5"], "--mean-output-tokens must be a number of at least 1"),
        (["--served-model-name", ""], "--served-model-name must not be empty"),
    ],
)
def test_settings_that_cannot_be(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One line that names the option, and exit code 2."""
    assert message in fail(arguments, monkeypatch, capfd)


def test_a_port_that_is_taken(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line that says what to do, and exit code 2."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        message = fail(["--port", port], monkeypatch, capfd)
    assert f"cannot listen on 127.0.0.1:{port}" in message


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert "pip install 'balanceroute[serve]'" in fail([], monkeypatch, capfd)


def fail(arguments: list[str], monkeypatch: Any, capfd: Any) -> str:
    """Run the command line in this process; return its one line of error."""
    monkeypatch.setattr(sys, "argv", ["balanceroute", "emulate", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capfd.readouterr()
    assert (2, "") == (stop.value.code, captured.out)
    (line,) = captured.err.splitlines()
    assert line.startswith("balanceroute: error: ")
    return str(line)
