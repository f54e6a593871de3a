"""What a request is told when something other than an engine ends it."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from balanceroute.live.answers import Refusal

log = logging.getLogger(__name__)


def has_left(request: web.BaseRequest) -> bool:
    """Tell whether a client has gone, though its connection may not have been given up yet."""
    transport = request.transport
    return transport is None or transport.is_closing()


def refusal_of(
    error: BaseException, request: web.BaseRequest, *, limit_s: float, is_stopping: bool
) -> Refusal | None:
    """Return what to tell a client whose request has ended in an error.

    Parameters
    ----------
    error : BaseException
        What has come up.
    request : aiohttp.web.BaseRequest
        Of the client.
    limit_s : float
        How long an answer may take.
    is_stopping : bool
        Whether requests are told to end.

    Returns
    -------
    Refusal or None
        None if there is nobody to tell, or the error says it itself.
    """
    if isinstance(error, Refusal) or has_left(request):
        return None
    if isinstance(error, TimeoutError):
        return Refusal(504, f"no answer within {limit_s:g} s", "request_timeout")
    if isinstance(error, asyncio.CancelledError):
        message = "the router is stopping, and could not wait any longer"
        return Refusal(503, message, "stopping") if is_stopping else None
    if not isinstance(error, Exception) or isinstance(error, web.HTTPException):
        return None
    log.error("a request has failed inside the router; please report this", exc_info=error)
    return Refusal(500, "the router has failed", "internal_error")
