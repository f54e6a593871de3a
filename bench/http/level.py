"""Measure balance over HTTP behind each front: ``python -m bench.http.level --fronts 1 2 envoy``.

An emulated group, kept full by `balanceroute load`, behind `balanceroute serve` with so many
processes, behind `balanceroute serve --policy round_robin`, or behind Envoy with `balanceroute
epp`, in turn, seed by seed; efficiency and throughput are those of the group's own steps.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.http.envoy import envoy_command, envoy_config, picker_command
from bench.http.run import free_port, process, wait_for

START_S = 8.0  # of the load
COMMAND = [sys.executable, "-c", "from balanceroute.cli import main; main()"]
ENVOY, BASELINE = "envoy", "round_robin"


def start_router(
    stack: ExitStack, options: argparse.Namespace, front: str, engine_port: int, log: Path
) -> str:
    """Start `balanceroute serve`; return its URL."""
    port = str(free_port())
    where = ["--worker-urls", f"http://127.0.0.1:{engine_port}"]
    where += ["--intra-node-data-parallel-size", str(options.ranks), "--slots", str(options.slots)]
    policy, number = (BASELINE, "1") if front == BASELINE else (options.policy, front)
    how = ["--policy", policy, "--processes", number]
    flags = ["--port", port, "--log-level", "warning"]
    stack.enter_context(process([*COMMAND, "serve", *where, *how, *flags], log))
    url = f"http://127.0.0.1:{port}"
    wait_for(f"{url}/readiness")
    return url


def start_envoy(stack: ExitStack, options: argparse.Namespace, engine_port: int, log: Path) -> str:
    """Start Envoy and a picker; return Envoy's URL."""
    port, grpc_port = free_port(), free_port()
    flags = ["--intra-node-data-parallel-size", str(options.ranks), "--slots", str(options.slots)]
    flags += ["--policy", options.policy]
    stack.enter_context(process(picker_command([engine_port], grpc_port, *flags), log))
    file = Path(stack.enter_context(tempfile.TemporaryDirectory()), "envoy.json")
    file.write_bytes(
        envoy_config(port=port, engine_ports=[engine_port], picker=grpc_port, modes={})
    )
    stack.enter_context(process(envoy_command(options.envoy, file), log))
    url = f"http://127.0.0.1:{port}"
    wait_for(f"{url}/v1/models")
    return url


def measure(options: argparse.Namespace, front: str, seed: int, log: Path) -> Any:
    """Return the figures of one run, in front of a group that is fresh."""
    with ExitStack() as stack:
        port = free_port()
        group = f"http://127.0.0.1:{port}"
        engine = ["--ranks", str(options.ranks), "--slots", str(options.slots)]
        engine += ["--step-time", options.step_time, "--port", str(port)]
        stack.enter_context(process([*COMMAND, "emulate", *engine], log))
        wait_for(f"{group}/health")
        if front == ENVOY:
            url = start_envoy(stack, options, port, log)
        else:
            url = start_router(stack, options, front, port, log)
        load = [options.source, "--url", url, "--steps-url", group, "--seed", str(seed), "--json"]
        load += ["--pool", str(options.pool), "--warmup-secs", str(options.warmup)]
        load += ["--duration-secs", str(options.seconds)]
        command = [*COMMAND, "load", *load]
        with log.open("ab") as errors:
            sending = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        try:
            out, _ = sending.communicate(timeout=options.warmup + options.seconds + START_S)
        except subprocess.TimeoutExpired:  # what is still under way is not waited for
            sending.send_signal(signal.SIGINT)
            out, _ = sending.communicate()
    return json.loads(out)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fronts", nargs="*", default=["1", "2"], help="N, round_robin, envoy")
    parser.add_argument("--envoy", type=Path, help="Envoy's binary")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--source", default="mooncake-conversation")
    parser.add_argument("--policy", default="br_auto")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--pool", type=int, default=32)
    parser.add_argument("--step-time", default="0.03,1e-7")
    parser.add_argument("--warmup", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=40.0)
    options = parser.parse_args()
    if ENVOY in options.fronts and options.envoy is None:
        parser.error("--fronts envoy needs --envoy BINARY")
    log = Path(tempfile.gettempdir(), "balanceroute-bench-http.log")
    found: dict[str, list[Any]] = {}
    for seed in options.seeds:
        for front in options.fronts:
            figures = measure(options, front, seed, log)["runs"][0]["metrics"]
            found.setdefault(front, []).append(figures)
            print(f"seed {seed}, {front}: {figures}", flush=True)
    for front, runs in found.items():
        for name in ("efficiency", "throughput_tok_per_s"):
            values = [figures[name] for figures in runs]
            span = f"({min(values):.4f}–{max(values):.4f})"
            print(f"{front}: {name} {statistics.mean(values):.4f} {span}")


if __name__ == "__main__":
    main()
