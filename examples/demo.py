"""What `make demo` does: an emulated group over HTTP, by vLLM's own rule and through the router.

Two groups of 8 ranks serve a preset, one that only decodes and one whose ranks prefill in the same
steps; each first as vLLM balances by itself, then behind `balanceroute serve`. What was measured is
printed beside what perfect balance would have given and what the simulator says.

``.venv/bin/python examples/demo.py --help`` tells of other presets, and of longer runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from rich.console import Console
from rich.table import Table

from balanceroute.loadgen import LoadConfig, Measurement, read_requests, replay
from balanceroute.metrics import Metrics, summarize
from balanceroute.policies.registry import make_policy
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.types import Workload

NUM_RANKS, NUM_SLOTS, NUM_WAITING = 8, 72, 128
STREAM_INTERVAL = 16  # tokens per chunk: emulator, router and load share this machine's cores
NUM_SIMULATIONS = 5
DELIVERY_S = 0.005  # what the simulator takes for the way to a rank
VLLM, OURS = "vLLM's own rule", "balanceroute (br_auto)"
START_S = 90.0


@dataclass(frozen=True)
class Scale:
    """What is served, and for how long.

    Attributes
    ----------
    preset : str
        The requests.
    warmup_s, duration_s : float
        What is left out at the start, and what is measured, seconds of the wall.
    """

    preset: str
    warmup_s: float
    duration_s: float


@dataclass(frozen=True)
class Scenario:
    """A kind of group."""

    name: str
    speedup: float  # of the emulated group: what its steps leave to the cores of a laptop
    budget_tokens: int | None = None
    prefill_s_per_token: float = 0.0

    @property
    def flags(self) -> list[str]:
        """Return how the emulator and the router are told of it."""
        if self.budget_tokens is None:
            return ["--step-time", "paper"]
        prefill = ["--prefill-time", f"{self.prefill_s_per_token:g}"]
        return ["--step-time", "paper", "--prefill-budget", str(self.budget_tokens), *prefill]

    @property
    def sim_config(self) -> SimConfig:
        """Return the same for the simulator."""
        return SimConfig(
            step_time=StepTime.parse("paper", num_slots=NUM_SLOTS),
            num_ranks=NUM_RANKS,
            num_slots=NUM_SLOTS,
            pool_size=NUM_WAITING,
            start="empty",
            prefill_budget_tokens=self.budget_tokens,
            prefill_s_per_token=self.prefill_s_per_token,
        )


SCENARIOS = (
    Scenario("ranks that only decode", speedup=0.5),
    Scenario(
        "ranks that prefill and decode",
        speedup=1.5,
        budget_tokens=2048,
        prefill_s_per_token=2e-5,
    ),
)


@contextlib.contextmanager
def command(words: list[str], log: IO[bytes]) -> Iterator[str]:
    """Run one of our servers, and give the URL that it announces; it is gone afterwards."""
    program = Path(sys.executable).with_name("balanceroute")
    server = subprocess.Popen(  # noqa: S603  # our own command
        [program, *words], stdout=subprocess.PIPE, stderr=log, start_new_session=True
    )
    try:
        yield announced_url(server, words[0])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


def announced_url(server: subprocess.Popen[bytes], name: str) -> str:
    """Return the first URL that a server prints."""
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(rb"http://[\d.]+:\d+", line):
            return found[0].decode()
    raise SystemExit(f"demo: `balanceroute {name}` ended with exit code {server.wait()}")


def measured(scale: Scale, scenario: Scenario, rule: str, log: IO[bytes]) -> Measurement:
    """Serve the preset over HTTP by one rule, and measure it."""
    size = ["--ranks", str(NUM_RANKS), "--slots", str(NUM_SLOTS), "--port", "0"]
    pace = ["--speedup", f"{scenario.speedup:g}", "--stream-interval", str(STREAM_INTERVAL)]
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(command(["emulate", *size, *pace, *scenario.flags], log))
        url = engine
        if rule == OURS:
            where = ["--worker-urls", engine, "--intra-node-data-parallel-size", str(NUM_RANKS)]
            limits = ["--slots", str(NUM_SLOTS), "--port", "0", "--log-level", "warning"]
            url = stack.enter_context(command(["serve", *where, *limits, *scenario.flags], log))
            Console(stderr=True).print(f"watch it: {url}/dashboard", highlight=False)
        config = LoadConfig(
            url=url,
            steps_url=engine,
            pool=NUM_WAITING,
            warmup_s=scale.warmup_s,
            duration_s=scale.duration_s,
            label=rule,
        )
        workload, _ = read_requests(scale.preset, config)
        return asyncio.run(until_measured(workload, config))


async def until_measured(workload: Workload, config: LoadConfig) -> Measurement:
    """Replay until there is enough; who still waits for an answer then is sent away."""
    stop = asyncio.Event()
    assert config.duration_s is not None
    asyncio.get_running_loop().call_later(config.warmup_s + config.duration_s, stop.set)
    return await replay(workload, config, stop=stop)


def predicted(
    scale: Scale, scenario: Scenario, rule: str, window_s: tuple[float, float]
) -> list[Metrics]:
    """Simulate the same, and count the same time.

    Several times: when a request comes differs by chance, and what follows from that does too.
    """
    config, name = scenario.sim_config, "br_auto"
    if rule == VLLM:
        name, config = "vllm", replace(config, binding="immediate")
    else:
        config = replace(config, delivery_s=DELIVERY_S * scenario.speedup)
    config = replace(config, delivery_jitter_s=DELIVERY_S * scenario.speedup)
    # More than the window can hold.
    num_requests = NUM_RANKS * NUM_SLOTS * max(10, round(0.5 * window_s[1]))
    sends = LoadConfig(url="http://127.0.0.1", duration_s=scale.duration_s)
    workload, _ = read_requests(scale.preset, sends, num_requests=num_requests)
    predictions = []
    for seed in range(NUM_SIMULATIONS):
        policy = make_policy(name, rng=np.random.default_rng(seed))
        records = simulate(workload, config, policy, seed=seed)
        assert records.steps.start_s[-1] > window_s[1], "too few requests"
        predictions.append(summarize(replace(records, window_s=window_s)))
    return predictions


def row(rule: str, metrics: Metrics, predictions: list[Metrics]) -> list[str]:
    """Return a line of the table."""
    expected = np.array([each.throughput_tok_per_s for each in predictions], np.float64)
    idle = float(np.mean([each.idle_ratio for each in predictions]))
    throughput = metrics.throughput_tok_per_s
    assert throughput is not None
    return [
        rule,
        f"{throughput:,.0f}",
        f"{metrics.idle_ratio:.1%}",
        f"{expected.mean():,.0f} ± {expected.std(ddof=1):,.0f}",
        f"{idle:.1%}",
        f"{throughput / expected.mean() - 1:+.1%}",
    ]


def show(console: Console, scale: Scale, scenario: Scenario, log: IO[bytes]) -> None:
    """Measure and print one scenario."""
    table = Table(title=scenario.name, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for head in ("tok/s\nmeasured", "idle", "tok/s\nsimulated", "idle", "differs by"):
        table.add_column(head, justify="right")
    figures = {}
    for rule in (VLLM, OURS):
        with console.status(f"{scenario.name}: {rule}"):
            measurement = measured(scale, scenario, rule, log)
            figures[rule] = summarize(measurement.records)
            predictions = predicted(scale, scenario, rule, measurement.records.window_s)
        table.add_row(*row(rule, figures[rule], predictions))
        if measurement.num_failed:
            raise SystemExit(f"demo: {measurement.num_failed} requests failed; see {log.name}")
    console.print(table)
    console.print(verdict(figures[VLLM], figures[OURS]) + "\n", highlight=False)


def verdict(before: Metrics, after: Metrics) -> str:
    """Say what was there to be had, and how much of it was got."""
    old, new = before.throughput_tok_per_s, after.throughput_tok_per_s
    assert old is not None
    assert new is not None
    best, lost = old / before.efficiency, 1.0 - before.efficiency
    closed = 1.0 - (1.0 - after.efficiency) / lost
    return (
        f"To be had by perfect balance: {best / old - 1:+.1%} tok/s, since {lost:.1%} of the time "
        f"is lost. Got: {new / old - 1:+.1%} tok/s, and {closed:.0%} of that time."
    )


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="What balance is worth, over HTTP.")
    parser.add_argument("--preset", default="azure-2024-conv", help="see `balanceroute trace list`")
    parser.add_argument("--warmup", type=float, default=6.0, help="left out, seconds")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured")
    parser.add_argument("--decode-only", action="store_true", help="leave out ranks that prefill")
    return parser.parse_args()


def main() -> None:
    """Run the demo; nothing that it starts outlives it."""
    chosen = options()
    scale = Scale(chosen.preset, chosen.warmup, chosen.seconds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console, began_s = Console(), time.monotonic()
    console.print(
        f"{scale.preset} over HTTP: {NUM_RANKS} emulated ranks of {NUM_SLOTS} slots in lockstep, "
        f"kept full, {NUM_WAITING} requests waiting.\n",
        highlight=False,
    )
    with tempfile.NamedTemporaryFile(prefix="balanceroute-demo-", suffix=".log") as log:
        for scenario in SCENARIOS[: 1 if chosen.decode_only else None]:
            show(console, scale, scenario, log)
    console.print(f"{time.monotonic() - began_s:.0f} s. One run of {scale.duration_s:g} s each.")
    console.print("Your own trace: .venv/bin/balanceroute simulate FILE --ranks G --slots B")
    console.print("Your own ranks: .venv/bin/balanceroute serve --worker-urls URL…")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
