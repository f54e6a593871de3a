"""What routing needs to know of requests and answers on the wire; the rest is passed on as it is.

Fields that routing does not need are ignored, and so are values of a type that it does not expect:
it is the engine that judges requests.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

MESSAGE_TOKENS = 4  # what a chat template adds to a message, about
SERVER_SENT_EVENT, EVENT_END, DONE = b"data:", b"\n\n", b"[DONE]"
PATHS = {  # endpoints that make the engine generate, and what their prompt is called
    "/v1/completions": "prompt",
    "/v1/chat/completions": "messages",
    "/v1/responses": "input",
}


class BadBody(Exception):  # noqa: N818  # a request's fault, not ours
    """The body of a request is not a JSON object."""


class _Fields(msgspec.Struct, frozen=True):
    """Top-level fields of a request, each as the bytes that it is written with."""

    model: msgspec.Raw = msgspec.Raw(b"null")
    prompt: msgspec.Raw = msgspec.Raw(b"null")
    messages: msgspec.Raw = msgspec.Raw(b"null")
    input: msgspec.Raw = msgspec.Raw(b"null")
    stream: msgspec.Raw = msgspec.Raw(b"null")
    max_tokens: msgspec.Raw = msgspec.Raw(b"null")
    max_completion_tokens: msgspec.Raw = msgspec.Raw(b"null")
    max_output_tokens: msgspec.Raw = msgspec.Raw(b"null")
    priority: msgspec.Raw = msgspec.Raw(b"null")
    user: msgspec.Raw = msgspec.Raw(b"null")


_decode_fields = msgspec.json.Decoder(_Fields).decode
_decode_any = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What a request's body tells.

    Attributes
    ----------
    is_streamed : bool
        Whether the answer is to come token by token.
    prompt_ids : int or None
        Length of the prompt, if it is given as token ids.
    prompt_bytes, num_messages : int
        Else its UTF-8 bytes, and in how many messages of a chat.
    max_tokens, priority : int
        0 where nothing is said.
    prompt_hash : int
        Equal for equal prompts; 0 if there is none.
    user : str
        Whom the request is made for; empty if it does not say.
    """

    is_streamed: bool
    prompt_ids: int | None
    prompt_bytes: int
    num_messages: int
    max_tokens: int
    priority: int
    prompt_hash: int
    user: str


def read_request(path: str, body: bytes) -> RequestFacts:
    """Return what the body of a request to a generating endpoint tells.

    Raises
    ------
    BadBody
        If it is not a JSON object.

    Examples
    --------
    >>> facts = read_request("/v1/completions", b'{"prompt": [1, 2, 3], "stream": true}')
    >>> facts.prompt_ids, facts.is_streamed
    (3, True)
    """
    try:
        fields = _decode_fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBody(str(error)) from error
    raw = bytes(getattr(fields, PATHS[path]))
    limits = (fields.max_tokens, fields.max_completion_tokens, fields.max_output_tokens)
    user = _value(fields.user)
    return RequestFacts(
        is_streamed=bytes(fields.stream) == b"true",
        prompt_ids=_num_ids(raw),
        prompt_bytes=len(raw),
        num_messages=raw.count(b'"role"') if path != "/v1/completions" else 0,
        max_tokens=max(0, *(_integer(limit) for limit in limits)),
        priority=_integer(fields.priority),
        prompt_hash=_hash(raw),
        user=user if isinstance(user, str) else "",
    )


def _num_ids(raw: bytes) -> int | None:
    """Return the length of a prompt of token ids, of the longest of several; None for text."""
    if not raw.startswith(b"["):
        return None
    try:
        prompt = _decode_any(raw)
    except msgspec.DecodeError:
        return None
    prompts = prompt if prompt and isinstance(prompt[0], list) else [prompt]
    if not all(part and all(type(token) is int for token in part) for part in prompts):
        return None
    return sum(len(part) for part in prompts)


def _value(raw: msgspec.Raw) -> object:
    return _decode_any(bytes(raw))


def _integer(raw: msgspec.Raw) -> int:
    value = _value(raw)
    is_small = type(value) is int and abs(value) < 1 << 40
    return value if is_small and isinstance(value, int) else 0


def _hash(raw: bytes) -> int:
    if raw == b"null":
        return 0
    digest = hashlib.blake2b(raw, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0  # as the responses endpoint calls them
    output_tokens: int = 0


class _Delta(msgspec.Struct, frozen=True):
    role: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta | None = None
    token_ids: list[int] | None = None


class _Response(msgspec.Struct, frozen=True):
    usage: _Usage | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    type: str = ""  # of an event of the responses endpoint
    response: _Response | None = None
    error: msgspec.Raw = msgspec.Raw(b"")


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


@dataclass(frozen=True, slots=True)
class Usage:
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

    An event counts as many tokens as it lists ids, else one for each of its choices; where usage is
    stated, that is the truth.

    Attributes
    ----------
    num_tokens : int
        So far.
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

    __slots__ = ("_rest", "has_failed", "is_done", "num_tokens", "usage")

    def __init__(self) -> None:
        self._rest = b""
        self.num_tokens = 0
        self.usage: Usage | None = None
        self.is_done = self.has_failed = False

    def feed(self, data: bytes) -> int:
        """Take in the next bytes of the stream; return by how much `num_tokens` has risen."""
        before = self.num_tokens
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(EVENT_END)
        for event in events:
            self._count(event)
        return self.num_tokens - before

    def _count(self, event: bytes) -> None:
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
        if bytes(chunk.error) not in (b"", b"null"):
            self.has_failed = True
        for choice in chunk.choices:
            if choice.token_ids is not None:
                self.num_tokens += len(choice.token_ids)
            elif choice.delta is None or choice.delta.role is None:
                self.num_tokens += 1
        if chunk.type.endswith(".delta"):
            self.num_tokens += 1
        elif chunk.type == "response.completed":
            self.is_done = True
        usage = _usage_of(chunk)
        if usage is not None:
            self.usage = usage
            self.num_tokens = max(self.num_tokens, usage.output_tokens)
