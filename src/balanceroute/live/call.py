"""One request while the router serves it."""

from __future__ import annotations

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from balanceroute.live.ticket import Ticket
from balanceroute.live.tokens import TokenMeter
from balanceroute.live.wire import RequestFacts

REQUEST_ID = "X-Request-Id"
# Not those of traces or correlations, which several requests share: engines refuse an id twice.
REQUEST_ID_ALIASES = ("x-request-id", "request-id")


class Call(msgspec.Struct, eq=False, kw_only=True):
    """One request and how far it has got."""

    request: web.BaseRequest
    body: bytes
    facts: RequestFacts
    ticket: Ticket
    request_id: str
    tenant: str | None  # whose it is, if that matters
    headers: CIMultiDict[str]  # as they go on to an engine
    handed_over: bytes | None = None  # the body that names a prompt computed elsewhere, if one is
    answer: web.StreamResponse | None = None  # once it has begun
    meter: TokenMeter | None = None  # of its stream

    @property
    def last_number(self) -> int:
        """Return the number of the last event, if events have numbers, else -1."""
        return self.meter.last_number if self.meter is not None else -1


def request_id_of(request: web.BaseRequest) -> str:
    """Return the id that a client has given its request, or nothing."""
    for name in REQUEST_ID_ALIASES:
        if value := request.headers.get(name):
            return value
    return ""
