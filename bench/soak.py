"""Keep the live page open for an hour while its router is killed and started anew: ``make soak``.

Needs Chromium. Every minute the page's memory after a collection, what it holds of the document,
and how busy its main thread has been are printed. Exit code 1 says that the page did not find the
new router, raised an exception, was too busy, or has grown once its ten minutes of history were
full.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO

from bench.http.run import free_port
from bench.live_page import emulated_group, loaded, router_of
from tests.live.browser import Page, browsing

FIND_S = 60.0  # for a router to start and the page to find it
FULL_HISTORY_S = 660.0  # when the page has all that it ever keeps
MAX_BUSY_RATIO, MAX_GROWTH_RATIO = 0.2, 0.1
LIVE = "window.connection?.textContent === 'Live'"
HEAD = f"{'minute':>6s} {'heap MB':>8s} {'nodes':>6s} {'listeners':>9s} {'main thread busy':>16s}"


@dataclass(frozen=True, slots=True)
class Look:
    """What the page is at one moment.

    Attributes
    ----------
    at_s : float
        When, from the start on.
    heap_bytes, num_nodes, num_listeners : float
        After a collection.
    busy_ratio : float
        Of the main thread's time since the look before.
    """

    at_s: float
    heap_bytes: float
    num_nodes: float
    num_listeners: float
    busy_ratio: float

    def __str__(self) -> str:
        counts = f"{self.num_nodes:6.0f} {self.num_listeners:9.0f}"
        return (
            f"{self.at_s / 60:6.1f} {self.heap_bytes / 1e6:8.2f} {counts} {self.busy_ratio:16.1%}"
        )


async def looks(page: Page, began_s: float, end_s: float, every_s: float) -> list[Look]:
    """Look at the page every so often until some time; print what is there."""
    found = []
    while time.monotonic() < end_s:
        busy_s, since_s = await page.busy_s(), time.monotonic()
        await asyncio.sleep(min(every_s, max(0.0, end_s - since_s)))
        busy_ratio = (await page.busy_s() - busy_s) / (time.monotonic() - since_s)
        await page.call("HeapProfiler.collectGarbage")
        its = await page.metrics()
        counts = (its["JSHeapUsedSize"], its["Nodes"], its["JSEventListeners"])
        found.append(Look(time.monotonic() - began_s, *counts, busy_ratio))
        print(found[-1], flush=True)
    return found


async def soak(chosen: argparse.Namespace, engine: str, log: IO[bytes]) -> list[str]:
    """Open the page once, and run one router after the other; return what was wrong."""
    port, found, num_routers = free_port(), list[Look](), 0
    async with browsing() as page:
        began_s = time.monotonic()
        end_s = began_s + 60.0 * chosen.minutes
        print(HEAD)
        while time.monotonic() < end_s:
            with router_of(engine, log, port) as url:
                async with loaded(url, chosen.preset, chosen.concurrency):
                    if num_routers == 0:
                        await page.look(width=1600, scheme="light")
                        await page.open(f"{url}/dashboard")
                    await page.until(LIVE, within_s=FIND_S)
                    until_s = min(end_s, time.monotonic() + 60.0 * chosen.restart_minutes)
                    found += await looks(page, began_s, until_s, chosen.every)
            num_routers += 1
            await page.until(f"!({LIVE})")
            print(f"{'':6s} router {num_routers} has gone, and the page says so", flush=True)
        exceptions = [fault for fault in page.faults if "ERR_" not in fault]
    return [*troubles(found), *exceptions]


def troubles(found: list[Look]) -> list[str]:
    """Return what is beyond its limit."""
    busiest = max(look.busy_ratio for look in found)
    full = [look.heap_bytes for look in found if look.at_s >= FULL_HISTORY_S]
    wrong = []
    if busiest >= MAX_BUSY_RATIO:
        wrong.append(f"the main thread was busy {busiest:.1%} of a minute")
    if len(full) < 4:
        print("too short to tell whether memory grows: the history takes ten minutes to fill")
        return wrong
    early, late = full[: len(full) // 2], full[len(full) // 2 :]
    growth = statistics.median(late) / statistics.median(early) - 1.0
    print(
        f"heap from the first to the second half after {FULL_HISTORY_S / 60:g} min: {growth:+.1%}"
    )
    if growth > MAX_GROWTH_RATIO:
        wrong.append(f"the heap has grown by {growth:.1%}")
    return wrong


def main() -> None:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long the page stays open")
    parser.add_argument("--restart-minutes", type=float, default=10.0, help="a router's life")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two looks")
    parser.add_argument("--concurrency", type=int, default=64, help="requests at a time")
    parser.add_argument("--preset", default="azure-2024-conv", help="see `balanceroute trace list`")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing outlives it
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".log"))
        engine = stack.enter_context(emulated_group(log))
        wrong = asyncio.run(soak(chosen, engine, log))
    print(*(wrong or ["the page lives"]), sep="\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
