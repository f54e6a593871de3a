"""A headless Chromium, driven over its own protocol: no package is needed for that."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-sandbox",  # as root, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
)


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.urls: list[str] = []  # that were asked for
        self.faults: list[str] = []  # exceptions, and what the console complains about
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            told = message.json()
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            elif told["method"] == "Network.requestWillBeSent":
                self.urls.append(told["params"]["request"]["url"])
            elif told["method"] == "Runtime.exceptionThrown":
                self.faults.append(str(told["params"]["exceptionDetails"]))
            elif told["method"] == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                self.faults.append(told["params"]["entry"]["text"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        told = await asyncio.wait_for(answer, 60.0)
        assert "error" not in told, told
        result: dict[str, Any] = told["result"]
        return result

    async def look(self, *, width: int, scheme: str, motion: str = "no-preference") -> None:
        """Show pages in a window of some width, with what the reader prefers."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def open(self, url: str) -> None:
        """Go to a page."""
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Performance.enable", timeDomain="threadTicks")
        await self.call("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """Return what an expression gives, or the promise that it is."""
        told = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, script: str, within_s: float = 30.0) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(within_s):
            while not await self.run(script):
                await asyncio.sleep(0.05)

    async def press(self, key: str, text: str = "") -> None:
        """Press a key."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        about = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0), "text": text}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **about)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    async def metrics(self) -> dict[str, float]:
        """Return what the browser counts of the page, by its own names."""
        told = await self.call("Performance.getMetrics")
        return {its["name"]: float(its["value"]) for its in told["metrics"]}

    async def busy_s(self) -> float:
        """Return how long the main thread has worked so far, without waits for a processor."""
        return (await self.metrics())["TaskDuration"]

    async def picture(self, path: Path) -> None:
        """Save the whole page as PNG."""
        told = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))


@contextlib.asynccontextmanager
async def browsing() -> AsyncIterator[Page]:
    """Run a browser with one tab; nothing of it is left afterwards."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = await asyncio.create_subprocess_exec(
            PROGRAM, *FLAGS, f"--user-data-dir={folder}", stderr=asyncio.subprocess.PIPE
        )
        try:
            port = await _port(browser)
            async with aiohttp.ClientSession() as session:
                async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
                    url = (await answer.json(content_type=None))["webSocketDebuggerUrl"]
                async with session.ws_connect(url, max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            browser.kill()
            await browser.wait()


async def _port(browser: asyncio.subprocess.Process) -> str:
    assert browser.stderr is not None
    async with asyncio.timeout(60.0):
        while line := await browser.stderr.readline():
            if found := re.search(rb"DevTools listening on ws://[^:]+:(\d+)", line):
                return found[1].decode()
    raise AssertionError("the browser has ended")
