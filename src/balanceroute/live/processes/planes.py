"""The data planes, as the brain sees them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from balanceroute.live.listening import accepting
from balanceroute.live.parts import Parts
from balanceroute.live.processes.in_force import InForce
from balanceroute.live.processes.seat import Seat
from balanceroute.live.processes.words import (
    Counted,
    Hello,
    Loads,
    Talk,
    Told,
    Word,
    plane_decoder,
)

TELL_S = 0.1  # between two words about the ranks
MANY = 1 << 30  # requests that fit where there is no limit

log = logging.getLogger(__name__)


class _Plane:
    """One data plane, from its connection on."""

    def __init__(self, planes: Planes) -> None:
        self._planes = planes
        self.number, self.pid, self.cpu_s = -1, 0, 0.0
        self.talk = Talk(plane_decoder, self._hear, self._lose)
        self.seat = Seat(planes.parts, self.say)
        self._early: list[Any] = []

    def say(self, word: Word) -> None:
        """Say something, after what has changed and is needed to understand it."""
        self._planes.tell_changes()
        self.talk.say(word)

    def begin(self) -> None:
        """Take in what was said before there were decisions."""
        early, self._early = self._early, []
        self._hear(early)

    def _hear(self, words: list[Any]) -> None:
        for word in words:
            if isinstance(word, Hello):
                self.number, self.pid = word.plane, word.pid
                self.seat.adopt(word.running)
                self._planes.greet()
            elif isinstance(word, Counted):
                self.cpu_s = word.cpu_s
                self._planes.parts.counters.add(word.added)
            elif self._planes.has_begun:
                self.seat.take(word)
            else:
                self._early.append(word)

    def _lose(self) -> None:
        num_requests = self.seat.num_requests
        self.seat.close()
        self._planes.lose(self, num_requests)


class Planes(Collector):
    """Books for all data planes, and tells them how the ranks are.

    Parameters
    ----------
    parts : Parts
        That decide.
    on_change : callable
        Called with what is in force, whenever that is something else.
    """

    def __init__(self, parts: Parts, on_change: Callable[[InForce], object]) -> None:
        self.parts, self._on_change = parts, on_change
        self.has_begun = self.is_stopping = False
        self._planes: set[_Plane] = set()
        self._in_force: InForce | None = None
        self._num_lost = 0
        self._changed = asyncio.Event()
        parts.meters.show(self)
        self.tell_changes()

    @contextlib.asynccontextmanager
    async def serving(self, inherited: socket.socket) -> AsyncIterator[None]:
        """Let data planes in on a socket, for the time of the context."""
        async with accepting(inherited, self._connect):
            telling = asyncio.create_task(self._tell())
            try:
                yield
            finally:
                telling.cancel()
                for plane in self._planes:
                    plane.talk.close()

    def _connect(self) -> Talk:
        plane = _Plane(self)
        self._planes.add(plane)
        self._introduce(plane)
        return plane.talk

    async def expect(self, num_planes: int, limit_s: float) -> None:
        """Wait until so many are there, but no longer than a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while len(self._there) < num_planes:
                    self._changed.clear()
                    await self._changed.wait()

    async def dismiss(self, limit_s: float) -> None:
        """Wait until all are gone, but no longer than a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._planes:
                    self._changed.clear()
                    await self._changed.wait()

    def begin(self) -> None:
        """Decide from now on."""
        self.has_begun = True
        for plane in list(self._planes):
            plane.begin()

    def greet(self) -> None:
        """Note that a data plane has said who it is."""
        self._changed.set()

    def lose(self, plane: _Plane, num_requests: int) -> None:
        """Note that a data plane is gone."""
        self._planes.discard(plane)
        self._changed.set()
        if plane.number >= 0 and not self.is_stopping:
            self._num_lost += 1
            log.error(
                "data plane %d (process %d) is gone, and with it %d requests",
                *(plane.number, plane.pid, num_requests),
            )

    @property
    def _there(self) -> list[_Plane]:
        return sorted((its for its in self._planes if its.pid), key=lambda its: its.number)

    @property
    def num_there(self) -> int:
        """Return how many data planes are there."""
        return len(self._there)

    def missing(self) -> str:
        """Return how many data planes are up, if it is not all."""
        num_there, num_planes = self.num_there, self.parts.config.processes
        return "" if num_there >= num_planes else f"{num_there} of {num_planes} data planes are up"

    def shown(self) -> list[dict[str, object]]:
        """Return the processes as `/workers` shows them."""
        shown: list[dict[str, object]] = [{"process": "brain", "pid": os.getpid()}]
        for plane in self._there:
            its = {"process": f"data plane {plane.number}", "pid": plane.pid}
            shown.append(its | {"num_requests": plane.seat.num_requests})
        return shown

    def collect(self) -> Iterator[Metric]:
        """Return the figures about processes."""
        text = "Data planes that are up."
        yield GaugeMetricFamily("balanceroute_data_planes", text, value=self.num_there)
        text = "Data planes that there should be."
        expected = self.parts.config.processes
        yield GaugeMetricFamily("balanceroute_data_planes_expected", text, value=expected)
        text = "Data planes that have died, or lost their connection, while this brain has run."
        yield CounterMetricFamily("balanceroute_data_planes_lost", text, value=self._num_lost)
        text = "CPU time of each process since it began."
        cpu = CounterMetricFamily("balanceroute_cpu_seconds", text, labels=["process"])
        cpu.add_metric(["brain"], time.process_time())
        for plane in self._there:
            cpu.add_metric([f"data plane {plane.number}"], plane.cpu_s)
        yield cpu

    def tell_changes(self) -> None:
        """Tell everybody what is in force, if that is something else than before."""
        was, parts = self._in_force, self.parts
        if was is not None and (
            was.config is parts.config
            and len(was.ranks) == len(parts.addresses)
            and was.is_draining == parts.health.is_draining
        ):
            return
        now = self._in_force = InForce.of(parts.config, parts.addresses, parts.health.is_draining)
        self._on_change(now)
        for plane in self._planes:
            self._introduce(plane)

    def _introduce(self, plane: _Plane) -> None:
        assert self._in_force is not None
        plane.talk.say(Told(self._in_force.config, self._in_force.ranks))
        plane.talk.say(self._loads())

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            self.tell_changes()
            loads = self._loads()
            for plane in self._planes:
                plane.talk.say(loads)

    def _loads(self) -> Loads:
        group = self.parts.group
        ranks = group.ledger.ranks
        num_free = group.num_slots - ranks["num_running"] - ranks["num_waiting"]
        room = np.maximum(num_free - group.foreign_reqs, 0)
        return Loads(
            is_open=list(group.is_open),
            load_tokens=(ranks["load_tokens"] + ranks["due_tokens"]).tolist(),
            room=[MANY] * group.num_ranks if group.is_immediate else room.tolist(),
        )
