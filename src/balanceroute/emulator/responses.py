"""How tokens are told by ``/v1/responses``: numbered events, or one object."""

from __future__ import annotations

from typing import Any

import msgspec

from balanceroute.emulator.dialects import Label, output_text, usage
from balanceroute.emulator.openai import Ask
from balanceroute.emulator.request import FinishReason

OUTPUT = {"output_index": 0, "content_index": 0}  # there is one output with one part
# What clients' libraries look for in a response, whatever was asked.
SETTINGS: dict[str, Any] = {
    "instructions": None,
    "metadata": None,
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
}


class ResponseDialect:
    """Answers of ``/v1/responses``: one message with one part of text."""

    has_constant_chunks = False  # each event has its number

    def __init__(self, ask: Ask, label: Label) -> None:
        self._ask = ask
        self._label = label
        self._item_id = f"msg_{label.id.removeprefix('resp_')}"
        self._num_events = 0

    def chunk(self, num_tokens: int, total_tokens: int) -> bytes:
        """Return a delta of text, behind the opening events if it is the first."""
        opening = self._opening() if num_tokens == total_tokens else b""
        return opening + self._delta(output_text(num_tokens, None))

    def last(self, num_tokens: int, total_tokens: int, reason: FinishReason) -> bytes:
        """Return the last delta and the events that close part, item and response."""
        opening = self._opening() if num_tokens == total_tokens else b""
        text = output_text(num_tokens, reason)
        delta = self._delta(text) if text else b""
        whole = output_text(total_tokens, reason)
        part, item = _part(whole), self._item(whole, "completed")
        done = self._of_item("response.output_text.done", OUTPUT | {"text": whole})
        closing = done + self._of_item("response.content_part.done", OUTPUT | {"part": part})
        closing += self._event("response.output_item.done", {"output_index": 0, "item": item})
        kind = "response.completed" if reason == "stop" else "response.incomplete"
        closing += self._event(kind, {"response": self._response(total_tokens, reason)})
        return opening + delta + closing

    def body(self, total_tokens: int, reason: FinishReason) -> bytes:
        """Return the whole answer."""
        return msgspec.json.encode(self._response(total_tokens, reason))

    def _opening(self) -> bytes:
        begun = {"response": self._response(0, None)}
        item = self._item(None, "in_progress")
        return (
            self._event("response.created", begun)
            + self._event("response.in_progress", begun)
            + self._event("response.output_item.added", {"output_index": 0, "item": item})
            + self._of_item("response.content_part.added", OUTPUT | {"part": _part("")})
        )

    def _delta(self, text: str) -> bytes:
        more = {"delta": text, "logprobs": []}
        return self._of_item("response.output_text.delta", OUTPUT | more)

    def _of_item(self, kind: str, fields: dict[str, Any]) -> bytes:
        return self._event(kind, {"item_id": self._item_id} | fields)

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        content = {"type": kind, "sequence_number": self._num_events} | fields
        self._num_events += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(content))

    def _item(self, text: str | None, status: str) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [] if text is None else [_part(text)],
        }

    def _response(self, total_tokens: int, reason: FinishReason | None) -> dict[str, Any]:
        """Return the response object; without a reason it is under way."""
        status = {"stop": "completed", "length": "incomplete"}.get(reason or "", "in_progress")
        text = output_text(total_tokens, reason)
        counted = usage(self._ask, self._label, total_tokens)
        return {
            "id": self._label.id,
            "object": "response",
            "created_at": self._label.created,
            "status": status,
            "model": self._label.model,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if reason == "length" else None,
            "output": [] if reason is None else [self._item(text, status)],
            "max_output_tokens": self._ask.max_tokens,
            **SETTINGS,
            "usage": None
            if reason is None
            else {
                "input_tokens": counted["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": counted["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": counted["total_tokens"],
            },
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}
