"""Endpoints as the endpoint picker protocol names them, and the ranks behind them."""

from __future__ import annotations

import heapq
import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from balanceroute.errors import ConfigError
from balanceroute.live.addresses import RankAddress
from balanceroute.live.answers import Refusal
from balanceroute.live.parts import Parts
from balanceroute.live.rpc.protobuf import BadMessage

NUM_FALLBACKS = 2
PORTS = {"http": 80, "https": 443}


@lru_cache(maxsize=4096)
def endpoint_of(url: str) -> str:
    """Return ``ip:port`` of a URL.

    Raises
    ------
    ConfigError
        If its host is a name.

    Examples
    --------
    >>> endpoint_of("http://10.0.0.1"), endpoint_of("http://[::1]:8000")
    ('10.0.0.1:80', '[::1]:8000')
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError as error:
        raise ConfigError(
            f"worker URL {url!r}: Envoy is told addresses, so the host must be an IP address"
        ) from error
    shown = f"[{ip}]" if ip.version == 6 else str(ip)
    return f"{shown}:{parts.port or PORTS[parts.scheme]}"


class Endpoints:
    """Knows the ranks by their endpoints.

    Parameters
    ----------
    parts : Parts
        Of the router.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._last = -1

    def next_rank(self, allowed: frozenset[str] | None) -> int:
        """Return the next open rank in turn, for what makes no load that is accounted for."""
        ranks = self.open_ranks(allowed)
        self._last = next((rank for rank in ranks if rank > self._last), ranks[0])
        return self._last

    def open_ranks(self, allowed: frozenset[str] | None) -> list[int]:
        """Return the ranks that are open and allowed; 503 if there is none."""
        addresses = self._parts.addresses
        ranks = [
            rank
            for rank, is_open in enumerate(self._parts.health.is_open)
            if is_open and (allowed is None or endpoint_of(addresses[rank].url) in allowed)
        ]
        if not ranks:
            raise Refusal(503, "no rank is fit for this request; see /workers", "no_worker")
        return ranks

    def pinned(self, allowed: frozenset[str] | None) -> int:
        """Return the least loaded of the allowed ranks; -1 if the policy may choose among all."""
        if allowed is None:
            return -1
        ranks = self.open_ranks(allowed)
        if len(ranks) == sum(self._parts.health.is_open):
            return -1
        return self._by_load(ranks, 1)[0]

    def named(self, rank: int, allowed: frozenset[str] | None) -> str:
        """Return the endpoint of a rank, and those to try after it, as Envoy takes them.

        The number of a rank behind a shared port goes along as a header, so only endpoints follow
        at which the same number is meant.
        """
        addresses = self._parts.addresses
        chosen = addresses[rank]
        others = [
            other
            for other, is_open in enumerate(self._parts.health.is_open)
            if is_open and other != rank and addresses[other].rank == chosen.rank
        ]
        if allowed is not None:
            others = [other for other in others if endpoint_of(addresses[other].url) in allowed]
        named = [rank, *self._by_load(others, NUM_FALLBACKS)]
        return ",".join(endpoint_of(addresses[each].url) for each in named)

    def served(self, endpoint: str, chosen: int) -> int:
        """Return the rank that has served a request, by its endpoint; the chosen one if unknown."""
        if endpoint_of(self._parts.addresses[chosen].url) == endpoint:
            return chosen
        number = self._parts.addresses[chosen].rank
        for rank, address in enumerate(self._parts.addresses):
            if address.rank == number and endpoint_of(address.url) == endpoint:
                return rank
        return chosen

    def _by_load(self, ranks: list[int], num: int) -> list[int]:
        """Return the least loaded of some ranks, prompts under way included."""
        if len(ranks) <= 1:  # NumPy takes a while to say so
            return ranks
        booked = self._parts.group.ledger.ranks
        loads = (booked["load_tokens"] + booked["due_tokens"]).tolist()
        return heapq.nsmallest(num, ranks, key=loads.__getitem__)


def check_endpoints(addresses: list[RankAddress]) -> None:
    """Raise `ConfigError` if an address is none that Envoy can be told."""
    for address in addresses:
        endpoint_of(address.url)


def subset_of(hint: object) -> frozenset[str]:
    """Return the endpoints of a hint: a list, or text with commas.

    Raises
    ------
    BadMessage
        If it is neither.

    Examples
    --------
    >>> sorted(subset_of("10.0.0.1:80, 10.0.0.2:80"))
    ['10.0.0.1:80', '10.0.0.2:80']
    """
    names = hint.split(",") if isinstance(hint, str) else hint
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadMessage("the subset of endpoints must be a list")
    return frozenset(name.strip() for name in names if name.strip())
