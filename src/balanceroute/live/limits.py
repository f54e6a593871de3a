"""What a router in several processes cannot do."""

from __future__ import annotations

import socket

from balanceroute.errors import ConfigError
from balanceroute.live.config import ServeConfig
from balanceroute.live.fleet import is_fleet


def check_processes(config: ServeConfig, *, is_picker: bool) -> None:
    """Refuse what needs one process.

    Parameters
    ----------
    config : ServeConfig
        Settings with more than one process.
    is_picker : bool
        Whether they are for `epp`.

    Raises
    ------
    ConfigError
        If something of that is asked for, or the system has no Unix sockets.
    """
    if is_picker:
        raise ConfigError("epp carries no requests, and is one process; leave --processes out")
    if config.prefill_urls:
        raise ConfigError(
            "--prefill-urls needs --processes 1: what each prefill server has under way is known "
            "in one process only"
        )
    if config.is_discovered:
        raise ConfigError("where ranks are found, --processes must be 1; or name --worker-urls")
    if is_fleet(config.policy):
        raise ConfigError(
            "br_fleet needs --processes 1: where prefixes are is known in one process only; "
            "several fronts may stand side by side"
        )
    if config.otlp_traces_endpoint is not None:
        raise ConfigError("--otlp-traces-endpoint needs --processes 1, which has all of a trace")
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError("--processes above 1 needs Unix sockets, which this system has not")
