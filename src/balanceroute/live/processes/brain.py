"""The process that decides, and carries nothing."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from balanceroute.live.app import start_router
from balanceroute.live.clients import LAST_WORDS_S, ClientServer
from balanceroute.live.listening import accepting
from balanceroute.live.parts import Parts
from balanceroute.live.processes.orders import LEAVE, RELOAD, Report, Start, follow, report
from balanceroute.live.processes.planes import Planes
from balanceroute.live.reading import read_config
from balanceroute.live.reloading import reload
from balanceroute.live.upstream import open_session
from balanceroute.live.warm import keep_for_good, warm

REUNION_S = 2.0  # for data planes that run to say what they have under way


async def run_brain(start: Start) -> None:
    """Decide until told to stop."""
    in_force, config = start.in_force, start.in_force.config
    warm(config.policy, num_ranks=len(in_force.ranks), costs=start.costs)
    keep_for_good()
    inherited = [socket.socket(fileno=number) for number in start.sockets]
    for each in inherited:
        each.setblocking(False)
    for_planes, for_pages = inherited
    reread = partial(read_config, Path(start.file), start.flags) if start.file else None
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session())
        parts = Parts.of(config, start.costs, session, in_force.addresses)
        for rank, is_draining in enumerate(in_force.is_draining):
            parts.health.drain(rank, is_draining=is_draining)
        parts.processes = planes = Planes(parts, lambda now: report(Report(in_force=now)))
        await stack.enter_async_context(planes.serving(for_planes))
        # What is under way is known before engines are asked what runs there besides.
        await planes.expect(start.num_running, REUNION_S)
        router = await start_router(stack, parts, reread)
        planes.begin()
        pages = ClientServer(router.handle, parts)
        stack.push_async_callback(pages.shutdown)
        await stack.enter_async_context(accepting(for_pages, pages))
        stack.callback(router.dashboard.leave)
        report(Report(is_up=True, grpc_port=router.grpc_port))
        leave = partial(_leave, planes, router.dashboard.leave)
        orders: dict[str, Callable[[], object]] = {LEAVE: leave}
        if reread is not None:
            orders[RELOAD] = partial(reload, parts, reread, planes.tell_changes)
        if not await follow(orders):  # the supervisor has died, and cannot clean up
            leave()
            await planes.dismiss(parts.config.shutdown_timeout_secs + LAST_WORDS_S)
            shutil.rmtree(start.folder, ignore_errors=True)


def _leave(planes: Planes, leave: Callable[[], object]) -> None:
    """Note that data planes are told to stop; open pages are not waited for."""
    planes.is_stopping = True
    leave()
