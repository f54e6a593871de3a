"""Methods of a gRPC service: what opens their calls, and how these are refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from balanceroute.live.answers import Refusal
from balanceroute.live.rpc.calls import FAILED, Call, Listener, Opening
from balanceroute.live.rpc.frames import Status
from balanceroute.live.rpc.protobuf import BadMessage, Codec, Message

Open = Callable[[Call, Opening], Listener | None]
STATUS_OF = {  # of a refusal, which is made for HTTP
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHENTICATED,
    404: Status.NOT_FOUND,
    408: Status.DEADLINE_EXCEEDED,
    429: Status.RESOURCE_EXHAUSTED,
    503: Status.UNAVAILABLE,
}

log = logging.getLogger(__name__)


def end_refused(call: Call, refusal: Refusal) -> None:
    """End a call as a request would be refused."""
    call.end(STATUS_OF.get(refusal.status, Status.INTERNAL), refusal.message)


class Unary:
    """A call of one message and one answer.

    Parameters
    ----------
    call : Call
        Of the client.
    asked, answer : Codec
        Of the message and the answer.
    handler : callable
        Returns the answer; it is cancelled if the client goes away.
    """

    def __init__(
        self,
        call: Call,
        *,
        asked: Codec[Any],
        answer: Codec[Any],
        handler: Callable[[Any], Coroutine[Any, Any, Message]],
    ) -> None:
        self._call, self._asked, self._answer, self._handler = call, asked, answer, handler
        self._message: bytes | None = None
        self._task: asyncio.Task[None] | None = None

    def receive(self, messages: list[bytes]) -> None:
        """Keep the message."""
        if self._message is not None or len(messages) > 1:
            self._call.end(Status.INVALID_ARGUMENT, "one message is expected")
        self._message = messages[0]

    def half_close(self) -> None:
        """Answer."""
        if self._message is None:
            self._call.end(Status.INVALID_ARGUMENT, "a message is expected")
            return
        self._task = asyncio.get_running_loop().create_task(self._run(self._message))

    def cancel(self) -> None:
        """Do not answer."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self, message: bytes) -> None:
        try:
            self._call.send(self._answer.encode(await self._handler(self._asked.decode(message))))
            self._call.end()
        except BadMessage as error:
            self._call.end(Status.INVALID_ARGUMENT, str(error))
        except Refusal as refusal:
            end_refused(self._call, refusal)
        except Exception:
            log.exception(FAILED)
            self._call.end(Status.INTERNAL, "the router has failed")
