"""The output tokens of answers: counted while they stream, and as engines state them."""

from __future__ import annotations

import msgspec

SERVER_SENT_EVENT, EVENT_END, DONE = b"data:", b"\n\n", b"[DONE]"
RESPONSE_ENDS = frozenset({"response.completed", "response.incomplete", "response.cancelled"})
RESPONSE_FAILURES = frozenset({"response.failed", "error"})
NO_ERROR = msgspec.Raw(b"")
FIRST_EVENTS, KEPT = 64, 0.98  # of one token each, to begin with; and what stays, per stream


class _Usage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0  # as the responses endpoint calls them
    output_tokens: int = 0


class _Delta(msgspec.Struct, frozen=True, gc=False):
    role: str | None = None


class _Choice(msgspec.Struct, frozen=True, gc=False):
    delta: _Delta | None = None
    token_ids: list[int] | None = None


class _Response(msgspec.Struct, frozen=True, gc=False):
    usage: _Usage | None = None


class _Chunk(msgspec.Struct, frozen=True, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    type: str = ""  # of an event of the responses endpoint
    sequence_number: int = -1  # there, too
    response: _Response | None = None
    error: msgspec.Raw = NO_ERROR


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of a request as the engine counts them; 0 where it does not say."""

    prompt_tokens: int
    output_tokens: int


def read_usage(body: bytes) -> Usage | None:
    """Return the usage that a whole answer states, if it does.

    Examples
    --------
    >>> read_usage(b'{"usage": {"prompt_tokens": 7, "completion_tokens": 2}}')
    Usage(prompt_tokens=7, output_tokens=2)
    >>> read_usage(b"[]") is None
    True
    """
    try:
        return _usage_of(_decode_chunk(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _usage_of(chunk: _Chunk) -> Usage | None:
    usage = chunk.usage or (chunk.response.usage if chunk.response is not None else None)
    if usage is None:
        return None
    return Usage(
        usage.prompt_tokens or usage.input_tokens, usage.completion_tokens or usage.output_tokens
    )


class TokenMeter:
    r"""Counts the output tokens in a stream of server-sent events.

    An event counts as many tokens as it lists ids; as the usage says that it states; else one for
    the first of a stream, and for each later one as many as events have been worth of late.

    Parameters
    ----------
    tokens_per_event : float
        That number, at least 1.

    Attributes
    ----------
    num_tokens, num_events : int
        So far.
    last_number : int
        Of the last event that has one, else -1.
    usage : Usage or None
        The last one stated.
    is_done, has_failed : bool
        Whether the stream has said that it is over, or that something went wrong.

    Examples
    --------
    >>> meter = TokenMeter()
    >>> meter.feed(b'data: {"choices": [{"text": "a"}]}\n\ndata: {"choices": [{"te')
    1
    >>> meter.feed(b'xt": "b"}]}\n\ndata: [DONE]\n\n'), meter.is_done
    (1, True)
    """

    __slots__ = (
        "_rest",
        "_tokens",
        "_tokens_per_event",
        "has_failed",
        "is_done",
        "last_number",
        "num_events",
        "num_tokens",
        "usage",
    )

    def __init__(self, tokens_per_event: float = 1.0) -> None:
        self._rest = b""
        self._tokens, self._tokens_per_event = 0.0, tokens_per_event
        self.num_tokens, self.num_events, self.last_number = 0, 0, -1
        self.usage: Usage | None = None
        self.is_done = self.has_failed = False

    def feed(self, data: bytes) -> int:
        """Take in the next bytes of the stream; return by how much `num_tokens` has risen."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        if data.find(EVENT_END) == len(data) - len(EVENT_END) >= 0:  # one event, as most often
            self._rest = b""
            self._read(data)
        else:
            *events, self._rest = data.split(EVENT_END)
            for event in events:
                self._read(event)
        before, self.num_tokens = self.num_tokens, round(self._tokens)
        return self.num_tokens - before

    def _read(self, event: bytes) -> None:
        at = event.find(SERVER_SENT_EVENT)
        if at < 0:  # a comment
            return
        payload = event[at + len(SERVER_SENT_EVENT) :]
        if DONE in payload[:8]:
            self.is_done = True
            return
        try:
            chunk = _decode_chunk(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if chunk.error is not NO_ERROR and bytes(chunk.error) not in (b"", b"null"):
            self.has_failed = True
        for choice in chunk.choices:
            if choice.token_ids is not None:
                self._count(float(len(choice.token_ids)))
            elif choice.delta is None or choice.delta.role is None:
                self._count()
        if chunk.type or chunk.sequence_number >= 0:
            self._read_response(chunk)
        if chunk.usage is None and chunk.response is None:  # as in nearly all events
            return
        usage = _usage_of(chunk)
        if usage is not None:
            self.usage = usage
            if chunk.choices:  # stated all along, not only at the end
                self._tokens = max(self._tokens, float(usage.output_tokens))

    def _read_response(self, chunk: _Chunk) -> None:
        """Read what events of the responses endpoint have that others have not."""
        if chunk.type.endswith(".delta"):
            self._count()
        elif chunk.type in RESPONSE_ENDS:
            self.is_done = True
        elif chunk.type in RESPONSE_FAILURES:
            self.has_failed = True
        self.last_number = max(self.last_number, chunk.sequence_number)

    def _count(self, num_tokens: float | None = None) -> None:
        """Count an event, of so many tokens if it says."""
        if num_tokens is None:
            num_tokens = self._tokens_per_event if self.num_events > 0 else 1.0
        self._tokens += num_tokens
        self.num_events += 1


class EventRate:
    """Learns how many tokens an event of a stream is worth, from the usage that streams end with.

    Engines put several tokens into an event if they are told to, or if they guess ahead.

    Examples
    --------
    >>> rate = EventRate()
    >>> for _ in range(1000):
    ...     rate.learn(num_events=11, output_tokens=81)
    >>> round(rate.tokens_per_event, 2)
    8.0
    """

    def __init__(self) -> None:
        self._events = self._tokens = float(FIRST_EVENTS)

    @property
    def tokens_per_event(self) -> float:
        """Return the tokens of an event that is not the first of its stream, at least 1."""
        return max(1.0, self._tokens / self._events)

    def learn(self, *, num_events: int, output_tokens: int) -> None:
        """Take in a stream that has ended."""
        if num_events < 2 or output_tokens < num_events:
            return
        self._events = KEPT * self._events + num_events - 1
        self._tokens = KEPT * self._tokens + output_tokens - 1
