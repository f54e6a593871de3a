"""Measure balance over HTTP with one process and several: ``python -m bench.http.level``.

An emulated group, kept full by `balanceroute load`, behind `balanceroute serve` with each number of
processes in turn, seed by seed; efficiency and throughput are those of the group's own steps.
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

from bench.http.run import free_port, process, wait_for

START_S = 8.0  # of the load
COMMAND = [sys.executable, "-c", "from balanceroute.cli import main; main()"]


def measure(options: argparse.Namespace, num_processes: int, seed: int, log: Path) -> Any:
    """Return the figures of one run, in front of a group that is fresh."""
    ranks, slots = str(options.ranks), str(options.slots)
    with ExitStack() as stack:
        port = free_port()
        group, url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
        engine = ["--ranks", ranks, "--slots", slots, "--step-time", options.step_time]
        stack.enter_context(process([*COMMAND, "emulate", *engine, "--port", str(port)], log))
        wait_for(f"{group}/health")
        where = ["--worker-urls", group, "--intra-node-data-parallel-size", ranks]
        more = ["--slots", slots, "--processes", str(num_processes), "--policy", options.policy]
        flags = ["--port", url.rpartition(":")[2], "--log-level", "warning"]
        stack.enter_context(process([*COMMAND, "serve", *where, *more, *flags], log))
        wait_for(f"{url}/readiness")
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
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
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
    log = Path(tempfile.gettempdir(), "balanceroute-bench-http.log")
    found: dict[int, list[float]] = {}
    for seed in options.seeds:
        for num_processes in options.processes:
            figures = measure(options, num_processes, seed, log)["runs"][0]["metrics"]
            found.setdefault(num_processes, []).append(figures["efficiency"])
            print(f"seed {seed}, {num_processes} processes: {figures}", flush=True)
    for num_processes, values in found.items():
        span = f"({min(values):.4f}–{max(values):.4f})"
        print(f"{num_processes} processes: efficiency {statistics.mean(values):.4f} {span}")


if __name__ == "__main__":
    main()
