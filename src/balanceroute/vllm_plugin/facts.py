"""What is known of requests and of their outputs, in few words of vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from balanceroute.live.ticket import Ticket

AT_LIMIT = "length"  # the finish reason of a request that has all the tokens it asked for
COMPLETE = ("stop", AT_LIMIT, "repetition")  # those of one that came to its own end


class Output(Protocol):
    """What is read of vLLM's `EngineCoreOutput`."""

    @property
    def request_id(self) -> str:
        """Return vLLM's own id of the request."""

    @property
    def new_token_ids(self) -> Sequence[int]:
        """Return the output tokens of the step."""

    @property
    def finish_reason(self) -> Any:
        """Return None, or what turns into one of vLLM's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What is known of a request when vLLM's client gets it.

    Attributes
    ----------
    request_id : str
        vLLM's own.
    prompt_tokens, max_tokens, priority : int
        As in `Ledger.send`; `max_tokens` is 0 if it is not said.
    """

    request_id: str
    prompt_tokens: int
    max_tokens: int = 0
    priority: int = 0


def forget(ticket: Ticket) -> None:
    """Do nothing more for a request that has a rank."""


def ticket_of(facts: RequestFacts) -> Ticket:
    """Return what the group knows a request by."""
    return Ticket(
        prompt_tokens=max(1, facts.prompt_tokens),
        max_tokens=facts.max_tokens,
        priority=facts.priority,
    )
