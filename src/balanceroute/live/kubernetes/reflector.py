"""A copy of some of a cluster's objects, kept by list and watch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Generic, Protocol, TypeVar

import aiohttp
import msgspec
import numpy as np

from balanceroute.errors import BalanceRouteError
from balanceroute.live.kubernetes.objects import Meta

GONE = 410  # what was known is too old for the server to tell what has changed since
REFUSED = (401, 403)
LIST_TIMEOUT_S, PAGE = 30.0, 500
WATCH_S, MORE_WATCH_S = 100, 50  # so long, and by chance as much longer; many watch one server
GRACE_S = 10.0  # beyond, before a watch that is silent is given up
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
SHORT_WATCH_S = 1.0  # one that ends so soon, and has told nothing, is a failure

log = logging.getLogger(__name__)
Object = TypeVar("Object")


class ApiError(BalanceRouteError):
    """The API server has refused."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


class Read(Protocol):
    """Lists or watches one kind of object; the answer is still to be read."""

    async def __call__(
        self,
        *,
        resource_version: str | None = None,
        watch: bool = False,
        timeout_s: float,
        continue_from: str | None = None,
    ) -> aiohttp.ClientResponse:
        """Ask the API server."""
        ...


class _ListMeta(msgspec.Struct, rename={"resource_version": "resourceVersion", "more": "continue"}):
    resource_version: str = ""
    more: str = ""


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Named(msgspec.Struct):
    metadata: Meta


class Reflector(Generic[Object]):
    """Keeps what there is of one kind, and says when it changes.

    While the API server cannot be reached, what was known last stays.

    Parameters
    ----------
    kind : str
        For the log.
    read : Read
        Asks the API server.
    of : type
        What is read of each object, a struct.
    on_change : callable
        Called after each list and each event that changes something.
    rng : numpy.random.Generator
        Spreads the reconnections of many.
    backoff_s : float
        How long after the first failure the server is asked again; then twice as long each time.

    Attributes
    ----------
    objects : dict of str to object
        By name.
    is_synced : bool
        Whether they have been listed.
    """

    def __init__(
        self,
        kind: str,
        read: Read,
        of: type[Object],
        on_change: Callable[[], object],
        *,
        rng: np.random.Generator,
        backoff_s: float = FIRST_BACKOFF_S,
    ) -> None:
        self._kind, self._read, self._of, self._on_change = kind, read, of, on_change
        self._rng, self._first_backoff_s = rng, backoff_s
        self._version: str | None = None
        self._num_failures = 0
        self.objects: dict[str, Object] = {}
        self.is_synced = False

    async def run(self) -> None:
        """Follow the objects until this is cancelled."""
        while True:
            try:
                if self._version is None:
                    await self._list()
                await self._watch()
            except ApiError as error:
                if error.status == GONE:
                    log.info("%s: what was known is too old; they are listed anew", self._kind)
                    self._version = None
                await self._back_off(error)
            except (
                aiohttp.ClientError,
                OSError,
                TimeoutError,
                msgspec.DecodeError,
                msgspec.ValidationError,
            ) as error:
                await self._back_off(error)

    async def _list(self) -> None:
        """Take in all that there is; what is not there any more has gone."""
        found: dict[str, Object] = {}
        page: str | None = None
        while True:
            async with await self._read(timeout_s=LIST_TIMEOUT_S, continue_from=page) as answer:
                body = await answer.read()
                _expect_ok(answer.status, body)
            part = msgspec.json.decode(body, type=_List)
            for raw in part.items or []:
                found[_name(raw).name] = self._convert(raw)
            page = part.metadata.more or None
            if page is None:
                break
        self._version = part.metadata.resource_version
        self.objects, self.is_synced = found, True
        self._note_contact()
        self._on_change()

    async def _watch(self) -> None:
        """Take in changes until the server ends the watch."""
        loop = asyncio.get_running_loop()
        began_s, num_events = loop.time(), 0
        timeout_s = WATCH_S + float(self._rng.random()) * MORE_WATCH_S
        async with await self._read(
            resource_version=self._version, watch=True, timeout_s=timeout_s
        ) as answer:
            if answer.status >= 400:
                _expect_ok(answer.status, await answer.read())
            async for line in _lines(answer):
                self._take(msgspec.json.decode(line, type=_Event))
                num_events += 1
                self._note_contact()
        if num_events == 0 and loop.time() - began_s < SHORT_WATCH_S:
            raise aiohttp.ClientPayloadError("the watch ended at once")
        self._note_contact()

    def _take(self, event: _Event) -> None:
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            raise ApiError(status.code, status.message)
        meta = _name(event.object)
        if event.type == "DELETED":
            self.objects.pop(meta.name, None)
        elif event.type in ("ADDED", "MODIFIED"):
            self.objects[meta.name] = self._convert(event.object)
        elif event.type != "BOOKMARK":
            raise msgspec.ValidationError(f"an event of type {event.type!r}")
        self._version = meta.resource_version
        if event.type != "BOOKMARK":
            self._on_change()

    def _convert(self, raw: msgspec.Raw) -> Object:
        return msgspec.json.decode(raw, type=self._of)

    def _note_contact(self) -> None:
        if self._num_failures > 1:
            log.warning("%s: the API server answers again", self._kind)
        self._num_failures = 0

    async def _back_off(self, error: Exception) -> None:
        self._num_failures += 1
        longest_s = min(self._first_backoff_s * 2.0 ** (self._num_failures - 1), MAX_BACKOFF_S)
        if self._num_failures > 1:
            hint = ""
            if isinstance(error, ApiError) and error.status in REFUSED:
                hint = "; does the service account have the role in deploy/kubernetes?"
            log.error(
                "%s: %s: %s%s; what was known last stays",
                self._kind,
                type(error).__name__,
                error,
                hint,
            )
        await asyncio.sleep(longest_s * (0.5 + 0.5 * float(self._rng.random())))


def _name(raw: msgspec.Raw) -> Meta:
    return msgspec.json.decode(raw, type=_Named).metadata


def _expect_ok(status: int, body: bytes) -> None:
    if status < 400:
        return
    try:
        message = msgspec.json.decode(body, type=_Status).message
    except msgspec.DecodeError:
        message = body[:200].decode(errors="replace")
    raise ApiError(status, message)


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Give the lines of an answer; a piece of one at its end is dropped with the connection."""
    rest = b""
    async for piece in answer.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
