"""Take pictures of the live page, of an emulated group under load: ``make screenshots``.

Needs Chromium. They lie in `docs/_pictures`, where `make docs` puts them into the page about
operating.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from pathlib import Path

from bench.live_page import FULL, emulated_group, loaded, router_of
from tests.live.browser import browsing

LOOKS = [(1600, "light"), (1600, "dark"), (1000, "light"), (380, "light"), (380, "dark")]


async def pictures(url: str, out: Path, wait_s: float, preset: str) -> None:
    """Keep the group busy, and look at it in every width and theme."""
    async with loaded(url, preset, FULL), browsing() as page:
        for number, (width, scheme) in enumerate(LOOKS):
            await page.look(width=width, scheme=scheme)
            if number == 0:
                await page.open(f"{url}/dashboard")
                await asyncio.sleep(wait_s)
            await asyncio.sleep(2.0)
            await page.picture(out / f"dashboard-{width}-{scheme}.png")


def main() -> None:
    """Start an emulated group and a router, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds of history to show")
    parser.add_argument("--preset", default="azure-2024-conv", help="see `balanceroute trace list`")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".log"))
        engine = stack.enter_context(emulated_group(log))
        url = stack.enter_context(router_of(engine, log))
        asyncio.run(pictures(url, chosen.out, chosen.wait, chosen.preset))
    print(*sorted(str(path) for path in chosen.out.glob("*.png")), sep="\n")


if __name__ == "__main__":
    main()
