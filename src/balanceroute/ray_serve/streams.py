"""Counts what passes through a result of Ray Serve's, whoever reads it, on whatever thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from balanceroute.ray_serve.calls import CallMeter

GATHER_S = 0.005  # tokens come to the router together that pass within this time


class Inbox:
    """Brings token counts from the threads in which they are seen to the router's event loop.

    A call across threads costs more than a token is worth, so the first one of a while makes it,
    for all that come until it is served.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        The router's.
    take : callable
        Called there with what was handed in and its number of tokens.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, take: Callable[[Any, int], object]) -> None:
        self._loop, self._take = loop, take
        self._lock = threading.Lock()
        self._counts: dict[Any, int] = {}

    def put(self, owner: Any, num_tokens: int) -> None:
        """Hand in tokens, from any thread."""
        with self._lock:
            is_first = not self._counts
            self._counts[owner] = self._counts.get(owner, 0) + num_tokens
        if is_first and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.call_later, GATHER_S, self.empty)

    def empty(self) -> None:
        """Pass on all that has been handed in; on the router's loop."""
        with self._lock:
            counts, self._counts = self._counts, {}
        for owner, num_tokens in counts.items():
            self._take(owner, num_tokens)


def count_pieces(result: Any, meter: CallMeter, note: Callable[[int], object]) -> None:
    """Let `note` be told the tokens of each piece that is read, and when the stream is over.

    Serve reads it by calling ``__anext__`` or ``__next__`` on it, so the result gets its own.
    """
    following, next_one = result.__anext__, result.__next__

    async def anext_counted() -> Any:
        return _counted(await following())

    def next_counted() -> Any:
        return _counted(next_one())

    def _counted(piece: Any) -> Any:
        num_tokens = meter.feed(piece)
        if num_tokens > 0 or meter.is_done:
            note(num_tokens)
        return piece

    result.__anext__, result.__next__ = anext_counted, next_counted
