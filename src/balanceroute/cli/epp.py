"""`balanceroute epp`: an endpoint picker for Envoy and the gateways that are built on it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from balanceroute.cli.logs import set_up_logging
from balanceroute.cli.serving import (
    BindingName,
    HasBarrier,
    KubernetesNamespace,
    KubernetesPool,
    KubernetesService,
    LogFormat,
    LogLevel,
    PolicySpec,
    RanksPerUrl,
    SlotsPerRank,
    run_serving,
    secrets,
    serve_until_told,
)
from balanceroute.cli.simulate import option
from balanceroute.errors import MissingExtraError

if TYPE_CHECKING:
    from balanceroute.live.config import ServeConfig

GRPC_PORT = 9002  # as the field's pickers have it


def epp(
    worker_urls: Annotated[
        list[str] | None,
        option("One per rank: http://ip:port, or http://ip:port@rank behind one port."),
    ] = None,
    config: Annotated[
        Path | None,
        option("YAML file with the settings of serve, followed as it changes; flags go before it."),
    ] = None,
    kubernetes_service: KubernetesService = None,
    kubernetes_pool: KubernetesPool = None,
    kubernetes_namespace: KubernetesNamespace = None,
    intra_node_data_parallel_size: RanksPerUrl = None,
    policy: PolicySpec = None,
    binding: BindingName = None,
    slots: SlotsPerRank = None,
    barrier: HasBarrier = None,
    host: Annotated[str | None, option("Where to listen; else 127.0.0.1.")] = None,
    port: Annotated[
        int | None, option("For metrics and /workers; 0 takes a free one; else 30000.")
    ] = None,
    grpc_port: Annotated[int | None, option("Where Envoy asks; else 9002.")] = None,
    grpc_socket: Annotated[
        str | None, option("Unix socket where Envoy may ask, too; else none.")
    ] = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
) -> None:
    """Choose ranks for requests that Envoy carries, over its external processing (ext_proc).

    All other settings of serve can be made in the file.
    """
    flags = dict(locals())
    del flags["config"], flags["log_level"], flags["log_format"]
    flags |= secrets()
    reread = partial(_read, config, flags)
    settings = reread()
    set_up_logging(log_level, log_format)
    serving = serve_until_told(
        settings, reread if config is not None else None, is_picker=True, followed=config
    )
    run_serving(serving)


def _read(path: Path | None, flags: dict[str, Any]) -> ServeConfig:
    try:
        from msgspec.structs import replace

        from balanceroute.live.picker.endpoints import check_endpoints
        from balanceroute.live.reading import read_config
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"epp needs {error.name}; install it with: pip install 'balanceroute[serve,grpc]'"
        ) from error
    settings = read_config(path, flags, is_picker=True)
    if settings.grpc_port is None:
        settings = replace(settings, grpc_port=GRPC_PORT)
    check_endpoints(settings.addresses)
    return settings
