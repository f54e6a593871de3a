"""Refusals as Envoy gives them to clients."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from balanceroute.live.answers import DROP_REASON, JSON, RETRY_AFTER_S, Refusal, error_body
from balanceroute.live.picker.replies import header_mutation, immediate

IDENTITY = "identity"  # content coding of what is not compressed


def expect_readable(headers: Mapping[str, str]) -> None:
    """Refuse a request whose body is compressed."""
    if (coding := headers.get("content-encoding", IDENTITY)) != IDENTITY:
        message = f"the body is {coding}; unpack it before ext_proc (Envoy's decompressor)"
        raise Refusal(415, message, "bad_body")


def refused(refusal: Refusal) -> bytes:
    """Return the answer by which Envoy refuses a request, in the form that the router has."""
    headers = {DROP_REASON: refusal.reason, "content-type": JSON}
    if refusal.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers["retry-after"] = str(RETRY_AFTER_S)
    body = msgspec.json.encode(error_body(refusal.status, refusal.message))
    mutation = header_mutation(tuple(headers.items()))
    return immediate(refusal.status, mutation, body, refusal.reason)
