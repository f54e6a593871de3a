"""Measure what a picker costs Envoy: ``python -m bench.http.envoy --envoy BINARY``.

Plain Envoy, which deals requests out in turn, and Envoy with `balanceroute epp`, in front of the
same two mock engines under the same load, in turn, for several rounds. Envoy has one worker thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench.http.load import Figures, closed_loop
from bench.http.run import PATH, free_port, process, wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "envoy.yaml"
EXT_PROC = "envoy.filters.http.ext_proc"


def envoy_config(
    *, port: int, engine_ports: list[int], picker_port: int | None, modes: dict[str, str]
) -> bytes:
    """Return the example's configuration with other ports; without a picker if it has no port.

    Parameters
    ----------
    port, engine_ports, picker_port
        Where Envoy listens, and where the others do.
    modes : dict of str to str
        Changes to the processing mode.
    """
    config: dict[str, Any] = msgspec.yaml.decode(EXAMPLE.read_bytes())
    resources = config["static_resources"]
    del config["admin"]
    resources["listeners"][0]["address"]["socket_address"]["port_value"] = port
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    ranks, picker = resources["clusters"]
    ranks["load_assignment"]["endpoints"][0]["lb_endpoints"] = [_endpoint(p) for p in engine_ports]
    if picker_port is None:
        filters = manager["http_filters"]
        manager["http_filters"] = [its for its in filters if its["name"] != EXT_PROC]
        resources["clusters"] = [ranks]
    else:
        picker["load_assignment"]["endpoints"][0]["lb_endpoints"] = [_endpoint(picker_port)]
        manager["http_filters"][1]["typed_config"]["processing_mode"] |= modes
    return msgspec.json.encode(config)


def _endpoint(port: int) -> dict[str, Any]:
    return {
        "endpoint": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        }
    }


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


async def measure(url: str, seconds: float) -> dict[str, Figures]:
    """Put each kind of load on one URL."""
    await closed_loop(url, num_connections=8, duration_s=0.3, is_streamed=False)  # warm
    one = await closed_loop(url, num_connections=1, duration_s=seconds, is_streamed=False)
    many = await closed_loop(url, num_connections=32, duration_s=seconds, is_streamed=False)
    sse = await closed_loop(url, num_connections=32, duration_s=seconds, is_streamed=True)
    return {"one": one, "many": many, "sse": sse}


def show(results: dict[str, list[dict[str, Figures]]]) -> None:
    """Print medians over rounds and their range, and the picker in relation to plain Envoy."""
    columns = (("one", "p50_ms"), ("many", "per_s"), ("sse", "per_s"))
    heads = ("p50 ms, 1 connection", "requests/s, 32", "SSE streams/s, 32")
    print(f"{'':22s}" + "".join(f"{head:>32s}" for head in heads))
    medians: dict[str, list[float]] = {}
    for name, rounds in results.items():
        line = f"{name:22s}"
        for load, figure in columns:
            values = [getattr(each[load], figure) for each in rounds]
            medians.setdefault(name, []).append(statistics.median(values))
            line += f"{medians[name][-1]:12.2f} ({min(values):8.2f}–{max(values):8.2f})"
        print(line)
    plain = medians.pop("plain Envoy")
    for name, its in medians.items():
        ratios = (
            f"{its[1] / plain[1]:.1%} of the requests/s, {its[2] / plain[2]:.1%} of the streams"
        )
        print(f"{name}: p50 {its[0] - plain[0]:+.2f} ms, {ratios}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--envoy", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--policy", default="br_auto")
    options = parser.parse_args()
    results: dict[str, list[dict[str, Figures]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log, engine_ports = folder / "log", [free_port(), free_port()]
        for port in engine_ports:
            mock = [sys.executable, "-m", "bench.http.mock", str(port)]
            stack.enter_context(process(mock, log))
            wait_for(f"http://127.0.0.1:{port}/health")
        picker_port = free_port()
        flags = ["--policy", options.policy, "--slots", "1024", "--no-barrier"]
        stack.enter_context(process(picker_command(engine_ports, picker_port, *flags), log))
        urls = {}
        for name, its_port in {"plain Envoy": None, "Envoy and picker": picker_port}.items():
            port, file = free_port(), folder / f"{name}.json"
            config = envoy_config(
                port=port, engine_ports=engine_ports, picker_port=its_port, modes={}
            )
            file.write_bytes(config)
            stack.enter_context(process(envoy_command(options.envoy, file), log))
            urls[name] = f"http://127.0.0.1:{port}"
            wait_for(f"{urls[name]}/v1/models")
        for _ in range(options.rounds):
            for name, url in urls.items():
                figures = uvloop.run(measure(url + PATH, options.seconds))
                results.setdefault(name, []).append(figures)
    show(results)


if __name__ == "__main__":
    main()
