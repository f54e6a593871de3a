"""The process that starts the others, and puts another in the place of one that dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from balanceroute.live.processes.orders import LEAVE, RELOAD, STOP, Report, Start
from balanceroute.live.processes.sockets import FOR_PAGES, FOR_PLANES, bind_port, listen_at

BRAIN = -1  # the number of the process that decides; data planes have theirs from 0
MAX_LINE_BYTES = 16 << 20
GRACE_S = 5.0  # beyond the time that requests have for their ends
SOON_S, MIN_PAUSE_S, MAX_PAUSE_S = 10.0, 0.1, 5.0  # who dies so soon is not replaced at once

log = logging.getLogger(__name__)


class Supervisor:
    """Runs a brain and its data planes; decides nothing, carries nothing.

    Parameters
    ----------
    start : Start
        What a process is told first, but for what is its own.
    command : sequence of str
        What starts a process.

    Attributes
    ----------
    port : int
        Where clients are served.
    grpc_port : int or None
        Where gRPC is served, once it is.

    Raises
    ------
    ConfigError
        If the port is taken.
    """

    def __init__(self, start: Start, command: Sequence[str]) -> None:
        config = start.in_force.config
        self._command, self._in_force = command, start.in_force
        self._ports = bind_port(config.host, config.port, config.processes)
        self.port = int(self._ports[0].getsockname()[1])
        self.grpc_port: int | None = None
        folder = Path(tempfile.mkdtemp(prefix="balanceroute-"))
        self._for_brain = [listen_at(folder / name) for name in (FOR_PLANES, FOR_PAGES)]
        self._start = msgspec.structs.replace(start, folder=str(folder))
        self._processes: dict[int, Process] = {}
        self._is_up: dict[int, asyncio.Event] = {}
        self._keepers: list[asyncio.Task[int]] = []

    async def start(self, stop: asyncio.Event) -> int:
        """Start all, unless told to stop meanwhile.

        Returns
        -------
        int
            0, or what a process has ended with that could not start.
        """
        stopped = asyncio.create_task(stop.wait())
        try:
            code = await self._start_up(range(BRAIN, 0), stopped)
            return code or await self._start_up(range(len(self._ports)), stopped)
        finally:
            stopped.cancel()

    async def _start_up(self, numbers: range, stopped: asyncio.Task[bool]) -> int:
        """Start some and wait until they are up; return what one has ended with that is not."""
        if stopped.done():
            return 0
        for number in numbers:
            self._is_up[number] = asyncio.Event()
            self._keepers.append(asyncio.create_task(self._keep(number)))
        up = asyncio.create_task(self._all_up(numbers))
        first: set[asyncio.Task[Any]] = {up, stopped, *self._keepers}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        return next((keeper.result() for keeper in self._keepers if keeper.done()), 0)

    async def _all_up(self, numbers: range) -> None:
        for number in numbers:
            await self._is_up[number].wait()

    async def _keep(self, number: int) -> int:
        """Keep a process running; return what it has ended with if it has never been up."""
        pause_s = 0.0
        while True:
            began_s = time.monotonic()
            try:
                code = await self._follow(number, await self._spawn(number))
            except OSError as error:  # no more processes, or files
                log.error("%s cannot be started: %s", _name(number), error.strerror or error)
                code = 1
            if not self._is_up[number].is_set():
                return abs(code) or 1
            is_soon = time.monotonic() - began_s < SOON_S
            pause_s = min(max(2.0 * pause_s, MIN_PAUSE_S), MAX_PAUSE_S) if is_soon else 0.0
            log.error("%s has ended with %d, and is replaced", _name(number), code)
            await asyncio.sleep(pause_s)

    async def _spawn(self, number: int) -> Process:
        sockets = self._for_brain if number == BRAIN else [self._ports[number]]
        descriptors = [each.fileno() for each in sockets]
        num_running = sum(its.returncode is None for n, its in self._processes.items() if n >= 0)
        start = msgspec.structs.replace(
            self._start,
            in_force=self._in_force,
            sockets=descriptors,
            plane=number,
            num_running=num_running,
        )
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, pass_fds=descriptors, limit=MAX_LINE_BYTES
        )
        self._processes[number] = process
        self._order(number, msgspec.json.encode(start).decode())
        return process

    async def _follow(self, number: int, process: Process) -> int:
        """Take in what a process reports until it ends; return what with."""
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                told = msgspec.json.decode(line, type=Report)
            except msgspec.DecodeError:  # something else that writes there
                log.warning("%s says %s", _name(number), line.decode(errors="replace").rstrip())
                continue
            self._in_force = told.in_force or self._in_force
            self.grpc_port = told.grpc_port or self.grpc_port
            if told.is_up:
                self._is_up[number].set()
        return await process.wait()

    def _order(self, number: int, order: str) -> None:
        process = self._processes.get(number)
        if process is not None and process.returncode is None and process.stdin is not None:
            process.stdin.write(order.encode() + b"\n")

    def reload(self) -> None:
        """Let settings be read again."""
        self._order(BRAIN, RELOAD)

    async def stop(self) -> None:
        """End all: data planes first, once their requests have come to their ends."""
        for each in self._ports:
            each.close()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._order(BRAIN, LEAVE)
        planes = [number for number in self._processes if number != BRAIN]
        await self._end(planes, self._in_force.config.shutdown_timeout_secs + GRACE_S)
        await self._end([BRAIN], GRACE_S)
        for each in self._for_brain:
            each.close()
        shutil.rmtree(self._start.folder)

    async def _end(self, numbers: Sequence[int], limit_s: float) -> None:
        """Tell processes to stop; those that have not ended in time are killed."""
        running = [its for n in numbers if (its := self._processes.get(n)) is not None]
        for number in numbers:
            self._order(number, STOP)
        ends = [asyncio.create_task(its.wait()) for its in running]
        if ends:
            await asyncio.wait(ends, timeout=limit_s)
        for its in running:
            if its.returncode is None:
                log.error("process %d does not end, and is killed", its.pid)
                with contextlib.suppress(ProcessLookupError):
                    its.kill()
                await its.wait()


def _name(number: int) -> str:
    return "the brain" if number == BRAIN else f"data plane {number}"
