"""The same four methods over HTTP and over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from balanceroute.live.answers import Refusal, json_response
from balanceroute.live.clients import read_body
from balanceroute.live.config import ServeConfig
from balanceroute.live.decision_api.definition import (
    HTTP_PATHS,
    METHODS,
    PACKAGE,
    PROTO_PATH,
    SERVICE,
    definition,
)
from balanceroute.live.decision_api.reservations import Reservations
from balanceroute.live.parts import Parts
from balanceroute.live.rpc.calls import Call, Listener, Opening
from balanceroute.live.rpc.methods import Open, Unary
from balanceroute.live.rpc.protobuf import Codec, Message
from balanceroute.live.tenants import check_authorization

RPC_SERVICE = f"{PACKAGE}.{SERVICE}"
Handler = Callable[[Any], Coroutine[Any, Any, Message]]
HttpHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def _handlers(reservations: Reservations) -> dict[str, Handler]:
    return {
        "Select": reservations.select,
        "Progress": reservations.progress,
        "Finish": reservations.finish,
        "Release": reservations.release,
    }


def http_paths(reservations: Reservations, parts: Parts) -> dict[tuple[str, str], HttpHandler]:
    """Return the paths that a router answers, with what answers them."""
    paths: dict[tuple[str, str], HttpHandler] = {("GET", PROTO_PATH): _show_definition}
    for name, handler in _handlers(reservations).items():
        asked, _ = METHODS[name]
        answer = partial(_answer, handler=handler, decode=_decoder(asked), parts=parts)
        paths["POST", HTTP_PATHS[name]] = answer
    return paths


def _decoder(asked: type[Message]) -> Callable[[bytes], Message]:
    return msgspec.json.Decoder(asked).decode


async def _answer(
    request: web.BaseRequest, *, handler: Handler, decode: Callable[[bytes], Message], parts: Parts
) -> web.StreamResponse:
    body = await read_body(request, parts.config.body_timeout_secs)
    try:
        asked = decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, f"the body is not as {PROTO_PATH} says: {error}", "bad_body") from error
    return json_response(await handler(asked))


async def _show_definition(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text=definition())


def rpc_methods(reservations: Reservations, config: Callable[[], ServeConfig]) -> dict[str, Open]:
    """Return the methods of the gRPC service.

    Parameters
    ----------
    reservations : Reservations
        Who answers.
    config : callable
        Returns the settings in force, whose keys are asked for.
    """
    methods: dict[str, Open] = {}
    for name, handler in _handlers(reservations).items():
        asked, answer = METHODS[name]
        methods[f"/{RPC_SERVICE}/{name}"] = _opener(
            Codec(asked), Codec(answer), partial(_checked, asked, handler), config
        )
    return methods


def _opener(
    asked: Codec[Any], answer: Codec[Any], handler: Handler, config: Callable[[], ServeConfig]
) -> Open:
    def open_method(call: Call, opening: Opening) -> Listener:
        check_authorization(opening.authorization, config())
        return Unary(call, asked=asked, answer=answer, handler=handler)

    return open_method


async def _checked(kind: type[Message], handler: Handler, asked: Message) -> Message:
    """Hold a message that has come over gRPC to the ranges that JSON is held to."""
    try:
        told = msgspec.convert(msgspec.to_builtins(asked), kind)
    except msgspec.ValidationError as error:
        raise Refusal(400, str(error), "bad_body") from error
    return await handler(told)
