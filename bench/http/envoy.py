"""Measure what a picker costs Envoy: ``python -m bench.http.envoy --envoy BINARY``.

Plain Envoy, which deals requests out in turn, Envoy with `balanceroute epp`, and Envoy with a
picker that decides nothing (`bench.http.empty`) stand in front of the same two mock engines under
the same load, in turn, for several rounds. Envoy has one worker thread. `balanceroute epp` is asked
over TCP on loopback, as the empty picker is, and over a Unix socket.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench.http.load import closed_loop
from bench.http.processes import cpu_s
from bench.http.run import PATH, free_port, process, wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "envoy.yaml"
EXT_PROC = "envoy.filters.http.ext_proc"
PLAIN = "plain Envoy"


def envoy_config(
    *, port: int, engine_ports: list[int], picker: int | Path | None, modes: dict[str, str]
) -> bytes:
    """Return the example's configuration with other ports.

    Parameters
    ----------
    port, engine_ports
        Where Envoy listens, and where the engines do.
    picker : int, Path or None
        The picker's port, or its Unix socket; None: there is no picker.
    modes : dict of str to str
        Changes to the processing mode.
    """
    config: dict[str, Any] = msgspec.yaml.decode(EXAMPLE.read_bytes())
    resources = config["static_resources"]
    del config["admin"]
    resources["listeners"][0]["address"]["socket_address"]["port_value"] = port
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    ranks, ask = resources["clusters"]
    ranks["load_assignment"]["endpoints"][0]["lb_endpoints"] = [_endpoint(p) for p in engine_ports]
    if picker is None:
        filters = manager["http_filters"]
        manager["http_filters"] = [its for its in filters if its["name"] != EXT_PROC]
        resources["clusters"] = [ranks]
    else:
        ask["load_assignment"]["endpoints"][0]["lb_endpoints"] = [_endpoint(picker)]
        manager["http_filters"][1]["typed_config"]["processing_mode"] |= modes
    return msgspec.json.encode(config)


def _endpoint(where: int | Path) -> dict[str, Any]:
    if isinstance(where, Path):
        return {"endpoint": {"address": {"pipe": {"path": str(where)}}}}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": where}}
    return {"endpoint": {"address": address}}


def envoy_command(binary: Path, config: Path) -> list[str]:
    """Return the command that runs Envoy with one worker and no state shared with others."""
    flags = ["--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
    return [str(binary), "-c", str(config), *flags]


def picker_command(engine_ports: list[int], grpc_port: int, *flags: str) -> list[str]:
    """Return the command that runs the picker."""
    urls = [word for port in engine_ports for word in ("--worker-urls", f"http://127.0.0.1:{port}")]
    start = "from balanceroute.cli import main; main()"
    where = ["--port", "0", "--grpc-port", str(grpc_port), "--log-level", "warning"]
    return [sys.executable, "-c", start, "epp", *urls, *where, *flags]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Attributes
    ----------
    url : str
        Where Envoy listens.
    pids : dict of str to int
        Of Envoy, and of its picker if it has one.
    """

    url: str
    pids: dict[str, int]


@dataclass(frozen=True, slots=True)
class Round:
    """What one round has measured: figures of the loads by name, and CPU times by process.

    Attributes
    ----------
    p50_ms, per_s, streams_per_s : float
        With one connection, and with 32.
    cpu_us : dict of str to float
        Per request of 32 connections.
    """

    p50_ms: float
    per_s: float
    streams_per_s: float
    cpu_us: dict[str, float]


async def measure(subject: Subject, seconds: float) -> Round:
    """Put each kind of load on one URL."""
    url = subject.url + PATH
    await closed_loop(url, num_connections=8, duration_s=0.3, is_streamed=False)  # warm
    one = await closed_loop(url, num_connections=1, duration_s=seconds, is_streamed=False)
    before_s = {name: cpu_s(pid) for name, pid in subject.pids.items()}
    many = await closed_loop(url, num_connections=32, duration_s=seconds, is_streamed=False)
    cpu_us = {
        name: (cpu_s(pid) - before_s[name]) * 1e6 / (many.per_s * seconds)
        for name, pid in subject.pids.items()
    }
    sse = await closed_loop(url, num_connections=32, duration_s=seconds, is_streamed=True)
    return Round(one.p50_ms, many.per_s, sse.per_s, cpu_us)


def show(results: dict[str, list[Round]]) -> None:
    """Print medians over rounds and their range, and each in relation to plain Envoy."""
    columns: dict[str, Callable[[Round], float]] = {
        "p50 ms, 1 connection": lambda its: its.p50_ms,
        "requests/s, 32": lambda its: its.per_s,
        "SSE streams/s, 32": lambda its: its.streams_per_s,
        "CPU µs a request: Envoy": lambda its: its.cpu_us["envoy"],
        "picker": lambda its: its.cpu_us.get("picker", 0.0),
    }
    print(f"{'':22s}" + "".join(f"{head:>30s}" for head in columns))
    medians: dict[str, list[float]] = {}
    for name, rounds in results.items():
        line = f"{name:22s}"
        for figure in columns.values():
            values = [figure(each) for each in rounds]
            medians.setdefault(name, []).append(statistics.median(values))
            line += f"{medians[name][-1]:10.2f} ({min(values):8.2f}–{max(values):8.2f})"
        print(line)
    plain = medians.pop(PLAIN)
    for name, its in medians.items():
        ratios = (
            f"{its[1] / plain[1]:.1%} of the requests/s, {its[2] / plain[2]:.1%} of the streams"
        )
        print(f"{name}: p50 {its[0] - plain[0]:+.2f} ms, {ratios}")


def start(stack: ExitStack, options: argparse.Namespace, folder: Path) -> dict[str, Subject]:
    """Start all servers, and return what is to be measured by name."""
    log, engine_ports = folder / "log", [free_port(), free_port()]
    for port in engine_ports:
        stack.enter_context(process([sys.executable, "-m", "bench.http.mock", str(port)], log))
        wait_for(f"http://127.0.0.1:{port}/health")
    ours, empty, socket = free_port(), free_port(), folder / "picker.sock"
    flags = ["--policy", options.policy, "--slots", "1024", "--no-barrier"]
    endpoints = [f"127.0.0.1:{port}" for port in engine_ports]
    ours_pid, empty_pid = (
        stack.enter_context(process(command, log)).pid
        for command in (
            picker_command(engine_ports, ours, *flags, "--grpc-socket", str(socket)),
            [sys.executable, "-m", "bench.http.empty", str(empty), *endpoints],
        )
    )
    cases: dict[str, tuple[int | Path | None, dict[str, int]]] = {
        PLAIN: (None, {}),
        "balanceroute epp": (ours, {"picker": ours_pid}),
        "the same, Unix socket": (socket, {"picker": ours_pid}),
        "empty picker": (empty, {"picker": empty_pid}),
    }
    subjects = {}
    for name, (picker, pids) in cases.items():
        port, file = free_port(), folder / f"{name}.json"
        config = envoy_config(port=port, engine_ports=engine_ports, picker=picker, modes={})
        file.write_bytes(config)
        envoy = stack.enter_context(process(envoy_command(options.envoy, file), log))
        subjects[name] = Subject(f"http://127.0.0.1:{port}", pids | {"envoy": envoy.pid})
        wait_for(f"{subjects[name].url}/v1/models")
    return subjects


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--envoy", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--policy", default="br_auto")
    options = parser.parse_args()
    results: dict[str, list[Round]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        subjects = start(stack, options, folder)
        for _ in range(options.rounds):
            for name, subject in subjects.items():
                results.setdefault(name, []).append(uvloop.run(measure(subject, options.seconds)))
    show(results)


if __name__ == "__main__":
    main()
