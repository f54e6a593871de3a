"""What an operator sets, in the environment of the vLLM server or in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from balanceroute.errors import ConfigError

SWITCH, CONFIG, PREFIX = "BALANCEROUTE_VLLM", "BALANCEROUTE_CONFIG", "BALANCEROUTE_"
OFF = ("", "0", "false", "off")
MODES = {"1": "route", "true": "route", "on": "route", "observe": "observe"}


class PluginSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the plug-in works; each may be set as ``BALANCEROUTE_NAME``.

    Attributes
    ----------
    policy, seed : str, int
        Who chooses, and with what chance.
    binding : {"auto", "pooled", "immediate"}
        Whether requests are held until a rank has room for them. ``auto``: where the ranks meet at
        a barrier, and nothing speaks against it (`binding_of`).
    slots : int or None
        Requests that a rank runs together; None: its ``--max-num-seqs``.
    ahead : int or None
        Requests that a rank may have beyond its slots where requests are held, and no end is seen
        coming then; None: as `Ahead` learns.
    costs : str or None
        What a step costs, as `parse_costs` reads it; None: the policy learns it, if it can.
    queue_size : int
        Requests that may be held; more are bound at once.
    queue_timeout_secs : float
        How long one may be held; then it is bound at once.
    settle_secs : float
        How long a plan waits for the outputs of the other ranks in the same step.
    """

    policy: str = "br_auto"
    seed: Annotated[int, Meta(ge=0)] = 0
    binding: Literal["auto", "pooled", "immediate"] = "auto"
    slots: Annotated[int, Meta(ge=1)] | None = None
    ahead: Annotated[int, Meta(ge=0)] | None = None
    costs: str | None = None
    queue_size: Annotated[int, Meta(ge=0)] = 4096
    queue_timeout_secs: Annotated[float, Meta(gt=0.0)] = 30.0
    settle_secs: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.002


def mode_of(environ: Mapping[str, str]) -> Literal["off", "route", "observe"]:
    """Return what the plug-in is to do.

    Examples
    --------
    >>> mode_of({}), mode_of({"BALANCEROUTE_VLLM": "1"}), mode_of({"BALANCEROUTE_VLLM": "observe"})
    ('off', 'route', 'observe')
    >>> mode_of({"BALANCEROUTE_VLLM": "yes!"})
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: BALANCEROUTE_VLLM must be 1, observe or 0, got 'yes!'
    """
    text = environ.get(SWITCH, "").strip().lower()
    if text in OFF:
        return "off"
    if text not in MODES:
        raise ConfigError(f"{SWITCH} must be 1, observe or 0, got {environ[SWITCH]!r}")
    return "route" if MODES[text] == "route" else "observe"


def read_settings(environ: Mapping[str, str]) -> PluginSettings:
    """Return the settings of the environment, and below them those of the file that it names.

    Raises
    ------
    ConfigError
        If one is out of its range, or the file cannot be read or says something unknown.

    Examples
    --------
    >>> read_settings({"BALANCEROUTE_POLICY": "least_tokens", "BALANCEROUTE_SLOTS": "64"}).slots
    64
    >>> read_settings({"BALANCEROUTE_BINDING": "late"})
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: BALANCEROUTE_BINDING: Invalid enum value 'late'
    """
    settings: dict[str, Any] = _read_file(environ[CONFIG]) if environ.get(CONFIG) else {}
    for name in PluginSettings.__struct_fields__:
        variable = PREFIX + name.upper()
        if environ.get(variable):
            settings[name] = environ[variable]
            _convert({name: environ[variable]}, variable)
    return _convert(settings, environ.get(CONFIG) or "environment")


def _convert(settings: dict[str, Any], owner: str) -> PluginSettings:
    try:
        return msgspec.convert(settings, PluginSettings, strict=False)
    except msgspec.ValidationError as error:
        message = str(error).partition(" - at")[0]
        raise ConfigError(f"{owner}: {message}") from error


def _read_file(path: str) -> dict[str, Any]:
    try:
        settings = msgspec.yaml.decode(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"{CONFIG}: cannot read {path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, ImportError) as error:
        raise ConfigError(f"{CONFIG}: {path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{CONFIG}: {path} must hold settings as `name: value`")
    return {str(name).replace("-", "_"): value for name, value in settings.items()}
