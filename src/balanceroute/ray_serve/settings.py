"""What a deployment says in ``request_router_kwargs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from balanceroute.errors import ConfigError
from balanceroute.live.decisions import POLICY_STREAM
from balanceroute.policies.base import Policy
from balanceroute.policies.costs import parse_costs
from balanceroute.policies.registry import make_policy


class RouterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests are routed to a deployment's replicas.

    Attributes
    ----------
    policy, seed : str, int
        Who chooses, and with what chance.
    binding : {"pooled", "immediate"} or None
        Whether requests are held until a replica has a slot; None: as the policy does by nature.
    slots : int or None
        Requests that a replica runs together; None: its ``max_ongoing_requests``, and no more than
        `MAX_SLOTS`.
    kv_tokens : int or None
        KV tokens of a replica; None: no limit.
    costs : str or None
        What a step costs, as `parse_costs` reads it; None: unknown.
    settle_secs : float
        How long a plan waits for the rest of a step's tokens.
    lease_secs : float
        How long a replica is booked for a request of which Serve has not said that it was taken.
    """

    policy: str = "br_auto"
    seed: Annotated[int, Meta(ge=0)] = 0
    binding: Literal["pooled", "immediate"] | None = None
    slots: Annotated[int, Meta(ge=1)] | None = None
    kv_tokens: Annotated[int, Meta(ge=1)] | None = None
    costs: str | None = None
    settle_secs: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.002
    lease_secs: Annotated[float, Meta(gt=0.0)] = 60.0

    @property
    def is_immediate(self) -> bool | None:
        """Return whether a replica is chosen on arrival; None: as the policy does."""
        return None if self.binding is None else self.binding == "immediate"


def checked_settings(kwargs: Mapping[str, Any]) -> RouterSettings:
    """Return the settings among ``request_router_kwargs``.

    Raises
    ------
    ConfigError
        If one is unknown, out of its range, or names a policy or costs that are none.

    Examples
    --------
    >>> checked_settings({"policy": "least_tokens", "slots": 64}).slots
    64
    >>> checked_settings({"slots": 0})
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: request_router_kwargs: Expected `int` >= 1 - at `$.slots`
    """
    try:
        settings = msgspec.convert(dict(kwargs), RouterSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"request_router_kwargs: {error}") from error
    policy_of(settings)
    if settings.costs is not None:
        parse_costs(settings.costs)
    return settings


def policy_of(settings: RouterSettings) -> Policy:
    """Return a fresh policy, as the settings ask for."""
    return make_policy(settings.policy, rng=np.random.default_rng((settings.seed, POLICY_STREAM)))
