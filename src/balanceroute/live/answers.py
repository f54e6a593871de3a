"""The router's own answers, in the form that OpenAI's clients and vLLM's users know."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

RETRY_AFTER_S = 1
JSON = "application/json"
DROP_REASON = "x-balanceroute-dropped-reason"


class Refusal(Exception):  # noqa: N818  # an answer, not a fault of ours
    """A request gets this answer instead of one from an engine.

    Parameters
    ----------
    status : int
        HTTP status.
    message : str
        What was wrong, and the cure.
    reason : str
        Why, in one word, for headers and metrics.
    """

    def __init__(self, status: int, message: str, reason: str) -> None:
        super().__init__(message)
        self.status, self.message, self.reason = status, message, reason

    def response(self) -> web.Response:
        """Return the answer."""
        headers = {DROP_REASON: self.reason}
        if self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            headers["Retry-After"] = str(RETRY_AFTER_S)
        return json_response(error_body(self.status, self.message), self.status, headers)


def overdue(limit_s: float) -> Refusal:
    """Return what a request is told that has waited too long."""
    return Refusal(408, f"no rank within {limit_s:g} s", "queue_timeout")


def no_rank() -> Refusal:
    """Return what a request is told that no rank may have."""
    return Refusal(503, "no rank is fit for requests; see /workers", "no_worker")


def no_brain() -> Refusal:
    """Return what is said while the process that decides is away."""
    return Refusal(503, "the process that decides is being replaced; try again", "no_brain")


class Relayed(Refusal):
    """An engine's own refusal, passed on as it is.

    Parameters
    ----------
    status, body : int, bytes
        Of the engine's answer.
    reason : str
        As of `Refusal`.
    """

    def __init__(self, status: int, body: bytes, reason: str) -> None:
        super().__init__(status, f"an engine answers HTTP {status}", reason)
        self.body = body

    def response(self) -> web.Response:
        """Return the engine's answer."""
        headers = {DROP_REASON: self.reason}
        return web.Response(body=self.body, status=self.status, headers=headers, content_type=JSON)


def error_body(status: int, message: str) -> dict[str, Any]:
    """Return an error as vLLM words it: its code is the HTTP status.

    Examples
    --------
    >>> error_body(404, "no such model")["error"]["type"]
    'NotFoundError'
    >>> error_body(500, "sorry")["error"]["type"]
    'InternalServerError'
    """
    kinds = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError"}
    phrase = HTTPStatus(status).phrase.title().replace(" ", "").removesuffix("Error")
    kind = kinds.get(status, phrase + "Error")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def json_response(
    value: object, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Return a JSON answer."""
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, headers=headers, content_type=JSON)
