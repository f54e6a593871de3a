"""gRPC's health protocol (grpc.health.v1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from balanceroute.live.answers import Refusal
from balanceroute.live.rpc.calls import Call, Listener, Opening
from balanceroute.live.rpc.methods import Open, Unary
from balanceroute.live.rpc.protobuf import Codec, Message

CHECK = "/grpc.health.v1.Health/Check"
SERVING, NOT_SERVING = 1, 2


class Asked(Message, frozen=True, kw_only=True):
    """Which service is meant; empty: all of them."""

    numbers: ClassVar[dict[str, int]] = {"service": 1}
    service: str = ""


class Answer(Message, frozen=True, kw_only=True):
    """Whether it serves."""

    numbers: ClassVar[dict[str, int]] = {"status": 1}
    status: int = 0


def health_method(services: dict[str, Callable[[], bool]]) -> Open:
    """Return the method that tells of services whether they are well.

    Parameters
    ----------
    services : dict
        Tells of each by name whether it serves.
    """
    codecs = Codec(Asked), Codec(Answer)

    async def check(asked: Asked) -> Answer:
        is_serving = services.get(asked.service)
        if is_serving is None:
            raise Refusal(404, f"there is no service {asked.service!r}", "no_service")
        return Answer(status=SERVING if is_serving() else NOT_SERVING)

    def open_check(call: Call, _: Opening) -> Listener:
        return Unary(call, asked=codecs[0], answer=codecs[1], handler=check)

    return open_check
