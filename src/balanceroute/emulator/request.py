"""A request as an engine sees it: token counts, and where it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

FinishReason = Literal["stop", "length"]


class State(Enum):
    """Where a request is; `HELD` is over, but its KV blocks wait to be fetched."""

    NEW = "new"
    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    HELD = "held"
    ENDED = "ended"


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One request: what it asks for, and its engine's notes.

    Attributes
    ----------
    prompt_tokens, output_tokens : int
        Lengths, at least 1 each.
    finish_reason : {"stop", "length"}
        Why it ends after `output_tokens`.
    rank : int or None
        The rank it is for; None lets the engine choose one.
    is_prefilled : bool
        Whether the KV of its prompt comes from elsewhere, so that the prompt is resident as soon as
        the request has a slot.
    holds_kv : bool
        Whether its KV blocks stay when it has finished, until `Engine.release`.
    state : State
        Where it is. This and what follows belongs to the engine.
    generated_tokens : int
        Output tokens so far.
    resident_tokens : int
        KV tokens on its rank, the token generated last included.
    due_tokens : int
        Tokens that are to be computed before it decodes; all of them again after a preemption.
    num_blocks : int
        KV blocks that it holds.
    num_preemptions : int
        How often it was thrown out for lack of KV blocks.
    """

    prompt_tokens: int
    output_tokens: int
    finish_reason: FinishReason = "length"
    rank: int | None = None
    is_prefilled: bool = False
    holds_kv: bool = False
    state: State = State.NEW
    generated_tokens: int = 0
    resident_tokens: int = 0
    due_tokens: int = 0
    num_blocks: int = 0
    num_preemptions: int = 0

    @property
    def is_finished(self) -> bool:
        """Tell whether it has all its output."""
        return self.generated_tokens == self.output_tokens
