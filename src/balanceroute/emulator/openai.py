"""What clients ask for, whichever endpoint of OpenAI's they ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from balanceroute.emulator.bodies import (
    ChatBody,
    CompletionBody,
    Generation,
    ResponsesBody,
    StreamOptions,
    decode,
)
from balanceroute.emulator.errors import ApiError
from balanceroute.emulator.tokens import (
    TOKENS_PER_MESSAGE,
    chat_token_ids,
    count_text_tokens,
    text_token_ids,
)

Kind = Literal["completion", "chat", "response"]

DEFAULT_COMPLETION_TOKENS = 16  # of /v1/completions without max_tokens, OpenAI's and vLLM's


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request for output, whichever endpoint it came by.

    Attributes
    ----------
    kind : {"completion", "chat", "response"}
        Endpoint.
    prompt_tokens : int
        Length of the prompt, at least 1.
    prompt_ids : callable
        Returns the prompt's token ids.
    max_tokens : int or None
        The client's own limit of output tokens.
    min_tokens : int
        Output tokens at least.
    default_max_tokens : int or None
        The limit where the client gives none; None for what the context has room for.
    has_fixed_length : bool
        Whether the output ends at its limit and nowhere else.
    model, rank, transfer
        What the body says about model, rank and KV transfer; None where it does not.
    is_stream, include_usage, continuous_usage, return_token_ids : bool
        Form of the answer.
    """

    kind: Kind
    prompt_tokens: int
    prompt_ids: Callable[[], list[int]]
    max_tokens: int | None
    min_tokens: int = 1
    default_max_tokens: int | None = None
    has_fixed_length: bool = False
    model: str | None = None
    rank: int | None = None
    transfer: dict[str, Any] | None = None
    is_stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    return_token_ids: bool = False


def read_completion(data: bytes) -> Ask:
    """Read the body of ``/v1/completions``.

    Raises
    ------
    ApiError
        400 if it cannot be served.

    Examples
    --------
    >>> read_completion(b'{"prompt": [5, 6, 7], "max_tokens": 9}').prompt_tokens
    3
    """
    body = decode(data, CompletionBody)
    prompt = body.prompt
    if not prompt:
        message = "Either prompt or prompt_embeds must be provided and non-empty."
        raise ApiError(400, message, param="prompt")
    if isinstance(prompt, list) and not isinstance(prompt[0], int):
        if len(prompt) > 1:
            message = "the emulated server takes one prompt per request"
            raise ApiError(400, message, param="prompt")
        prompt = prompt[0]
    num_tokens, ids = count_prompt(prompt)
    return _generation(
        body,
        kind="completion",
        prompt_tokens=num_tokens,
        prompt_ids=ids,
        max_tokens=body.max_tokens,
        default_max_tokens=DEFAULT_COMPLETION_TOKENS,
    )


def read_chat(data: bytes) -> Ask:
    """Read the body of ``/v1/chat/completions``.

    Raises
    ------
    ApiError
        400 if it cannot be served.

    Examples
    --------
    Four tokens for the message, and two for its text:

    >>> read_chat(b'{"messages": [{"role": "user", "content": "Hello"}]}').prompt_tokens
    6
    """
    body = decode(data, ChatBody)
    if not body.messages:
        raise ApiError(400, "messages must not be empty", param="messages")
    texts = [content_text(message.content) for message in body.messages]
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return _generation(
        body,
        kind="chat",
        prompt_tokens=count_chat_tokens(texts),
        prompt_ids=lambda: chat_token_ids(texts),
        max_tokens=limit,
    )


def read_response(data: bytes) -> Ask:
    """Read the body of ``/v1/responses``.

    Raises
    ------
    ApiError
        400 if it cannot be served.
    """
    body = decode(data, ResponsesBody)
    texts = [] if body.instructions is None else [body.instructions]
    if isinstance(body.input, str):
        texts.append(body.input)
    else:
        texts += [content_text(item.get("content")) for item in body.input if type(item) is dict]
    if not body.input or not texts:
        raise ApiError(400, "input must not be empty", param="input")
    return Ask(
        kind="response",
        prompt_tokens=count_chat_tokens(texts),
        prompt_ids=lambda: chat_token_ids(texts),
        max_tokens=_checked_limit("max_output_tokens", body.max_output_tokens),
        model=body.model,
        rank=body.data_parallel_rank,
        is_stream=bool(body.stream),
    )


def count_prompt(prompt: object) -> tuple[int, Callable[[], list[int]]]:
    """Return the tokens of a prompt, a text or a list of ids, and a way to its ids."""
    if isinstance(prompt, str):
        text = prompt
        return max(1, count_text_tokens(text)), lambda: text_token_ids(text) or [0]
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        ids: list[int] = prompt
        return len(ids), lambda: ids
    raise ApiError(400, "a prompt is a text or a list of token ids", param="prompt")


def count_chat_tokens(texts: list[str]) -> int:
    """Return the tokens of messages with these texts."""
    return sum(count_text_tokens(text) + TOKENS_PER_MESSAGE for text in texts)


def content_text(content: object) -> str:
    """Return the text of a message, whose content may come in parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _generation(
    body: Generation,
    *,
    kind: Kind,
    prompt_tokens: int,
    prompt_ids: Callable[[], list[int]],
    max_tokens: int | None,
    default_max_tokens: int | None = None,
) -> Ask:
    if body.n not in (None, 1):
        raise ApiError(400, f"the emulated server has n=1 only, got {body.n}", param="n")
    if body.stream_options is not None and not body.stream:
        message = "Stream options can only be defined when `stream=True`."
        raise ApiError(400, message, param="stream_options")
    options = body.stream_options or StreamOptions(include_usage=False)
    max_tokens = _checked_limit("max_tokens", max_tokens)
    is_exact = max_tokens is not None and body.min_tokens == max_tokens
    return Ask(
        kind=kind,
        prompt_tokens=prompt_tokens,
        prompt_ids=prompt_ids,
        max_tokens=max_tokens,
        min_tokens=body.min_tokens or 1,
        default_max_tokens=default_max_tokens,
        has_fixed_length=bool(body.ignore_eos) or is_exact,
        model=body.model,
        rank=body.data_parallel_rank,
        transfer=body.kv_transfer_params,
        is_stream=bool(body.stream),
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.include_usage and options.continuous_usage_stats),
        return_token_ids=bool(body.return_token_ids),
    )


def _checked_limit(name: str, limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise ApiError(400, f"{name} must be at least 1, got {limit}.", param=name)
    return limit
