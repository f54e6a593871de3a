"""What routing needs to know of requests on the wire; the rest is passed on as it is.

Fields that routing does not need are ignored, and so are values of a type that it does not expect:
it is the engine that judges requests.
"""

from __future__ import annotations

import hashlib
import string

import msgspec

NUM_CLIENTS = 1 << 40  # that can be told apart; classifiers put the number into a key of 64 bits
OF_IDS = b"0123456789,[] \t\r\n"  # what lists of token ids are written with
BLOCK_BYTES = 1024  # of a prompt as it is written; a few hundred tokens, as blocks of caches are
MEDIA = (b'_url"', b'"input_audio"', b'"input_file"')  # parts of messages that are no text
MAX_SEQUENCES = 1024  # that one request is booked as: more than ranks have slots
BASE64 = (string.ascii_letters + string.digits + "+/=_-").encode()
LEAST_DATA = 512  # bytes that can be a picture; longer words are no words
MESSAGE_TOKENS = 4  # what a chat template adds to a message, about
PATHS = {  # endpoints that make the engine generate, and what their prompt is called
    "/v1/completions": "prompt",
    "/v1/chat/completions": "messages",
    "/v1/responses": "input",
}


class BadBody(Exception):  # noqa: N818  # a request's fault, not ours
    """The body of a request is not a JSON object."""


NULL = msgspec.Raw(b"null")  # of what a request does not have


class _Fields(msgspec.Struct, frozen=True, gc=False):
    """Top-level fields of a request, each as the bytes that it is written with."""

    model: msgspec.Raw = NULL
    prompt: msgspec.Raw = NULL
    messages: msgspec.Raw = NULL
    input: msgspec.Raw = NULL
    stream: msgspec.Raw = NULL
    max_tokens: msgspec.Raw = NULL
    max_completion_tokens: msgspec.Raw = NULL
    max_output_tokens: msgspec.Raw = NULL
    priority: msgspec.Raw = NULL
    user: msgspec.Raw = NULL
    n: msgspec.Raw = NULL


_decode_fields = msgspec.json.Decoder(_Fields).decode
_decode_any = msgspec.json.Decoder().decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class RequestFacts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a request's body tells.

    Attributes
    ----------
    is_streamed : bool
        Whether the answer is to come token by token.
    prompt_ids : int or None
        Length of the prompt, if it is given as token ids.
    prompt_bytes, num_messages : int
        Else its UTF-8 bytes without pictures and the like, and in how many messages of a chat.
    has_media : bool
        Whether there are such, of which nothing tells how many tokens they come to.
    text_tokens : int or None
        Tokens of its texts, without what a template adds, if a tokenizer has counted them.
    counted_tokens : int or None
        Length of the prompt, if an engine has counted it.
    max_tokens, priority : int
        0 where nothing is said.
    prompt_hash : int
        Equal for equal prompts; 0 if there is none.
    client : int
        A number for whom the request is made for, the same for the same; -1 if it does not say.
    num_prompts, num_choices : int
        Prompts that it has, and sequences that are to go on from each.
    blocks : tuple of int
        Ids of its prompt's whole blocks, if they were asked for.
    """

    is_streamed: bool
    prompt_ids: int | None
    prompt_bytes: int
    num_messages: int
    max_tokens: int
    priority: int
    prompt_hash: int
    client: int
    has_media: bool = False
    text_tokens: int | None = None
    counted_tokens: int | None = None
    num_prompts: int = 1
    num_choices: int = 1
    blocks: tuple[int, ...] = ()


def read_request(path: str, body: bytes, *, with_blocks: bool = False) -> RequestFacts:
    """Return what the body of a request to a generating endpoint tells, with blocks on demand.

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
    except RecursionError as error:
        raise BadBody("it is nested too deeply") from error
    raw = bytes(getattr(fields, PATHS[path]))
    is_chat = path != "/v1/completions"
    has_media = is_chat and any(mark in raw for mark in MEDIA)
    num_prompts = _num_prompts(raw) if not is_chat else 1
    limits = (fields.max_tokens, fields.max_completion_tokens, fields.max_output_tokens)
    return RequestFacts(
        is_streamed=bytes(fields.stream) == b"true",
        prompt_ids=_num_ids(raw),
        prompt_bytes=len(raw) - (_data_bytes(raw) if has_media else 0),
        num_messages=raw.count(b'"role"') if is_chat else 0,
        has_media=has_media,
        max_tokens=max(0, *(_integer(limit) for limit in limits)),
        priority=_integer(fields.priority),
        prompt_hash=_hash(raw),
        client=_client(fields.user),
        num_prompts=num_prompts,
        num_choices=min(max(1, _integer(fields.n)), MAX_SEQUENCES // num_prompts),
        blocks=prefix_blocks(raw) if with_blocks else (),
    )


def prefix_blocks(prompt: bytes) -> tuple[int, ...]:
    """Return an id for each whole block of a prompt, which stands for all that leads up to it.

    Examples
    --------
    >>> first, second = prefix_blocks(b"a" * 2048 + b"b"), prefix_blocks(b"a" * 1024 + b"b" * 1024)
    >>> len(first), first[0] == second[0], first[1] == second[1]
    (2, True, False)
    """
    blocks, before = [], b""
    for start in range(0, len(prompt) - BLOCK_BYTES + 1, BLOCK_BYTES):
        block = prompt[start : start + BLOCK_BYTES]
        before = hashlib.blake2b(block, digest_size=8, key=before).digest()
        blocks.append(int.from_bytes(before, "little", signed=True))
    return tuple(blocks)


def _num_ids(raw: bytes) -> int | None:
    """Return how many ids a prompt of token ids has, all of its lists together; None for text.

    Counted by the commas of what is JSON already: to make numbers of ten thousand ids takes longer
    than the rest of what a router does for them.
    """
    if not raw.startswith(b"[") or raw.translate(None, OF_IDS):
        return None
    return None if b"[]" in raw else raw.count(b",") + 1  # engines refuse empty lists


def _num_prompts(raw: bytes) -> int:
    """Return how many prompts a completion goes on from, each of them text or a list of ids."""
    if not raw.startswith(b"[") or not raw[1:].lstrip().startswith((b"[", b'"')):
        return 1
    return min(len(_decode_list(raw)), MAX_SEQUENCES)


def _data_bytes(messages: bytes) -> int:
    """Return the bytes of what is written as data within messages: pictures, sound, files."""
    return sum(
        len(piece)
        for piece in messages.split(b'"')
        if len(piece) >= LEAST_DATA
        and (piece.startswith(b"data:") or not piece.translate(None, BASE64))
    )


def _value(raw: msgspec.Raw) -> object:
    return _decode_any(bytes(raw))


def _integer(raw: msgspec.Raw) -> int:
    if raw is NULL:
        return 0
    value = _value(raw)
    is_small = type(value) is int and abs(value) < 1 << 40
    return value if is_small and isinstance(value, int) else 0


def _client(user: msgspec.Raw) -> int:
    # A number without a table of clients, which any client could make grow.
    if user is NULL:
        return -1
    is_named = bytes(user).startswith(b'"')
    return abs(_hash(bytes(user))) % NUM_CLIENTS if is_named else -1


def _hash(raw: bytes) -> int:
    return 0 if raw == b"null" else number_of(raw)


def number_of(raw: bytes) -> int:
    """Return a number for what may be long, the same for the same, never 0."""
    digest = hashlib.blake2b(raw, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def legible(value: str) -> str:
    r"""Return a header as it can be written down and told: bytes that are no UTF-8 as ``\xe9``.

    Examples
    --------
    >>> legible(b"caf\xe9".decode("utf-8", "surrogateescape"))
    'caf\\xe9'
    """
    if value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
