"""Take pictures of the live page, of an emulated group under load; run from the repository's root.

``.venv/bin/python -m bench.screenshots --out docs/_build/pictures`` needs Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from pathlib import Path

from balanceroute.loadgen import LoadConfig, read_requests, replay
from examples.demo import NUM_RANKS, NUM_SLOTS, SCENARIOS, command
from tests.live.browser import browsing

LOOKS = [(1600, "light"), (1600, "dark"), (1000, "light"), (380, "light"), (380, "dark")]


async def pictures(url: str, out: Path, wait_s: float, preset: str) -> None:
    """Keep the group busy, and look at it in every width and theme."""
    concurrency = NUM_RANKS * NUM_SLOTS + 32
    config = LoadConfig(url=url, concurrency=concurrency, warmup_s=0.0, duration_s=600.0)
    workload, _ = read_requests(preset, config)
    stop = asyncio.Event()
    load = asyncio.create_task(replay(workload, config, stop=stop))
    async with browsing() as page:
        for number, (width, scheme) in enumerate(LOOKS):
            await page.look(width=width, scheme=scheme)
            if number == 0:
                await page.open(f"{url}/dashboard")
                await asyncio.sleep(wait_s)
            await asyncio.sleep(2.0)
            await page.picture(out / f"dashboard-{width}-{scheme}.png")
    stop.set()
    await load


def main() -> None:
    """Start an emulated group and a router, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds of history to show")
    parser.add_argument("--preset", default="azure-2024-conv", help="see `balanceroute trace list`")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    size = ["--ranks", str(NUM_RANKS), "--slots", str(NUM_SLOTS), "--port", "0"]
    pace = ["--speedup", "0.3", "--stream-interval", "16"]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".log"))
        flags = SCENARIOS[1].flags
        engine = stack.enter_context(command(["emulate", *size, *pace, *flags], log))
        where = ["--worker-urls", engine, "--intra-node-data-parallel-size", str(NUM_RANKS)]
        limits = ["--slots", str(NUM_SLOTS), "--port", "0"]
        url = stack.enter_context(command(["serve", *where, *limits, *flags], log))
        asyncio.run(pictures(url, chosen.out, chosen.wait, chosen.preset))
    print(*sorted(str(path) for path in chosen.out.glob("*.png")), sep="\n")


if __name__ == "__main__":
    main()
