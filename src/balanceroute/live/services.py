"""What is served over gRPC, by the same router."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from balanceroute.errors import MissingExtraError
from balanceroute.live.decision_api.reservations import Reservations
from balanceroute.live.parts import Parts

if TYPE_CHECKING:
    from balanceroute.live.rpc.methods import Open

LIVENESS, READINESS = "liveness", "readiness"  # as the endpoint picker protocol names them


@contextlib.asynccontextmanager
async def serving_grpc(
    parts: Parts, reservations: Reservations, *, is_picker: bool
) -> AsyncIterator[int]:
    """Serve gRPC for the time of the context, and give the port.

    Parameters
    ----------
    parts : Parts
        Of the router.
    reservations : Reservations
        For the decision API, if the settings ask for it.
    is_picker : bool
        Whether Envoy's external processing is served.

    Raises
    ------
    ConfigError
        If the port is taken, or the socket cannot be made.
    MissingExtraError
        If what reads HTTP/2's headers is not installed.
    """
    try:
        from balanceroute.live.rpc.server import RpcServer, listening
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"gRPC needs {error.name}; install it with: pip install 'balanceroute[grpc]'"
        ) from error
    methods = _methods(parts, reservations, is_picker=is_picker)
    config = parts.config
    # A body that Envoy has buffered comes in one message.
    server = RpcServer(methods, max_message_bytes=config.max_body_bytes + (1 << 16))
    assert config.grpc_port is not None
    async with listening(
        server,
        config.host,
        config.grpc_port,
        path=config.grpc_socket,
        shutdown_s=lambda: parts.config.shutdown_timeout_secs,
    ) as port:
        yield port


def _methods(parts: Parts, reservations: Reservations, *, is_picker: bool) -> dict[str, Open]:
    from balanceroute.live.decision_api.faces import RPC_SERVICE, rpc_methods
    from balanceroute.live.rpc.health import CHECK, health_method

    methods: dict[str, Open] = {}
    services: dict[str, Callable[[], bool]] = {LIVENESS: lambda: True}
    services[READINESS] = services[""] = lambda: any(parts.health.is_open)
    if parts.config.decisions:
        methods |= rpc_methods(reservations, lambda: parts.config)
        services[RPC_SERVICE] = services[READINESS]
    if is_picker:
        from balanceroute.live.picker.process import PROCESS, PROCESSOR, process_method

        methods[PROCESS] = process_method(parts)
        services[PROCESSOR] = services[READINESS]
    methods[CHECK] = health_method(services)
    return methods
