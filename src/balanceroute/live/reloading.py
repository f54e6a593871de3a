"""Settings that are read again while a router runs."""

from __future__ import annotations

import logging
from collections.abc import Callable

from balanceroute.errors import BalanceRouteError
from balanceroute.live.config import ServeConfig
from balanceroute.live.parts import Parts

log = logging.getLogger(__name__)


def reload(
    parts: Parts, reread: Callable[[], ServeConfig], on_change: Callable[[], object] = bool
) -> None:
    """Put the settings in force that the file holds now, or say why not.

    Parameters
    ----------
    parts, reread
        Of a running router, and what returns the settings.
    on_change : callable
        Called once they are in force, before the log says so.
    """
    try:
        parts.reload(reread())
    except BalanceRouteError as error:
        log.error("the settings stay as they are: %s", error)
    else:
        on_change()
        log.warning("new settings are in force")
