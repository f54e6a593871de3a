"""The live page: what it is told, and how it does in a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import aiohttp.test_utils
import msgspec
import pytest

from balanceroute.live.app import running_router
from balanceroute.live.config import read_config
from balanceroute.live.dashboard import EVENTS_PATH, FILES, page_file
from tests.live.browser import PROGRAM, Page, browsing
from tests.live.fake_engine import Client, FakeEngine, metrics_of, routing, run, serving, until

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
BASE_LOAD = 10_000


async def states(client: Client, count: int, path: str = "") -> list[dict[str, Any]]:
    """Return the first states that a page is told."""
    found: list[dict[str, Any]] = []
    async with client.session.get((path or client.url) + EVENTS_PATH) as answer:
        assert 200 == answer.status
        async for line in answer.content:
            if line.startswith(b"data: "):
                found.append(msgspec.json.decode(line[6:]))
            if len(found) == count:
                return found
    raise AssertionError("the stream has ended")


@contextlib.asynccontextmanager
async def a_group(num_ranks: int, **settings: object) -> AsyncIterator[Client]:
    """Run a router in front of ranks that seem to be busy."""
    async with serving(FakeEngine()) as engine:
        engine.metrics = metrics_of([(0, 0)] * num_ranks)
        more: dict[str, object] = {"intra_node_data_parallel_size": num_ranks, **settings}
        async with routing(engine, **more) as client:
            yield client


def load(client: Client, turn: int = 0) -> None:
    """Let the ranks seem to hold something."""
    ranks = client.router.group.ledger.ranks
    for rank in range(len(ranks)):
        ranks["load_tokens"][rank] = BASE_LOAD * (rank % 5 + 3) + (turn * 131 + rank * 977) % 5000
        ranks["due_tokens"][rank] = 2000 * (rank % 3)
        ranks["num_running"][rank] = 40 + rank % 20


def test_pages_are_told_five_times_a_second() -> None:
    """Loads, pool, and why the latest requests went where they went."""

    async def test() -> None:
        async with a_group(2) as client:
            asking = asyncio.create_task(states(client, 6))
            await until(lambda: len(client.router.dashboard._watchers) == 1)
            await client.post(headers={"X-Request-Id": "mine"})
            began_s = asyncio.get_running_loop().time()
            told = await asking
            assert asyncio.get_running_loop().time() - began_s < 10.0
            assert [] == told[0]["history"]
            assert "mine" == told[-1]["decisions"][0]["name"]
            assert 1 == len(told[-1]["decisions"][0]["others"])
            assert {"costs", "fit", "bound"} > {told[0]["basis"]}
            assert told[0]["idle"] is None  # no step has been seen: not a zero
            await until(lambda: not client.router.dashboard._watchers)

    run(test())


def test_the_page_is_open_and_what_it_shows_is_not() -> None:
    """With keys the stream asks for one; the page itself holds nothing to hide."""

    async def test() -> None:
        async with a_group(1, api_keys=["secret"]) as client:
            for path in FILES:
                status, _ = await client.get(path)
                assert 200 == status
            async with client.session.get(client.url + EVENTS_PATH) as answer:
                assert 401 == answer.status

    run(test())


def test_nothing_comes_from_elsewhere() -> None:
    """No file names another host, and the browser is told to ask none."""
    for path in FILES:
        answer = page_file(path)
        assert isinstance(answer.body, bytes)
        assert [] == re.findall(rb"https?://", answer.body)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_an_open_page_does_not_hold_up_the_end() -> None:
    """Its stream ends first, instead of being waited for."""

    async def test() -> None:
        async with aiohttp.ClientSession() as session:
            async with a_group(1, shutdown_timeout_secs=20.0) as client:
                page = Client(session, client.router, client.url)
                asking = asyncio.create_task(states(page, 10_000))
                await until(lambda: len(client.router.dashboard._watchers) == 1)
                began_s = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - began_s < 8.0
            with pytest.raises(AssertionError, match="the stream has ended"):
                await asking

    run(test())


@contextlib.asynccontextmanager
async def administered(engine: FakeEngine) -> AsyncIterator[tuple[Client, str]]:
    """Run a router with a port for administrators; give that port's URL, too."""
    with_port = aiohttp.test_utils.unused_port()
    flags = {
        "worker_urls": [engine.url],
        "policy": "fcfs",
        "slots": 4,
        "port": 0,
        "admin_port": with_port,
        "admin_token": "token",
    }
    async with running_router(read_config(None, flags)) as (router, port):
        async with aiohttp.ClientSession() as session:
            client = Client(session, router, f"http://127.0.0.1:{port}")
            yield client, f"http://127.0.0.1:{with_port}"


def test_administrators_change_the_policy() -> None:
    """With the token only; a policy that there is not leaves the present one, and says what is."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, administered(engine) as (client, url):
            shown = {"Authorization": "Bearer token"}
            async with client.session.post(url + "/policy", json={"policy": "br_0"}) as answer:
                assert 401 == answer.status
            for spec, words in (("br_9", "br_0"), ("br_0,no=1", "no"), ("x.py:P", "policy")):
                body = {"policy": spec}
                async with client.session.post(url + "/policy", json=body, headers=shown) as answer:
                    assert 400 == answer.status
                    assert words in (await answer.json())["error"]["message"]
                assert "fcfs" == client.router.parts.policy_now
            body = {"policy": "least_tokens"}
            async with client.session.post(url + "/policy", json=body, headers=shown) as answer:
                assert {"policy": "least_tokens"} == await answer.json()
            _, page = await client.get("/metrics")
            assert b'balanceroute_policy_info{policy="least_tokens"} 1.0' in page
            assert b"fcfs" not in page
            status, _, _ = await client.post()
            assert 200 == status

    run(test())


CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const rgb = parse(getComputedStyle(node).backgroundColor);
      if (rgb.length < 4 || rgb[3] > 0) return rgb;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
    if (!own || !node.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${node.tagName}#${node.id}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()"""
NAMELESS = """[...document.querySelectorAll("button, input, summary, [role=img], [role=region]")]
  .filter((n) => !(n.ariaLabel || n.textContent.trim() || n.labels?.length))
  .map((n) => n.outerHTML)"""
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
    """Text stands out by 4.5 to 1 (WCAG 2.2, AA), controls have names, nothing is cut off."""

    async def test() -> None:
        async with a_group(8) as client, browsing() as page:
            await opened(page, client, width=width, scheme=scheme)
            await page.run("document.querySelector('details').open = true")
            assert [] == await page.run(CONTRAST)
            assert [] == await page.run(NAMELESS)
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
