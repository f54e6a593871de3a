"""The live page: what it shows, five times a second, and the files that it is made of."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from importlib import resources
from typing import Any

import msgspec
from aiohttp import web

from balanceroute import __version__
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.live.answers import Refusal
from balanceroute.live.decisions import reasons
from balanceroute.live.parts import Parts
from balanceroute.policies.base import Plan

PATH, EVENTS_PATH = "/dashboard", "/dashboard/events"
FILES = {
    PATH: ("dashboard.html", "text/html"),
    "/dashboard/dashboard.css": ("dashboard.css", "text/css"),
    "/dashboard/dashboard.js": ("dashboard.js", "text/javascript"),
}
INTERVAL_S = 0.2
NUM_DECISIONS, NUM_HISTORY, HISTORY_EVERY = 12, 600, 5  # ten minutes, a point per second
MAX_WATCHERS = 32  # pages that are open at the same time
NO_OUTSIDE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
)
HEADERS = {
    "Content-Security-Policy": f"{NO_OUTSIDE}; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_file(path: str) -> web.Response:
    """Return one of the files of the page."""
    name, kind = FILES[path]
    body = resources.files("balanceroute.live").joinpath("page", name).read_bytes()
    return web.Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)


class Dashboard:
    """Tells every page that is open how the group is; does next to nothing while none is.

    Parameters
    ----------
    parts : Parts
        Whose state is shown.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._decisions: deque[dict[str, Any]] = deque(maxlen=NUM_DECISIONS)
        self._history: deque[float | None] = deque(maxlen=NUM_HISTORY)
        self._sums, self._has_left = (0.0, 0.0), False
        self._due_s = -math.inf  # when the next decision is taken down
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._task = asyncio.get_running_loop().create_task(self._tell())
        self._encode = msgspec.json.Encoder().encode
        parts.group.plan_watchers.append(self._note_plan)

    async def stop(self) -> None:
        """Tell nobody anything more."""
        self.leave()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def leave(self) -> None:
        """End all pages' streams, and begin none; they try again by themselves."""
        self._has_left = True
        for latest in self._watchers:
            if latest.full():
                latest.get_nowait()
            latest.put_nowait(b"")

    async def events(
        self, request: web.BaseRequest, policies: list[str] | None = None
    ) -> web.StreamResponse:
        """Send the state as server-sent events, until the page goes away.

        Parameters
        ----------
        request
            Of the page.
        policies : list of str or None
            Names among which whoever asks may choose.
        """
        if self._has_left:
            raise Refusal(503, "the router stops", "stopping")
        if len(self._watchers) >= MAX_WATCHERS:
            raise Refusal(503, f"{MAX_WATCHERS} pages are open; close one", "too_many_pages")
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"} | HEADERS)
        await answer.prepare(request)
        latest: asyncio.Queue[bytes] = asyncio.Queue(1)
        history = {"history": list(self._history), "history_s": INTERVAL_S * HISTORY_EVERY}
        first = self.state() | history | {"policies": policies}
        await answer.write(_event(self._encode(first)))
        self._watchers.add(latest)
        try:
            while message := await latest.get():  # nothing: the router stops
                await answer.write(message)
        except ConnectionError:  # it has gone
            return answer
        finally:
            self._watchers.discard(latest)
        return answer

    def state(self) -> dict[str, Any]:
        """Return what a page shows."""
        parts, group = self._parts, self._parts.group
        ranks = group.ledger.ranks
        return {
            "version": __version__,
            "policy": parts.policy_now,
            "shadow": parts.shadow.summary if parts.shadow is not None else "",
            "barrier": parts.config.barrier,
            "basis": parts.barrier.basis,
            "idle": self._history[-1] if self._history else None,
            "load": ranks["load_tokens"].tolist(),
            "due": ranks["due_tokens"].tolist(),
            "running": (ranks["num_running"] + ranks["num_waiting"]).tolist(),
            "slots": group.num_slots.tolist(),
            "open": [bool(is_open) for is_open in parts.health.is_open],
            "pool": parts.num_waiting,
            "wait_s": group.oldest_wait_s,
            "signals": parts.meters.has_signals,
            "decisions": list(self._decisions),
        }

    def message(self, turn: int = 0) -> bytes:
        """Return the state as pages are told it."""
        return _event(self._encode(self.state() | {"turn": turn}))

    def _note_plan(self, view: GroupView, pool: PoolView, plan: Plan) -> None:
        if self._watchers and len(plan) > 0 and view.now_s >= self._due_s:
            self._due_s = view.now_s + INTERVAL_S / NUM_DECISIONS  # what an update can show
            last = Plan(plan.requests[:1], plan.ranks[:1])
            why = reasons(view, pool, last)[0]
            name = self._parts.group.name_of(why["request"])
            tokens = int(pool.prompt_tokens[plan.requests[0]])
            self._decisions.append(why | {"name": name[:40], "tokens": tokens, "of": len(plan)})

    async def _tell(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(INTERVAL_S)
            turn += 1
            if turn % HISTORY_EVERY == 0:
                self._history.append(self._idle_ratio())
            if not self._watchers:
                continue
            message = self.message(turn)
            for latest in self._watchers:
                if latest.full():  # a page that is slow gets what is new, not what it has missed
                    latest.get_nowait()
                latest.put_nowait(message)

    def _idle_ratio(self) -> float | None:
        """Return the part of the time waited at the barrier since the last call; None: no steps."""
        sums = self._parts.barrier.sums
        now = (sum(sums.idle_s.values()), sum(sums.rank_s.values()))
        before, self._sums = self._sums, now
        if now[1] <= before[1]:
            return None
        return (now[0] - before[0]) / (now[1] - before[1])


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


async def show_file(request: web.BaseRequest) -> web.StreamResponse:
    """Answer with a file of the page."""
    return page_file(request.path)
