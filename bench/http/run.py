"""Measure the router beside others: ``make bench-http``.

All stand in front of the same two mock engines under the same load, in turn, for several rounds;
medians over rounds are shown, and their range, beside a bare proxy of the same library. Other
routers come from their wheels, in an environment of their own (``--peers DIR``); those that are not
there are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import msgspec
import uvloop

from bench.http.load import Figures, closed_loop, steady_streams

PATH = "/v1/completions"
START_S = 240.0  # a fresh installation compiles


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block is left."""
    with log.open("ab") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        yield server
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for(url: str) -> None:
    """Wait until a server gives an answer that is none of an error."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        try:
            with urlopen(url, timeout=1) as answer:  # noqa: S310  # our own loopback server
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer within {START_S:g} s")


def routers(engines: list[str], peers: Path) -> dict[str, Callable[[int], list[str]]]:
    """Return the command that starts each router on a port, by name."""

    def ours(port: int, policy: str) -> list[str]:
        command = [str(Path(sys.executable).with_name("balanceroute")), "serve"]
        flags = ["--port", str(port), "--policy", policy, "--slots", "1024", "--no-barrier"]
        return [*command, "--worker-urls", *engines, *flags, "--log-level", "warning"]

    def peer(name: str, *words: str) -> Callable[[int], list[str]]:
        def command(port: int) -> list[str]:
            prometheus = ["--prometheus-port", str(free_port())]
            where = ["--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
            return [
                str(peers / "bin" / name),
                *words,
                *where,
                *prometheus,
                "--worker-urls",
                *engines,
            ]

        return command

    def bare(port: int) -> list[str]:
        return [sys.executable, "-m", "bench.http.bare", str(port), engines[0]]

    ours_and_theirs: dict[str, Callable[[int], list[str]]] = {
        "balanceroute br_auto": lambda port: ours(port, "br_auto"),
        "balanceroute round_robin": lambda port: ours(port, "round_robin"),
        "aiohttp alone": bare,
    }
    for name, words in (("vllm-router", ()), ("sglang-router", ("launch",)), ("smg", ("launch",))):
        if (peers / "bin" / name).exists():
            ours_and_theirs[name] = peer(name, *words)
    return ours_and_theirs


def cpu_s(session: int) -> float:
    """Return the processor time that the processes of a session have taken, seconds."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # one that has just ended
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


async def measure(
    url: str, seconds: float, num_streams: int, session: int
) -> dict[str, Figures | float]:
    """Put each kind of load on one URL, whose server's processes make up a session."""
    await closed_loop(url, num_connections=8, duration_s=0.5, is_streamed=False)  # warm
    one = await closed_loop(url, num_connections=1, duration_s=seconds, is_streamed=False)
    before_s = cpu_s(session)
    many = await closed_loop(url, num_connections=32, duration_s=seconds, is_streamed=False)
    cpu_us = (cpu_s(session) - before_s) * 1e6 / (many.per_s * seconds)
    sse = await closed_loop(url, num_connections=32, duration_s=seconds, is_streamed=True)
    steady = await steady_streams(url, num_streams=num_streams, gap_ms=50.0, duration_s=2 * seconds)
    return {"one": one, "many": many, "cpu_us": cpu_us, "sse": sse, "steady": steady}


def show(results: dict[str, list[dict[str, Figures | float]]]) -> None:
    """Print medians over rounds, and their range."""

    def cell(rounds: list[dict[str, Figures | float]], load: str, figure: str) -> str:
        measured = [each[load] for each in rounds]
        values = [each if isinstance(each, float) else getattr(each, figure) for each in measured]
        return f"{statistics.median(values):8.2f} ({min(values):.2f}–{max(values):.2f})"

    columns = (
        ("p50 ms, 1 conn.", "one", "p50_ms"),
        ("requests/s, 32", "many", "per_s"),
        ("CPU µs a request, 32", "cpu_us", ""),
        ("SSE streams/s, 32", "sse", "per_s"),
        ("gap p99 ms, steady", "steady", "p99_ms"),
    )
    print(f"{'':26s}" + "".join(f"{head:>30s}" for head, _, _ in columns))
    for name, rounds in results.items():
        cells = [cell(rounds, load, figure) for _, load, figure in columns]
        print(f"{name:26s}" + "".join(f"{text:>30s}" for text in cells))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=Path, default=Path("bench/out/peers"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--streams", type=int, default=576)
    parser.add_argument("--memory-requests", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    log = Path(os.environ.get("TMPDIR", "/tmp")) / "balanceroute-bench-http.log"  # noqa: S108
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    results: dict[str, list[dict[str, Figures | float]]] = {}
    with ExitStack() as stack:
        engines, sessions = [], []
        for _ in range(2):
            port = free_port()
            mock = [sys.executable, "-m", "bench.http.mock", str(port)]
            sessions.append(stack.enter_context(process(mock, log)).pid)
            engines.append(f"http://127.0.0.1:{port}")
            wait_for(engines[-1] + "/health")
        commands = routers(engines, options.peers)
        if options.only is not None:
            commands = {name: commands[name] for name in options.only}
        for _ in range(options.rounds):
            figures = uvloop.run(
                measure(engines[0] + PATH, options.seconds, options.streams, sessions[0])
            )
            results.setdefault("direct (the mock's)", []).append(figures)
            for name, command in commands.items():
                port = free_port()
                with process(command(port), log) as server:
                    wait_for(f"http://127.0.0.1:{port}/v1/models")
                    url = f"http://127.0.0.1:{port}{PATH}"
                    figures = uvloop.run(measure(url, options.seconds, options.streams, server.pid))
                results.setdefault(name, []).append(figures)
        show(results)
        if options.memory_requests > 0:
            measure_memory(commands["balanceroute br_auto"], log, options.memory_requests)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(msgspec.to_builtins(results), indent=1))


def measure_memory(command: Callable[[int], list[str]], log: Path, num_requests: int) -> None:
    """Print the router's resident memory after ever more requests."""
    port = free_port()
    with process(command(port), log) as server:
        wait_for(f"http://127.0.0.1:{port}/v1/models")
        url, num_sent = f"http://127.0.0.1:{port}{PATH}", 0
        first = 0.0
        while num_sent < num_requests:
            for is_streamed in (False, True):
                load = closed_loop(url, num_connections=32, duration_s=5.0, is_streamed=is_streamed)
                num_sent += round(asyncio.run(load).per_s * 5.0)
            first = first or rss_mib(server.pid)
            now = rss_mib(server.pid)
            print(f"after {num_sent:8,} requests: {now:.1f} MiB ({now / first - 1:+.1%})")


if __name__ == "__main__":
    main()
