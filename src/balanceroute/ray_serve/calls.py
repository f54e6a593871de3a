"""What is known of a call to a deployment: its prompt, and the tokens that come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from balanceroute.live.tokens import SERVER_SENT_EVENT, TokenMeter, Usage
from balanceroute.live.wire import PATHS, BadBody, RequestFacts, read_request

HTTP_START = b"http.response.start"  # the ASGI message that comes first
FIELDS = (
    "model",
    "prompt",
    "messages",
    "input",
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "priority",
    "user",
)


def read_call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> RequestFacts | None:
    """Return what the arguments of a call tell of an OpenAI request among them; None: nothing.

    The first argument counts that has ``prompt``, ``messages`` or ``input``, as a mapping or as an
    object, and if there is none, the keyword arguments.

    Examples
    --------
    >>> facts = read_call([{"prompt": [1, 2, 3], "max_tokens": 8}], {})
    >>> facts.prompt_ids, facts.max_tokens
    (3, 8)
    >>> read_call([b"a body that nobody here reads"], {}) is None
    True
    """
    for argument in (*args, kwargs):
        its = {name: value for name in FIELDS if (value := _field(argument, name)) is not None}
        path = next((path for path, prompt in PATHS.items() if prompt in its), None)
        if path is None:
            continue
        try:
            return read_request(path, msgspec.json.encode(its, enc_hook=_plain))
        except (BadBody, TypeError, ValueError):  # an object that is no OpenAI request
            continue
    return None


def _field(argument: Any, name: str) -> Any:
    if isinstance(argument, Mapping):
        return argument.get(name)
    return getattr(argument, name, None)


def _plain(value: Any) -> Any:
    """Return what a Pydantic model holds."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} is not written as JSON")
    return dump(mode="json", exclude_none=True)


class CallMeter:
    r"""Counts the output tokens in the pieces of a streamed answer.

    Pieces are what a replica yields: events of a stream as text, lists of them (Serve's LLM servers
    send several together), or anything else, of which each counts as a token. Serve's HTTP proxies
    get them in ASGI messages, in which the events are found as well.

    Examples
    --------
    >>> meter = CallMeter()
    >>> event = 'data: {"choices": [{"text": "a"}]}\n\n'
    >>> meter.feed(event), meter.feed([event, event]), meter.feed({"token": 7})
    (1, 2, 1)
    >>> meter.feed("data: [DONE]\n\n"), meter.is_done
    (0, True)
    """

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events: TokenMeter | None = None

    @property
    def is_done(self) -> bool:
        """Tell whether the stream has said that it is over."""
        return self._events is not None and self._events.is_done

    @property
    def usage(self) -> Usage | None:
        """Return what the engine has counted, if it says so."""
        return self._events.usage if self._events is not None else None

    def feed(self, piece: Any) -> int:
        """Take in a piece; return the tokens in it."""
        if isinstance(piece, list | tuple):
            return sum(map(self.feed, piece))
        if isinstance(piece, str):
            piece = piece.encode("utf-8", "surrogatepass")  # a replica may yield half a character
        if not isinstance(piece, bytes):
            return 1
        if self._events is None:
            if SERVER_SENT_EVENT not in piece:
                return int(bool(piece) and HTTP_START not in piece)
            self._events = TokenMeter()
        at = piece.find(SERVER_SENT_EVENT)  # what a message is wrapped in comes before
        return self._events.feed(piece[at:] if at > 0 else piece)
