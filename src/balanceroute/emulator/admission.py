"""What becomes of a request that comes in: its length, its name, and the form of its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from balanceroute.emulator.config import Role, ServerConfig
from balanceroute.emulator.dialects import ChatDialect, CompletionDialect, Dialect, Label
from balanceroute.emulator.errors import ApiError
from balanceroute.emulator.openai import Ask, Kind
from balanceroute.emulator.request import FinishReason, Request
from balanceroute.emulator.responses import ResponseDialect

DIALECTS: dict[Kind, Callable[[Ask, Label], Dialect]] = {
    "completion": CompletionDialect,
    "chat": ChatDialect,
    "response": ResponseDialect,
}
PREFIXES: dict[Kind, str] = {"completion": "cmpl-", "chat": "chatcmpl-", "response": "resp_"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A request that can be served.

    Attributes
    ----------
    request : Request
        For the engine.
    dialect : Dialect
        Form of the answer.
    key : str
        Name of its KV, which no other request of the process has.
    offers : dict or None
        KV transfer parameters of its answer, to be completed when it has finished; None if its KV
        is for itself.
    fetches : dict or None
        KV transfer parameters that name its prompt's KV; None if it prefills by itself.
    """

    request: Request
    dialect: Dialect
    key: str
    offers: dict[str, Any] | None
    fetches: dict[str, Any] | None


def admit(
    ask: Ask,
    config: ServerConfig,
    role: Role,
    *,
    number: tuple[int, int],
    rank: int | None = None,
    output_tokens: int | None = None,
    request_id: str | None = None,
    usage_error: int = 0,
) -> Admission:
    """Check a request against the server's limits and give it what it lacks.

    Parameters
    ----------
    ask : Ask
        What the client asks for.
    config : ServerConfig
        Limits, seed and mean output.
    role : {"plain", "prefill", "decode", "both"}
        Side of a prefill/decode split that the group takes.
    number : tuple of int
        The group, and the request's number in it.
    rank : int or None
        Where the request is pinned to.
    output_tokens : int or None
        How long the output is, where the client says so outside of its request.
    request_id : str or None
        The client's own name for it.
    usage_error : int
        Tokens that the reported usage is wrong by.

    Raises
    ------
    ApiError
        404 for another model, 400 for a prompt that is too long.
    """
    check_model(ask.model, config)
    room, draw = _room(ask, config), partial(draw_length, config, number)
    length, reason = output_length(
        ask, room_tokens=room, output_tokens=output_tokens, drawn_tokens=draw
    )
    transfer = ask.transfer or {}
    holds_kv = role in ("prefill", "both") and transfer.get("do_remote_decode") is True
    is_prefilled = role in ("decode", "both") and transfer.get("do_remote_prefill") is True
    offers: dict[str, Any] | None = {} if holds_kv else None
    name = f"{number[0]:04x}{number[1]:012x}"
    label = Label(
        id=PREFIXES[ask.kind] + (request_id or name),
        model=config.model,
        created=int(time.time()),
        usage_error=usage_error,
        transfer=offers,
    )
    request = Request(
        prompt_tokens=ask.prompt_tokens,
        output_tokens=length,
        finish_reason=reason,
        rank=rank,
        is_prefilled=is_prefilled,
        holds_kv=holds_kv,
    )
    return Admission(
        request=request,
        dialect=DIALECTS[ask.kind](ask, label),
        key=f"{label.id}-{name}",
        offers=offers,
        fetches=transfer if is_prefilled else None,
    )


def check_model(model: str | None, config: ServerConfig) -> None:
    """Raise 404 if a request names a model that is not served."""
    if model is not None and model != config.model:
        message = f"The model `{model}` does not exist."
        raise ApiError(404, message, kind="NotFoundError", param="model")


def output_length(
    ask: Ask,
    *,
    room_tokens: int,
    output_tokens: int | None,
    drawn_tokens: Callable[[], int],
) -> tuple[int, FinishReason]:
    """Return how long an output becomes, and why it ends there.

    Parameters
    ----------
    ask : Ask
        What the client asks for.
    room_tokens : int
        Tokens that the context has left behind the prompt, no fewer than the client's own limit.
    output_tokens : int or None
        The length that the client says outside of its request. It is held to limits that the client
        gives, but not to the default one.
    drawn_tokens : callable
        Returns the length that nothing else determines.

    Examples
    --------
    >>> ask = Ask(kind="chat", prompt_tokens=5, prompt_ids=list, max_tokens=10)
    >>> output_length(ask, room_tokens=99, output_tokens=7, drawn_tokens=lambda: 12)
    (7, 'stop')
    >>> output_length(ask, room_tokens=99, output_tokens=None, drawn_tokens=lambda: 12)
    (10, 'length')
    """
    if output_tokens is not None:
        wanted = output_tokens
        limit = room_tokens if ask.max_tokens is None else ask.max_tokens
    else:
        limits = (ask.max_tokens, ask.default_max_tokens, room_tokens)
        limit = next(tokens for tokens in limits if tokens is not None)
        limit = min(limit, room_tokens)
        wanted = limit + 1 if ask.has_fixed_length else max(ask.min_tokens, drawn_tokens())
    if wanted > limit or (wanted == limit and ask.has_fixed_length):
        return limit, "length"
    return wanted, "stop"


def draw_length(config: ServerConfig, number: tuple[int, int]) -> int:
    """Return a length from a geometric distribution; the same seed and number, the same length."""
    rng = np.random.default_rng((config.seed, *number))
    return int(rng.geometric(1 / config.mean_output_tokens))


def _room(ask: Ask, config: ServerConfig) -> int:
    """Return the tokens left behind the prompt; raise 400 if those asked for do not fit."""
    context, asked = config.context_tokens, ask.max_tokens or 1
    if ask.prompt_tokens + asked <= context:
        return context - ask.prompt_tokens
    raise ApiError(
        400,
        f"You passed {ask.prompt_tokens} input tokens and requested {asked} output tokens. "
        f"However, the model's context length is only {context} tokens, resulting in a maximum "
        f"input length of {max(0, context - asked)} tokens. Please reduce the length of the "
        "input prompt.",
        param="input_tokens",
    )
