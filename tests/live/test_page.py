"""The live page in a real browser: themes, widths, keys, motion, and what axe-core finds."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.live.axe import faults_of
from tests.live.browser import PROGRAM, Page, browsing
from tests.live.fake_engine import Client, FakeEngine, run, serving
from tests.live.shown import a_group, administered, load

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
SHOWN = """document.readyState === 'complete' &&
  document.querySelectorAll('.rank').length > 0 && pool.textContent !== '–'"""


async def opened(page: Page, client: Client, **look: Any) -> None:
    """Open the page and wait until it shows the group."""
    load(client)
    await page.look(**look)
    await page.open(client.url + "/dashboard")
    await page.until(SHOWN)


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1600])
def test_it_can_be_read_in_either_theme_and_width(scheme: str, width: int) -> None:
    """Text stands out, controls have names (axe-core), nothing is cut off or asked elsewhere."""

    async def test() -> None:
        async with a_group(8) as client, browsing() as page:
            await opened(page, client, width=width, scheme=scheme)
            client.router.health.drain(1, is_draining=True)
            said = "document.getElementById('trouble').textContent"
            await page.until(f"{said}.startsWith('Closed: rank 1')")
            await page.run("document.querySelector('details').open = true")
            assert [] == await faults_of(page)
            assert await page.run("document.documentElement.scrollWidth <= innerWidth")
            assert "Not" not in await page.run("connection.textContent")
            assert [] == page.faults
            hosts = {url.split("/")[2] for url in page.urls if url.startswith("http")}
            assert {client.url.removeprefix("http://")} == hosts

    run(test(), within_s=120.0)


@needs_browser
@pytest.mark.slow
def test_it_moves_only_where_that_is_wanted_and_by_keys_alone() -> None:
    """Reduced motion stops the bars' transition; Tab reaches every control, keys work them."""

    async def test() -> None:
        async with a_group(4) as client, browsing() as page:
            await opened(page, client, width=800, scheme="light", motion="reduce")
            moves = "getComputedStyle(document.querySelector('.bar i')).transitionDuration"
            assert "0s" == await page.run(moves)
            seen = []
            for _ in range(6):
                await page.press("Tab")
                seen.append(
                    await page.run("document.activeElement.id || document.activeElement.tagName")
                )
                assert "3px" == await page.run(
                    "getComputedStyle(document.activeElement).outlineWidth"
                )
                if seen[-1] == "SUMMARY":
                    await page.press("Enter", "\r")
                if seen[-1] == "hold":
                    await page.press(" ", " ")
                    break
            assert await page.run("document.querySelector('details').open")
            assert "true" == await page.run("hold.ariaPressed")
            await page.until("document.querySelectorAll('#rank-rows tr').length === 4")
            await page.look(width=800, scheme="light")
            assert "0.2s" == await page.run(moves)

    run(test(), within_s=120.0)


@needs_browser
@pytest.mark.slow
def test_it_follows_144_ranks_and_a_restart() -> None:
    """Five updates a second leave four fifths of the main thread; a new router is found again."""

    async def test() -> None:
        async with browsing() as page:
            async with a_group(144) as client:
                port = int(client.url.rpartition(":")[2])
                await opened(page, client, width=1600, scheme="dark")
                await asyncio.sleep(1.0)
                busy_s, began_s = await page.busy_s(), time.monotonic()
                for turn in range(25):
                    load(client, turn)
                    await asyncio.sleep(0.2)
                assert (await page.busy_s() - busy_s) / (time.monotonic() - began_s) < 0.2
            await page.until("connection.textContent.startsWith('Not connected')")
            async with a_group(2, port=port) as client:
                load(client)
                await page.until("document.querySelectorAll('.rank').length === 2")
                assert "Live" == await page.run("connection.textContent")

    run(test(), within_s=120.0)


@needs_browser
@pytest.mark.slow
def test_administrators_switch_in_the_page() -> None:
    """The page asks for the token, and then shows the means."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, administered(engine) as (client, url):
            async with browsing() as page:
                load(client)
                await page.look(width=1000, scheme="light")
                await page.open(url + "/dashboard")
                await page.until("document.getElementById('key-form')?.hidden === false")
                assert await page.run("admin.hidden")
                click = "document.querySelector('#{}-form button').click()"
                await page.run("key.value = 'token';" + click.format("key"))
                await page.until("!admin.hidden")
                await page.run("spec.value = 'br_9';" + click.format("policy"))
                answer = "document.getElementById('policy-answer').textContent"
                await page.until(f"{answer}.includes('br_9')")
                await page.run("spec.value = 'least_tokens';" + click.format("policy"))
                await page.until("policy.textContent === 'least_tokens'")

    run(test(), within_s=120.0)
