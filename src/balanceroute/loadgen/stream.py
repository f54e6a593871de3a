"""Streams of server-sent events: how many tokens they carry, and whether they are whole."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

DATA, EVENT_END, DONE = b"data:", b"\n\n", b"[DONE]"


class StreamError(Exception):
    """An answer is not what was asked for.

    Parameters
    ----------
    cause : str
        Kind of the failure, one of few.
    message : str
        Details.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Delta(msgspec.Struct, frozen=True, gc=False):
    """What a chunk adds to a chat's message; a token may have no text of its own."""

    role: str | None = None
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType | None = UNSET
    reasoning: str | UnsetType | None = UNSET


class Choice(msgspec.Struct, frozen=True):
    """One answer of a chunk; of a whole answer, nothing is looked at."""

    text: str | UnsetType | None = UNSET
    delta: Delta | None = None
    token_ids: list[int] | None = None
    finish_reason: str | None = None

    @property
    def num_tokens(self) -> int:
        """Return how many tokens it seems to carry."""
        if self.token_ids is not None:
            return len(self.token_ids)
        if self.text is not UNSET:
            return 1
        delta = self.delta
        if delta is None or (delta.role is not None and not delta.content):
            return 0
        parts = (delta.content, delta.reasoning_content, delta.reasoning)
        return int(any(part is not UNSET for part in parts))


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts as the server states them."""

    completion_tokens: int = 0
    prompt_tokens: int | None = None


class Chunk(msgspec.Struct, frozen=True):
    """An event of a stream, or a whole answer."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Chunk).decode


def read_chunk(data: bytes) -> Chunk:
    """Read an event's or an answer's JSON.

    Raises
    ------
    StreamError
        If it is none, or reports an error.
    """
    try:
        chunk = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StreamError("bad JSON", f"{error}: {shown(data)}") from error
    if chunk.error is not None:
        raise StreamError("error in the answer", error_message(bytes(data)))
    return chunk


class StreamMeter:
    r"""Counts the tokens of a stream as it comes.

    A chunk with text counts as a token. Where the server states its usage, that is the truth, since
    a chunk may carry several tokens or none.

    Attributes
    ----------
    num_tokens : int
        Output tokens so far.
    prompt_tokens : int or None
        Length of the prompt, if the server states it.
    is_done : bool
        Whether the stream has said that it is over.

    Examples
    --------
    >>> meter = StreamMeter()
    >>> meter.feed(b'data: {"choices":[{"text":" a"}]}\n\ndata: {"choi')
    1
    >>> meter.feed(b'ces":[],"usage":{"completion_tokens":3}}\n\ndata: [DONE]\n\n')
    0
    >>> meter.num_tokens, meter.is_done
    (3, True)
    """

    __slots__ = ("_has_finished", "_rest", "is_done", "num_tokens", "prompt_tokens")

    def __init__(self) -> None:
        self._rest = b""
        self._has_finished = False
        self.num_tokens = 0
        self.prompt_tokens: int | None = None
        self.is_done = False

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing is missing, whether or not the stream ends as it should."""
        return self.is_done or self._has_finished

    def feed(self, data: bytes) -> int:
        """Take the next bytes of a stream; return how many tokens came in them.

        What a closing statement of usage corrects did not come then, and is not in it.

        Raises
        ------
        StreamError
            If an event is no JSON, or reports an error.
        """
        num_tokens = 0
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(EVENT_END)
        for event in events:
            start = event.find(DATA)
            if start >= 0:  # else a comment, which keeps the connection alive
                num_tokens += self._count(event[start + len(DATA) :])
        return num_tokens

    def _count(self, payload: bytes) -> int:
        if payload.strip() == DONE:
            self.is_done = True
            return 0
        chunk = read_chunk(payload)
        before = self.num_tokens
        for choice in chunk.choices:
            self.num_tokens += choice.num_tokens
            if choice.finish_reason is not None:
                self._has_finished = True
        if chunk.usage is not None:
            self.num_tokens = chunk.usage.completion_tokens
            self.prompt_tokens = chunk.usage.prompt_tokens
        return max(0, self.num_tokens - before) if chunk.choices else 0


def error_message(data: bytes) -> str:
    """Return what an error's JSON says, or the text itself.

    Examples
    --------
    >>> error_message(b'{"error":{"message":"queue full","code":429}}')
    'queue full'
    """
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return shown(data)
    error = document.get("error", document) if isinstance(document, dict) else document
    message = error.get("message", error) if isinstance(error, dict) else error
    return shown(str(message).encode())


def shown(data: bytes) -> str:
    r"""Return the start of a text, on one line.

    Examples
    --------
    >>> shown(b"first\n second")
    'first second'
    """
    text = " ".join(data.decode(errors="replace").split())
    return text if len(text) <= 200 else text[:200] + "…"
