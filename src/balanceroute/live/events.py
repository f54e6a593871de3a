"""Streams of server-sent events: passed on whole, and ended in words that clients understand."""

from __future__ import annotations

import msgspec

from balanceroute.live.answers import Refusal, error_body

EVENT_STREAM = "text/event-stream"
ENDS = (b"\n\n", b"\r\n\r\n")


class WholeEvents:
    r"""Holds back the beginning of an event until its end has come.

    A client can do nothing with half an event; and if an error had to follow it, with neither.

    Examples
    --------
    >>> events = WholeEvents()
    >>> events.feed(b"data: 1\n\ndata: "), events.feed(b"2\n"), events.feed(b"\n")
    (b'data: 1\n\n', b'', b'data: 2\n\n')
    """

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take in the next bytes of a stream; return what is to be passed on now."""
        if not self.rest and data.endswith(ENDS):
            return data
        data = self.rest + data
        end = max((at + len(mark) for mark in ENDS if (at := data.rfind(mark)) >= 0), default=0)
        self.rest = data[end:]
        return data[:end]


def error_event(refusal: Refusal, path: str, last_number: int = -1) -> bytes:
    r"""Return what ends a stream that has begun, in the form of its endpoint.

    Parameters
    ----------
    refusal : Refusal
        Why it ends.
    path : str
        The endpoint's.
    last_number : int
        Of the event before, where events are numbered.

    Examples
    --------
    >>> error_event(Refusal(502, "gone", "upstream_broken"), "/v1/responses", 4).split(b"\n")[0]
    b'event: error'
    >>> error_event(Refusal(502, "gone", "upstream_broken"), "/v1/completions")[:18]
    b'data: {"error":{"m'
    """
    body = error_body(refusal.status, refusal.message)
    if path == "/v1/responses":
        code, number = str(refusal.status), last_number + 1
        numbered = {"type": "error", "sequence_number": number, "code": code}
        return _named(numbered | {"message": refusal.message, "param": None})
    if path == "/v1/messages":
        error = {"type": "api_error", "message": refusal.message}
        return _named({"type": "error", "error": error})
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def _named(content: object) -> bytes:
    return b"event: error\ndata: " + msgspec.json.encode(content) + b"\n\n"
