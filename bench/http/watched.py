"""Measure what metrics, the live page and traces cost: ``python -m bench.http.watched``.

A router's work for a request is compared, in CPU time of its process, in turn and for many rounds
of a burst of streams each: one that measures nothing (`bench.http.unmeasured`), one as it is,
the same while a page is open and ``/metrics`` are read once a second, and one that sends traces of
all requests, where the extra for that is installed. CPU time and not requests per second, since the
load, the engine and the router share the machine's cores; where the router is what is short,
requests per second are one over these.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import signal
import statistics
import sys
import tempfile
import timeit
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import numpy as np
import uvloop

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.live.app import running_router
from balanceroute.live.decisions import reasons
from balanceroute.live.reading import read_config
from balanceroute.policies.base import Plan
from bench.http.load import burst
from bench.http.run import PATH, free_port, process, wait_for
from bench.machine import describe_machine

NUM_RANKS = 8
SCRAPE_S = 1.0
BARE, ALONE, WATCHED = "nothing is measured", "nobody looks", "page open, scraped"
TRACED = "traced, nobody looks"
COMMAND = str(Path(sys.executable).with_name("balanceroute"))


@contextlib.asynccontextmanager
async def looking(url: str) -> AsyncIterator[None]:
    """Have a page open, and read the metrics once a second."""

    async def follow() -> None:
        async with session.get(f"{url}/dashboard/events") as answer:
            async for _ in answer.content.iter_any():
                pass

    async def scrape() -> None:
        while True:
            async with session.get(f"{url}/metrics") as answer:
                await answer.read()
            await asyncio.sleep(SCRAPE_S)

    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow()), group.create_task(scrape())]
        yield
        for task in tasks:
            task.cancel()


def cpu_ns(pid: int) -> int:
    """Return the processor time that a process's threads have taken, exactly."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads)


async def cost_us(url: str, pid: int, chosen: argparse.Namespace, *, is_watched: bool) -> float:
    """Return microseconds of a router's processor time per request of a burst."""
    async with looking(url) if is_watched else contextlib.nullcontext():
        before_ns = cpu_ns(pid)
        await burst(url + PATH, num_streams=chosen.streams, gap_ms=chosen.gap_ms)
        took_us: float = 1e-3 * (cpu_ns(pid) - before_ns) / chosen.streams
        return took_us


def rounds(measure: dict[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """Measure in turn, in another order each round; the first round is thrown away."""
    found: dict[str, list[float]] = {name: [] for name in measure}
    names = list(measure)
    for number in range(count + 1):
        first = number % len(names)
        now = {name: measure[name]() for name in names[first:] + names[:first]}
        if number > 0:
            for name, value in now.items():
                found[name].append(value)
    return found


def show(found: dict[str, list[float]]) -> None:
    """Print least and median; the least is what can be compared where others use the machine."""
    least = min(found[BARE])
    for name, values in found.items():
        print(
            f"{name:20s} {min(values):7.0f} us a request at least, {statistics.median(values):.0f} "
            f"in the middle; {min(values) / least - 1:+.1%} against {BARE!r}"
        )


async def parts(engine: str) -> None:
    """Print what each part takes by itself, at least."""
    flags = {"worker_urls": [engine], "intra_node_data_parallel_size": NUM_RANKS, "port": 0}
    async with running_router(read_config(None, flags)) as (router, _):
        meters, dashboard = router.meters, router.dashboard

        def count() -> None:
            router.parts.counters.requests.labels("200").inc()
            meters.wait.observe(0.01)
            meters.tokens.inc(16)
            meters.plan.observe(1e-4)

        def step() -> None:
            now_s[0] += 0.05
            for rank in range(NUM_RANKS):
                router.parts.barrier.step(rank, 1, now_s[0])

        def explain() -> None:
            reasons(view, pool, plan)

        now_s, slots = [0.0], np.full(NUM_RANKS, 72)
        ranks = router.group.ledger.ranks
        view = GroupView.of_accounts(
            ranks,
            ranks,
            now_s=0.0,
            is_immediate=False,
            num_slots=slots,
            kv_capacity_tokens=10_000 * slots,
        )
        pool, plan = PoolView.of_prompts([300]), Plan.oldest(np.array([1]))
        for what, call in (
            ("what a request counts, with a plan of its own", count),
            ("a step of the group", step),
            ("an update of the page, of which there are five a second", dashboard.message),
            ("a decision on the page, at most sixty a second", explain),
            ("a scrape", meters.text),
        ):
            took_s = min(timeit.repeat(call, number=5, repeat=300)) / 5
            print(f"{what}: {1e6 * took_s:.1f} us")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--streams", type=int, default=576, help="at a time")
    parser.add_argument("--gap-ms", type=float, default=60.0, help="between a stream's 16 tokens")
    parser.add_argument("--policy", default="br_auto")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing outlives it
    print(describe_machine())
    with ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
        engine_port = free_port()
        mock = [sys.executable, "-m", "bench.http.mock", str(engine_port), str(NUM_RANKS)]
        stack.enter_context(process(mock, log))
        engine = f"http://127.0.0.1:{engine_port}"
        wait_for(engine + "/health")
        size = ["--intra-node-data-parallel-size", str(NUM_RANKS), "--slots", "1024"]
        flags = ["serve", "--worker-urls", engine, *size, "--policy", chosen.policy]

        def router(program: list[str], *more: str) -> tuple[str, int]:
            url = f"http://127.0.0.1:{(port := free_port())}"
            command = [*program, *flags, *more, "--port", str(port), "--log-level", "warning"]
            server = stack.enter_context(process(command, log))
            wait_for(f"{url}/v1/models")
            return url, server.pid

        def of(where: tuple[str, int], *, is_watched: bool = False) -> float:
            return uvloop.run(cost_us(*where, chosen, is_watched=is_watched))

        bare = router([sys.executable, "-m", "bench.http.unmeasured"])
        real = router([COMMAND])
        measure = {
            BARE: lambda: of(bare),
            ALONE: lambda: of(real),
            WATCHED: lambda: of(real, is_watched=True),
        }
        if importlib.util.find_spec("opentelemetry.sdk") is not None:
            traced = router([COMMAND], "--otlp-traces-endpoint", engine)  # which takes anything
            measure[TRACED] = lambda: of(traced)
        uvloop.run(parts(engine))
        show(rounds(measure, chosen.rounds))


if __name__ == "__main__":
    main()
