"""A process that carries requests, and asks another where to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from balanceroute.live.addresses import RankAddress
from balanceroute.live.answers import no_brain
from balanceroute.live.carrying import Counting
from balanceroute.live.clients import ClientServer
from balanceroute.live.config import ServeConfig
from balanceroute.live.counters import Counters
from balanceroute.live.counting import NoCounting, counting_of
from balanceroute.live.decision_api.definition import HTTP_PATHS, PROTO_PATH
from balanceroute.live.handling import Handler, Handling, liveness
from balanceroute.live.listening import CLOSE_S, listen_on
from balanceroute.live.passing import PassThrough
from balanceroute.live.processes.desk import Desk
from balanceroute.live.processes.orders import Report, Start, follow, report
from balanceroute.live.processes.sockets import FOR_PAGES, FOR_PLANES
from balanceroute.live.processes.words import Counted, Talk, Told, brain_decoder
from balanceroute.live.prompts import PromptCounter
from balanceroute.live.proxy import Proxy
from balanceroute.live.upstream import open_session
from balanceroute.live.wire import PATHS

COUNT_S = 0.1  # between two words of what has been counted
AGAIN_S = 0.05  # until the brain is called again
OF_BRAIN = ("/readiness", "/metrics", "/workers", "/version", "/dashboard", "/dashboard/events")
PAGE_FILES = ("/dashboard/dashboard.css", "/dashboard/dashboard.js")

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True, kw_only=True)
class PlaneParts:
    """What a data plane is made of; as far as `Parts` has the same names, they mean the same."""

    config: ServeConfig
    addresses: list[RankAddress]
    session: aiohttp.ClientSession
    prompts: PromptCounter
    health: Desk
    counters: Counters
    counting: Counting
    prefill: None = None
    unanswered: None = None
    is_stopping: bool = False


class Plane:
    """Carries requests, and keeps in touch with the brain.

    Parameters
    ----------
    start : Start
        What it was told first.
    session : aiohttp.ClientSession
        To ask engines with.
    """

    def __init__(self, start: Start, session: aiohttp.ClientSession) -> None:
        config, prompts = start.in_force.config, PromptCounter()
        self.desk = Desk(start.plane, config.processes, prompts)
        self.parts = PlaneParts(
            config=config,
            addresses=start.in_force.addresses,
            session=session,
            prompts=prompts,
            health=self.desk,
            counters=Counters(CollectorRegistry()),
            counting=NoCounting(),
        )
        self.parts.counting = counting_of(self.parts)
        self._path = str(Path(start.folder, FOR_PLANES))
        self._talk: Talk | None = None
        self.is_in_touch = False
        self._changed = asyncio.Event()

    async def keep_in_touch(self) -> None:
        """Call the brain, whenever there is none, until this is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.create_unix_connection(self._connect, self._path)
            except OSError:  # it is being replaced
                self._talk = None
                await asyncio.sleep(AGAIN_S)
            while self._talk is not None:
                await self._changed.wait()
                self._changed.clear()

    def _connect(self) -> Talk:
        # Known before anything is heard over it, or it is lost.
        self._talk = Talk(brain_decoder, self._hear, self._lose)
        return self._talk

    def _hear(self, words: list[Any]) -> None:
        for word in words:
            if isinstance(word, Told):
                self.parts.config = word.config
                self.parts.addresses[:] = [RankAddress(url, rank) for url, rank in word.ranks]
            else:
                self.desk.take(word)
        if not self.is_in_touch and self._talk is not None:
            self.is_in_touch = True
            self.desk.join(self._talk.say)
            self._changed.set()

    def _lose(self) -> None:
        was_in_touch, self.is_in_touch, self._talk = self.is_in_touch, False, None
        self._changed.set()
        if was_in_touch:
            log.warning("the brain is gone; requests go by the loads that were known last")
            self.desk.leave()

    async def meet(self) -> None:
        """Wait until there is a brain."""
        while not self.is_in_touch:
            await asyncio.sleep(AGAIN_S)

    async def tell_counts(self) -> None:
        """Tell again and again what has been counted here, until this is cancelled."""
        while True:
            await asyncio.sleep(COUNT_S)
            self.tell_count()

    def tell_count(self) -> None:
        """Tell what has been counted since the last time, if there is a brain."""
        if self.is_in_touch and self._talk is not None:
            self._talk.say(Counted(self.parts.counters.take(), time.process_time()))

    def close(self) -> None:
        """Say the last words."""
        self.tell_count()
        self.is_in_touch = False
        if self._talk is not None:
            self._talk.close()


async def run_plane(start: Start) -> None:
    """Carry requests until told to stop, and those that have come to their end."""
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session())
        pages = await stack.enter_async_context(_to_pages(Path(start.folder, FOR_PAGES)))
        plane = Plane(start, session)
        stack.callback(plane.parts.counting.stop)
        stack.callback(plane.close)
        for work in (plane.keep_in_touch(), plane.tell_counts()):
            stack.callback(asyncio.create_task(work).cancel)
        serving = asyncio.create_task(_serve(stack, plane, pages, start.sockets[0]))
        orders = asyncio.create_task(follow({}))
        await asyncio.wait({serving, orders}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            await orders
        else:  # there has been no brain yet
            serving.cancel()


async def _serve(
    stack: contextlib.AsyncExitStack, plane: Plane, pages: aiohttp.ClientSession, number: int
) -> None:
    """Let clients in as soon as there is a brain, until the stack is left."""
    await plane.meet()
    server = ClientServer(_handler(plane, pages), plane.parts)
    runner = web.ServerRunner(server, shutdown_timeout=CLOSE_S)
    await listen_on(stack, runner, socket.socket(fileno=number))
    report(Report(is_up=True))


def _handler(plane: Plane, pages: aiohttp.ClientSession) -> Handler:
    """Return what answers clients."""
    parts = plane.parts
    to_brain = PassThrough(parts, brain=pages).answer

    async def ask_brain(request: web.BaseRequest) -> web.StreamResponse:
        if not plane.is_in_touch:  # its socket outlives it, and would let this wait for the next
            raise no_brain()
        return await to_brain(request)

    generate = Proxy(parts, plane.desk).generate
    paths: dict[tuple[str, str], Handler] = {
        ("GET", "/health"): liveness,
        ("GET", "/liveness"): liveness,
    }
    paths |= {("GET", path): ask_brain for path in (*OF_BRAIN, *PAGE_FILES)}
    if parts.config.decisions:
        paths["GET", PROTO_PATH] = ask_brain
        paths |= {("POST", path): ask_brain for path in HTTP_PATHS.values()}
    paths |= {("POST", path): generate for path in PATHS}
    # The brain asks for keys itself.
    return Handling(
        parts,
        paths,
        PassThrough(parts).answer,
        is_public=(liveness, ask_brain),
        is_counted=lambda _: True,
    ).handle


@contextlib.asynccontextmanager
async def _to_pages(path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Give what leads to the brain's own pages."""
    connector = aiohttp.UnixConnector(path=str(path), limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        yield session
