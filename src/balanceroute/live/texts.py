"""The texts of a prompt, as they are given to a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from balanceroute.live.wire import PATHS

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"


@dataclass(frozen=True, slots=True)
class PromptTexts:
    """What a prompt says.

    Attributes
    ----------
    texts : tuple of str
        In order; tools as the JSON that they are described with.
    num_messages : int
        That a chat template wraps; 0 for a completion.
    """

    texts: tuple[str, ...]
    num_messages: int


def prompt_texts(path: str, body: bytes) -> PromptTexts | None:
    """Return the texts of a request's prompt; None if it has none that could be counted.

    Examples
    --------
    >>> prompt_texts("/v1/completions", b'{"prompt": ["a b", "c"]}')
    PromptTexts(texts=('a b', 'c'), num_messages=0)
    >>> parts = b'[{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}]'
    >>> prompt_texts("/v1/chat/completions", b'{"messages": [{"content": %b}]}' % parts)
    PromptTexts(texts=('Hi',), num_messages=1)
    >>> prompt_texts("/v1/completions", b'{"prompt": [1, 2]}') is None
    True
    """
    try:
        request = msgspec.json.decode(body)
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        RecursionError,
    ):  # in a part that routing does not read
        return None
    prompt = request.get(PATHS[path])
    if path == CHAT:
        found = _of_messages(prompt)
    elif path == RESPONSES:
        found = [prompt] if isinstance(prompt, str) else _of_messages(prompt)
        if isinstance(request.get("instructions"), str):
            found.insert(0, request["instructions"])
    else:
        found = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(found, list) or not found or not all(type(text) is str for text in found):
            return None
        return PromptTexts(tuple(found), 0)
    if not found:
        return None
    num_messages = len(found)
    if request.get("tools"):
        found.append(msgspec.json.encode(request["tools"]).decode())
    return PromptTexts(tuple(found), num_messages)


def _of_messages(messages: object) -> list[str]:
    """Return one text for each message, empty for those that have none."""
    if not isinstance(messages, list):
        return []
    return [_content(message) for message in messages if isinstance(message, dict)]


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def tokenize_body(path: str, body: bytes) -> bytes | None:
    """Return what to ask an engine's ``/tokenize``; None if it cannot be asked.

    Examples
    --------
    >>> tokenize_body("/v1/responses", b'{"model": "m", "input": "Hi"}')
    b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
    """
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    prompt = request.get(PATHS[path])
    asked: dict[str, Any] = {"model": request["model"]} if "model" in request else {}
    if path == CHAT:
        asked |= {name: request[name] for name in ("messages", "tools") if name in request}
    elif path == RESPONSES:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if isinstance(request.get("instructions"), str) and isinstance(messages, list):
            messages = [{"role": "system", "content": request["instructions"]}, *messages]
        asked["messages"] = messages
    elif isinstance(prompt, str):
        asked["prompt"] = prompt
    else:
        return None
    return msgspec.json.encode(asked) if prompt else None
