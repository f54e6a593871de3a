"""The fields of OpenAI's requests that matter to the emulated server; others are ignored."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from balanceroute.emulator.errors import ApiError

Body = TypeVar("Body", bound=msgspec.Struct)


class StreamOptions(msgspec.Struct, kw_only=True):
    """What else a stream carries."""

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class Generation(msgspec.Struct, kw_only=True):
    """What completions and chats have in common."""

    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    n: int | None = 1
    ignore_eos: bool | None = False
    return_token_ids: bool | None = False
    data_parallel_rank: int | None = None
    kv_transfer_params: dict[str, Any] | None = None


class CompletionBody(Generation, kw_only=True):
    """Body of ``/v1/completions``."""

    prompt: str | list[Any] | None = None


class Message(msgspec.Struct, kw_only=True):
    """One message of a chat."""

    role: str
    content: str | list[Any] | None = None


class ChatBody(Generation, kw_only=True):
    """Body of ``/v1/chat/completions``."""

    messages: list[Message]
    max_completion_tokens: int | None = None


class ResponsesBody(msgspec.Struct, kw_only=True):
    """Body of ``/v1/responses``."""

    input: str | list[Any]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = False
    data_parallel_rank: int | None = None


class TokenizeBody(msgspec.Struct, kw_only=True):
    """Body of ``/tokenize``: a prompt, or a chat's messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None


class EmbeddingsBody(msgspec.Struct, kw_only=True):
    """Body of ``/v1/embeddings``."""

    input: str | list[Any]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = "float"


def decode(data: bytes, kind: type[Body]) -> Body:
    """Read a request's body.

    Raises
    ------
    ApiError
        400 if it is no JSON, or a field is missing or of a wrong type.

    Examples
    --------
    >>> decode(b'{"prompt": "Hi", "temperature": 0}', CompletionBody).prompt
    'Hi'
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise ApiError.of_status(400, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError.of_status(400, f"JSON decode error: {error}") from None
