"""How tokens are told: the JSON of completions and of chats, whole or as server-sent events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from balanceroute.emulator.openai import Ask
from balanceroute.emulator.request import FinishReason
from balanceroute.emulator.tokens import END_ID, OUTPUT_ID, OUTPUT_TEXT

DONE = b"data: [DONE]\n\n"


class Dialect(Protocol):
    """The bytes that an endpoint answers with."""

    #: Whether all chunks but the first and the last depend on their number of tokens only.
    has_constant_chunks: bool

    def chunk(self, num_tokens: int, total_tokens: int) -> bytes:
        """Return events that bring `num_tokens` more, of `total_tokens` so far.

        The two are equal for the first chunk, which also opens the stream.
        """

    def last(self, num_tokens: int, total_tokens: int, reason: FinishReason) -> bytes:
        """Return the events that bring the last tokens and end the stream."""

    def body(self, total_tokens: int, reason: FinishReason) -> bytes:
        """Return the whole answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What is the same in all that belongs to one answer.

    Attributes
    ----------
    id, model : str
        Names of the request and of the model.
    created : int
        Seconds since 1970.
    usage_error : int
        Tokens that reported usage is wrong by.
    transfer : dict or None
        KV transfer parameters for the decode side.
    """

    id: str
    model: str
    created: int
    usage_error: int = 0
    transfer: dict[str, Any] | None = None


def event(content: object) -> bytes:
    r"""Return a server-sent event.

    Examples
    --------
    >>> event({"a": 1})
    b'data: {"a":1}\n\n'
    """
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def output_text(num_tokens: int, reason: FinishReason | None) -> str:
    """Return the text of tokens; one that ends the output by itself has none.

    Examples
    --------
    >>> output_text(2, None), output_text(2, "length"), output_text(2, "stop")
    (' a a', ' a a', ' a')
    """
    return OUTPUT_TEXT * (num_tokens - (reason == "stop"))


def output_ids(num_tokens: int, reason: FinishReason | None) -> list[int]:
    """Return the ids of tokens.

    Examples
    --------
    >>> output_ids(3, "stop")
    [264, 264, 2]
    """
    ended = [END_ID] if reason == "stop" else []
    return [OUTPUT_ID] * (num_tokens - len(ended)) + ended


def usage(ask: Ask, label: Label, total_tokens: int) -> dict[str, Any]:
    """Return how many tokens came in and went out, as the answer claims."""
    prompt_tokens = max(0, ask.prompt_tokens + label.usage_error)
    completion_tokens = max(0, total_tokens + label.usage_error)
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": None,
    }


class CompletionDialect:
    r"""Answers of ``/v1/completions``.

    Examples
    --------
    >>> ask = Ask(kind="completion", prompt_tokens=1, prompt_ids=lambda: [5], max_tokens=9)
    >>> dialect = CompletionDialect(ask, Label(id="cmpl-1", model="m", created=0))
    >>> print(dialect.chunk(1, 1).decode().strip())
    data: {"id":"cmpl-1","object":"text_completion","created":0,"model":"m","choices":[{"index":0,"text":" a","logprobs":null,"finish_reason":null,"stop_reason":null}],"usage":null}
    """  # noqa: E501 (a line of the stream)

    def __init__(self, ask: Ask, label: Label) -> None:
        self._ask = ask
        self._label = label
        self.has_constant_chunks = not ask.continuous_usage

    def chunk(self, num_tokens: int, total_tokens: int) -> bytes:
        """Return a chunk of text."""
        return self._chunk(num_tokens, total_tokens, None)

    def last(self, num_tokens: int, total_tokens: int, reason: FinishReason) -> bytes:
        """Return the last chunk, the usage if it was asked for, and the end."""
        events = self._chunk(num_tokens, total_tokens, reason)
        if self._ask.include_usage:
            totals = {"choices": [], "usage": usage(self._ask, self._label, total_tokens)}
            events += event(self._head() | totals)
        return events + DONE

    def body(self, total_tokens: int, reason: FinishReason) -> bytes:
        """Return the whole answer."""
        choice = {
            "index": 0,
            "text": output_text(total_tokens, reason),
            "logprobs": None,
            "finish_reason": reason,
            "stop_reason": None,
            "prompt_logprobs": None,
        }
        if self._ask.return_token_ids:
            choice["prompt_token_ids"] = self._ask.prompt_ids()
            choice["token_ids"] = output_ids(total_tokens, reason)
        return msgspec.json.encode(
            self._head()
            | {
                "choices": [choice],
                "usage": usage(self._ask, self._label, total_tokens),
                "kv_transfer_params": self._label.transfer,
            }
        )

    def _chunk(self, num_tokens: int, total_tokens: int, reason: FinishReason | None) -> bytes:
        choice = {
            "index": 0,
            "text": output_text(num_tokens, reason),
            "logprobs": None,
            "finish_reason": reason,
            "stop_reason": None,
        }
        if self._ask.return_token_ids:
            if num_tokens == total_tokens:
                choice["prompt_token_ids"] = self._ask.prompt_ids()
            choice["token_ids"] = output_ids(num_tokens, reason)
        is_counted = self._ask.continuous_usage
        counted = usage(self._ask, self._label, total_tokens) if is_counted else None
        return event(self._head() | {"choices": [choice], "usage": counted})

    def _head(self) -> dict[str, Any]:
        label = self._label
        return {
            "id": label.id,
            "object": "text_completion",
            "created": label.created,
            "model": label.model,
        }


class ChatDialect:
    """Answers of ``/v1/chat/completions``."""

    def __init__(self, ask: Ask, label: Label) -> None:
        self._ask = ask
        self._label = label
        self.has_constant_chunks = not ask.continuous_usage

    def chunk(self, num_tokens: int, total_tokens: int) -> bytes:
        """Return a chunk of text, behind one with the role if it is the first."""
        return self._chunk(num_tokens, total_tokens, None)

    def last(self, num_tokens: int, total_tokens: int, reason: FinishReason) -> bytes:
        """Return the last chunk, the usage if it was asked for, and the end."""
        events = self._chunk(num_tokens, total_tokens, reason)
        if self._ask.include_usage:
            totals = {"choices": [], "usage": usage(self._ask, self._label, total_tokens)}
            events += event(self._head("chat.completion.chunk") | totals)
        return events + DONE

    def body(self, total_tokens: int, reason: FinishReason) -> bytes:
        """Return the whole answer."""
        ask, label = self._ask, self._label
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": output_text(total_tokens, reason)},
            "logprobs": None,
            "finish_reason": reason,
            "stop_reason": None,
        }
        whole = self._head("chat.completion") | {
            "choices": [choice],
            "usage": usage(ask, label, total_tokens),
            "prompt_logprobs": None,
            "kv_transfer_params": label.transfer,
        }
        if ask.return_token_ids:
            choice["token_ids"] = output_ids(total_tokens, reason)
            whole["prompt_token_ids"] = ask.prompt_ids()
        return msgspec.json.encode(whole)

    def _chunk(self, num_tokens: int, total_tokens: int, reason: FinishReason | None) -> bytes:
        ask, head = self._ask, self._head("chat.completion.chunk")
        opening = b""
        if num_tokens == total_tokens:
            choice = _delta({"role": "assistant", "content": ""}, None)
            first = head | {"choices": [choice]}
            if ask.return_token_ids:
                first["prompt_token_ids"] = ask.prompt_ids()
            if ask.continuous_usage:
                first["usage"] = usage(ask, self._label, 0)
            opening = event(first)
        choice = _delta({"content": output_text(num_tokens, reason)}, reason)
        if reason is not None:
            choice["stop_reason"] = None
        if ask.return_token_ids:
            choice["token_ids"] = output_ids(num_tokens, reason)
        more = head | {"choices": [choice]}
        if ask.continuous_usage:
            more["usage"] = usage(ask, self._label, total_tokens)
        return opening + event(more)

    def _head(self, kind: str) -> dict[str, Any]:
        label = self._label
        return {
            "id": label.id,
            "object": kind,
            "created": label.created,
            "model": label.model,
        }


def _delta(delta: dict[str, str], reason: FinishReason | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
