"""Settings that a running router cannot change."""

from __future__ import annotations

from collections.abc import Iterable

from balanceroute.errors import ConfigError
from balanceroute.live.config import ServeConfig


def expect_same(before: ServeConfig, after: ServeConfig, names: Iterable[str]) -> None:
    """Raise `ConfigError` if one of these settings has changed."""
    for name in names:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            raise ConfigError(
                f"{name} cannot change while the router runs (from {old!r} to {new!r}); "
                "start it anew"
            )
