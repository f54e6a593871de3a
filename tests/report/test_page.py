"""The report in a real browser: either theme and width, by keys, and with nothing from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from balanceroute.report.html import write_report
from tests.live.axe import faults_of
from tests.live.browser import PROGRAM, Page, browsing
from tests.live.fake_engine import run
from tests.report.test_html import two_policies

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed"),
    pytest.mark.slow,
]
DRAWN = "document.querySelectorAll('.plot .main-svg').length > 0"
FOCUSED = "document.activeElement.id || document.activeElement.tagName"
OUTLINE = "getComputedStyle(document.activeElement).outlineWidth"


async def opened(page: Page, folder: Path, *, width: int, scheme: str, motion: str = "") -> None:
    """Write a report and open it as the file that it is."""
    result, runs = two_policies()
    path = folder / "report.html"
    write_report(result, runs, path, command="balanceroute simulate mooncake-conversation")
    await page.look(width=width, scheme=scheme, motion=motion or "no-preference")
    await page.open(path.as_uri())
    await page.until(DRAWN)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1600])
def test_it_can_be_read_in_either_theme_and_width(tmp_path: Path, scheme: str, width: int) -> None:
    """Nothing that axe-core would blame, nothing cut off, nothing fetched."""

    async def test() -> None:
        async with browsing() as page:
            await opened(page, tmp_path, width=width, scheme=scheme)
            await page.run("document.querySelector('details').open = true")
            assert [] == await faults_of(page)
            assert await page.run("document.documentElement.scrollWidth <= innerWidth")
            assert [] == page.faults
            assert [] == [url for url in page.urls if not url.startswith(("file:", "data:"))]

    run(test(), within_s=120.0)


def test_keys_reach_what_it_offers_and_nothing_moves(tmp_path: Path) -> None:
    """The theme, the links to definitions, the tables that scroll and the figures behind them."""

    async def test() -> None:
        async with browsing() as page:
            await opened(page, tmp_path, width=800, scheme="light", motion="reduce")
            assert 0 == await page.run("document.getAnimations().length")
            seen = []
            for _ in range(40):
                await page.press("Tab")
                seen.append(await page.run(FOCUSED))
                if seen[-1] == "BODY":
                    break
                assert "3px" == await page.run(OUTLINE)
                if seen[-1] in ("theme", "SUMMARY"):
                    await page.press("Enter", "\r")
            assert {"theme", "A", "DIV", "SUMMARY", "PRE"} <= set(seen)
            assert "light" == await page.run("document.documentElement.dataset.theme")
            assert await page.run("document.querySelector('details').open")

    run(test(), within_s=120.0)
