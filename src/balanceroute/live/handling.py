"""The way of any request to what answers it: its key, refusals, and what is counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from aiohttp import web

from balanceroute.live.answers import Refusal, json_response
from balanceroute.live.carrying import Carrying
from balanceroute.live.clients import BODY, SLOW_BODY
from balanceroute.live.endings import refusal_of
from balanceroute.live.tenants import check_key

CONTINUE = "100-continue"
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Handling:
    """Finds out who answers a request, and sees to it that there is an answer.

    Parameters
    ----------
    parts : Carrying
        Of the process.
    paths : dict
        Who answers, by method and path.
    other : callable
        Who answers the rest.
    is_public : collection of callable
        Those that answer without a key, too.
    is_counted : callable
        Tells whether the answers of one are counted here.
    """

    def __init__(
        self,
        parts: Carrying,
        paths: dict[tuple[str, str], Handler],
        other: Handler,
        *,
        is_public: Collection[Handler],
        is_counted: Callable[[Handler], bool],
    ) -> None:
        self._parts, self._is_counted = parts, is_counted
        self._other = (other, other in is_public)
        self._paths = {path: (its, its in is_public) for path, its in paths.items()}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer any request."""
        handler, is_public = self._paths.get((request.method, request.path), self._other)
        if request.headers.get("Expect", "").lower() == CONTINUE and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if not is_public:
                check_key(request, self._parts.config)
            answer = await handler(request)
        except Refusal as refusal:
            answer = self._refuse(refusal)
        except web.HTTPException as error:  # a body beyond the limit
            answer = self._refuse(Refusal(error.status, error.text or error.reason, "bad_request"))
        except Exception as error:  # noqa: BLE001  # it is told, unless nobody is there to tell
            failure = refusal_of(error, request, limit_s=0.0, is_stopping=False)
            if failure is None:  # the client has gone
                return web.Response()
            answer = self._refuse(failure)
        if self._is_counted(handler):
            self._parts.counters.count_answer(answer.status)
        return answer

    def _refuse(self, refusal: Refusal) -> web.Response:
        if refusal.reason == SLOW_BODY:
            self._parts.counters.slow_clients.labels(BODY).inc()
        self._parts.counters.dropped.labels(refusal.reason).inc()
        return refusal.response()


async def liveness(_: web.BaseRequest) -> web.StreamResponse:
    """Answer that this process answers."""
    return json_response({"status": "ok"})
