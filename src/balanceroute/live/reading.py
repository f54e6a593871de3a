"""Settings as they are written: in a file, in flags, and what goes together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from balanceroute.errors import ConfigError
from balanceroute.live.config import ServeConfig
from balanceroute.live.fleet import FLEET_DEFAULTS, is_fleet
from balanceroute.live.limits import check_processes

TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
HTTP_URL = re.compile(r"https?://[^/\s]+")


def read_config(
    path: Path | None, flags: Mapping[str, Any], *, is_picker: bool = False
) -> ServeConfig:
    """Return what a YAML file says, if there is one, and flags, which go before it.

    Parameters
    ----------
    path, flags
        Of the file, and the flags that were given.
    is_picker : bool
        Whether it is for `epp`, which always serves gRPC.

    Raises
    ------
    ConfigError
        If the file cannot be read, or something is unknown, missing or out of its range.

    Examples
    --------
    >>> read_config(None, {"worker_urls": ["http://10.0.0.1:8000"], "slots": 72}).slots
    72
    >>> read_config(None, {"worker_urls": [], "port": -1})
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: command line: Expected `int` >= 0 - at `$.port`
    """
    settings = _read_file(path) if path is not None else {}
    settings |= {name: value for name, value in flags.items() if value is not None}
    if is_fleet(str(settings.get("policy"))):
        settings = FLEET_DEFAULTS | settings
    owner = str(path) if path is not None else "command line"
    try:
        config = msgspec.convert(settings, ServeConfig, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{owner}: {error}") from error
    _check_ranks(config)
    _check_prompts(config)
    _check_access(config)
    _check_uses(config, is_picker=is_picker)
    return config


def _read_file(path: Path) -> dict[str, Any]:
    try:
        settings = msgspec.yaml.decode(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        kind = type(settings).__name__  # and not the content, which may be secret
        raise ConfigError(f"{path} must hold settings as `name: value`, got a {kind}")
    return {str(name).replace("-", "_"): value for name, value in settings.items()}


def _check_ranks(config: ServeConfig) -> None:
    """Check where the ranks are, and what they are."""
    if config.is_discovered and config.worker_urls:
        raise ConfigError("--worker-urls and --kubernetes-… both name the ranks; leave one")
    if not config.is_discovered and not config.worker_urls:
        raise ConfigError("--worker-urls must name at least one rank, as http://127.0.0.1:8000")
    shares = len({address.url for address in config.addresses}) < len(config.addresses)
    if shares and config.rank_field == "none":
        raise ConfigError(
            "several ranks share a URL, so --rank-field must be header (vLLM) or body (SGLang)"
        )
    if is_fleet(config.policy):
        if config.barrier:
            raise ConfigError("br_fleet chooses among groups, which do not share one --barrier")
    elif config.session_header is not None or config.prefix_blocks > 0:
        raise ConfigError("--session-header and --prefix-blocks need --policy br_fleet")


def _check_prompts(config: ServeConfig) -> None:
    """Check times, and how prompts are counted and weighed."""
    for name in ("request_timeout_secs", "queue_timeout_secs", "step_time"):
        value = getattr(config, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"--{name.replace('_', '-')} must be finite, got {value}")
    if config.count_by == "tokenizer" and config.tokenizer is None:
        raise ConfigError("--count-by tokenizer needs --tokenizer FILE")
    if config.count_by in ("estimate", "engine") and config.tokenizer is not None:
        raise ConfigError(f"--tokenizer is not used with --count-by {config.count_by}; leave one")
    if config.prefill_budget is not None and config.step_time is None:
        raise ConfigError("--prefill-budget needs --step-time, against which prefill is weighed")


def _check_access(config: ServeConfig) -> None:
    """Check who may do what."""
    if config.admin_port is not None and not config.admin_token:
        raise ConfigError("--admin-port needs a token in BALANCEROUTE_ADMIN_TOKEN")
    keys = [key for its in config.tenants.values() for key in its.keys] + list(config.api_keys)
    if len(set(keys)) < len(keys) or "" in keys:
        raise ConfigError("a key must not be empty, nor stand twice among tenants and api-keys")
    for name in ("tenant_header", "session_header"):
        header = getattr(config, name)
        if header is not None and not TOKEN.fullmatch(header):
            raise ConfigError(f"{name} must be a header's name, got {header!r}")


def _check_uses(config: ServeConfig, *, is_picker: bool) -> None:
    """Check what else is served or told, and by how many processes."""
    if config.shadow is not None and (config.step_time is None or config.slots is None):
        raise ConfigError(
            "--shadow needs --step-time and --slots, by which its steps are told; "
            "`balanceroute doctor` fits the first"
        )
    if config.grpc_port is not None and not config.decisions and not is_picker:
        raise ConfigError("--grpc-port serves decisions; give --decisions, too")
    if config.grpc_socket is not None and config.grpc_port is None and not is_picker:
        raise ConfigError("grpc_socket is served besides --grpc-port; give that, too")
    if config.processes > 1:
        check_processes(config, is_picker=is_picker)
    collector = config.otlp_traces_endpoint
    if collector is not None and not HTTP_URL.match(collector):
        raise ConfigError(
            "--otlp-traces-endpoint must be a URL as http://127.0.0.1:4318/v1/traces, got "
            f"{collector!r}"
        )
