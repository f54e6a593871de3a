"""Measure one process beside several: ``python -m bench.http.processes``.

`balanceroute serve` with one process, and with `--processes N`, in front of the same two mock
engines under the same load, in turn, for several rounds. Load, engines and router share the
machine's cores, so that what is forwarded says little of what would be where each process had a
core of its own. The CPU time of the router's busiest process per answer says that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.request import urlopen

import uvloop

from bench.http.load import closed_loop
from bench.http.run import PATH, free_port, process, wait_for

NUM_CHUNKS = 16
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Round:
    """What one round has measured.

    Attributes
    ----------
    per_s : float
        Answers per second.
    busiest_s, router_s, engines_s, load_s : float
        CPU seconds per answer: of the router's busiest process and of all of them, of the engines,
        and of the load.
    brain_s : float
        Of the process that decides; 0 where there is one process.
    """

    per_s: float
    busiest_s: float
    router_s: float
    engines_s: float
    load_s: float
    brain_s: float

    @property
    def capacity_per_s(self) -> float:
        """Return the answers per second at which the busiest process has a core full."""
        return 1.0 / self.busiest_s


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def router_pids(url: str, pid: int, num_processes: int) -> dict[str, int]:
    """Return the processes of a router by their names."""
    if num_processes == 1:
        return {"router": pid}
    with urlopen(f"{url}/workers", timeout=10) as answer:  # noqa: S310  # our own loopback server
        shown = json.load(answer)["processes"]
    return {"supervisor": pid} | {its["process"]: its["pid"] for its in shown}


def measure(
    url: str, pids: dict[str, int], engines: list[int], *, seconds: float, is_streamed: bool
) -> Round:
    """Put one kind of load on a router."""

    def now() -> dict[str, float]:
        its = {name: cpu_s(pid) for name, pid in pids.items()}
        return its | {"engines": sum(map(cpu_s, engines)), "load": cpu_s(os.getpid())}

    async def load(duration_s: float) -> float:
        figures = await closed_loop(
            url + PATH, num_connections=32, duration_s=duration_s, is_streamed=is_streamed
        )
        return figures.per_s

    uvloop.run(load(1.0))  # warm
    before = now()
    per_s = uvloop.run(load(seconds))
    each = {name: (its - before[name]) / (per_s * seconds) for name, its in now().items()}
    return Round(
        per_s=per_s,
        busiest_s=max(each[name] for name in pids),
        router_s=sum(each[name] for name in pids),
        engines_s=each["engines"],
        load_s=each["load"],
        brain_s=each.get("brain", 0.0),
    )


def show(results: dict[str, list[Round]]) -> None:
    """Print medians over rounds, and the least and largest rate."""
    heads = ("answers/s", "busiest", "router", "brain", "engines", "load", "a core each")
    print(f"{'CPU in ms per answer':28s}" + "".join(f"{head:>13s}" for head in heads))
    for name, rounds in results.items():
        rates = [its.per_s for its in rounds]
        cells = [f"{statistics.median(rates):.0f}"]
        for field in ("busiest_s", "router_s", "brain_s", "engines_s", "load_s"):
            median_s = statistics.median(getattr(its, field) for its in rounds)
            cells += [f"{median_s * 1e3:.3f}"]
        cells.append(f"{statistics.median(its.capacity_per_s for its in rounds):.0f}")
        line = "".join(f"{cell:>13s}" for cell in cells)
        print(f"{name:28s}{line}  ({min(rates):.0f}–{max(rates):.0f})")


def serve_command(engines: list[str], port: int, policy: str, num_processes: int) -> list[str]:
    """Return the command that starts a router."""
    start = "from balanceroute.cli import main; main()"
    flags = ["--policy", policy, "--slots", "1024", "--no-barrier", "--log-level", "warning"]
    where = ["--port", str(port), "--processes", str(num_processes), "--worker-urls", *engines]
    return [sys.executable, "-c", start, "serve", *where, *flags]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--policy", default="br_auto")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    log = Path(os.environ.get("TMPDIR", "/tmp")) / "balanceroute-bench-http.log"  # noqa: S108
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    results: dict[str, list[Round]] = {}
    with ExitStack() as stack:
        engines: dict[str, subprocess.Popen[bytes]] = {}
        for _ in range(2):
            port = free_port()
            mock = [sys.executable, "-m", "bench.http.mock", str(port)]
            engines[f"http://127.0.0.1:{port}"] = stack.enter_context(process(mock, log))
            wait_for(f"http://127.0.0.1:{port}/health")
        routers = {}
        for num_processes in options.processes:
            port = free_port()
            command = serve_command(list(engines), port, options.policy, num_processes)
            server = stack.enter_context(process(command, log))
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/readiness")
            routers[num_processes] = (url, router_pids(url, server.pid, num_processes))
        time.sleep(1.0)  # until all have come to rest
        engine_pids = [its.pid for its in engines.values()]
        for _ in range(options.rounds):
            for is_streamed in (True, False):
                for num_processes, (url, pids) in routers.items():
                    kind = f"streams of {NUM_CHUNKS}" if is_streamed else "JSON"
                    its = measure(
                        url, pids, engine_pids, seconds=options.seconds, is_streamed=is_streamed
                    )
                    results.setdefault(f"{num_processes} processes, {kind}", []).append(its)
    show(dict(sorted(results.items(), key=lambda item: item[0].partition(",")[2])))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        plain = {name: [asdict(its) for its in rounds] for name, rounds in results.items()}
        options.out.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
