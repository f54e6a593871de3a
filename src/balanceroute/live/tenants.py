"""Whose a request is."""

from __future__ import annotations

import hmac

from aiohttp import web
from multidict import MultiMapping

from balanceroute.live.answers import Refusal
from balanceroute.live.config import ServeConfig
from balanceroute.live.wire import legible


def check_key(request: web.BaseRequest, config: ServeConfig) -> None:
    """Refuse a request with 401 that shows none of the keys that are asked for."""
    if config.asks_for_keys:
        _known_key(request.headers.get("Authorization", ""), config.tenant_of_key)


def check_authorization(authorization: str, config: ServeConfig) -> None:
    """Refuse with 401 who shows none of the keys that are asked for."""
    if config.asks_for_keys:
        _known_key(authorization, config.tenant_of_key)


def tenant_of(request: web.BaseRequest, config: ServeConfig) -> str | None:
    """Return whose a request is that has shown its key; None if that does not matter."""
    return tenant_of_headers(request.headers, config)


def tenant_of_headers(headers: MultiMapping[str], config: ServeConfig) -> str | None:
    """Return the same by the headers of a request."""
    if not config.has_tenants:
        return None
    tenant = ""
    if config.asks_for_keys:
        keys = config.tenant_of_key
        tenant = keys[_known_key(headers.get("Authorization", ""), keys)]
    if config.tenant_header is not None and not tenant:
        tenant = legible(headers.get(config.tenant_header, ""))
    return tenant


def _known_key(authorization: str, keys: dict[str, str]) -> str:
    scheme, _, text = authorization.partition(" ")
    shown = text.strip().encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""
    # All are compared, so that the time taken tells nothing.
    matches = [key for key in keys if hmac.compare_digest(shown, key.encode())]
    if not matches:
        raise Refusal(401, "a key is needed, as `Authorization: Bearer KEY`", "unauthorized")
    return matches[0]


def weight_of(tenant: str, config: ServeConfig) -> float:
    """Return a tenant's weight in relation to the largest, 1 for who is not named in the settings.

    Examples
    --------
    >>> from balanceroute.live.reading import read_config
    >>> tenants = {"a": {"weight": 4.0}, "b": {}}
    >>> config = read_config(None, {"worker_urls": ["http://a:1"], "tenants": tenants})
    >>> weight_of("a", config), weight_of("b", config), weight_of("somebody", config)
    (1.0, 0.25, 0.25)
    """
    weights = {name: its.weight for name, its in config.tenants.items()}
    return weights.get(tenant, 1.0) / max(weights.values(), default=1.0)
