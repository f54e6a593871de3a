"""Options that must lie in a range or among choices, refused by their names otherwise."""

from __future__ import annotations

import math

from balanceroute.errors import ConfigError


def require_range(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Raise `ConfigError` unless the option is a finite number from `least` to `most`."""
    if math.isfinite(value) and least <= value <= most:
        return
    allowed = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    raise ConfigError(f"--{name} must be a number {allowed}, got {value}")


def require_choice(name: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    """Raise `ConfigError` unless the option is one of those allowed."""
    if value not in allowed:
        names = ", ".join(choice for choice in allowed if choice is not None)
        raise ConfigError(f"--{name} must be one of {names}, got {value!r}")
