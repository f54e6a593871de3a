"""Requests that a group has not begun to answer, so that others may still have them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any

import aiohttp


class GroupClosed(aiohttp.ClientError):  # nothing that the request has done
    """A group was closed before it began to answer."""


class Unanswered:
    """Waits for the beginnings of answers, and gives up on groups that are closed meanwhile.

    A group whose ranks are away may hold requests back until they return; its router is well.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Task[Any]]] = defaultdict(set)

    async def expect(
        self, group: int, asking: Coroutine[Any, Any, aiohttp.ClientResponse]
    ) -> aiohttp.ClientResponse:
        """Return the answer that a group begins; `GroupClosed` if it is given up before."""
        task = asyncio.create_task(asking)
        self._waiting[group].add(task)
        try:
            return await task
        except asyncio.CancelledError:
            here = asyncio.current_task()
            if here is not None and here.cancelling() > 0:  # it is the request that is given up
                task.add_done_callback(_close)
                task.cancel()
                raise
            raise GroupClosed("the group was closed before it began to answer") from None
        finally:
            self._waiting[group].discard(task)

    def give_up(self, group: int) -> None:
        """Let all requests go elsewhere that this group has not begun to answer."""
        for task in self._waiting.pop(group, ()):
            task.cancel()


def _close(task: asyncio.Task[aiohttp.ClientResponse]) -> None:
    """Close an answer that has begun too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
