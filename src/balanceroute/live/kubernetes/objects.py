"""What is read of Kubernetes' objects, and the ranks that they stand for."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """What every object has."""

    name: str = ""
    resource_version: str = ""


class PoolPort(msgspec.Struct, frozen=True):
    """A port of each pod of an InferencePool."""

    number: int


class PoolSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What an InferencePool asks for."""

    target_ports: list[PoolPort] = []


class InferencePool(msgspec.Struct, frozen=True):
    """An InferencePool of ``inference.networking.k8s.io/v1``."""

    metadata: Meta
    spec: PoolSpec = PoolSpec()


class Conditions(msgspec.Struct, frozen=True):
    """How an endpoint is; None where nothing is said."""

    ready: bool | None = None
    terminating: bool | None = None


class Target(msgspec.Struct, frozen=True):
    """The pod behind an endpoint."""

    name: str = ""
    uid: str = ""


class Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    """One endpoint of a slice."""

    addresses: list[str]
    conditions: Conditions | None = None
    target_ref: Target | None = None

    @property
    def is_ready(self) -> bool:
        """Tell whether it may get requests; one of which nothing is said may."""
        its = self.conditions or Conditions()
        return its.ready is not False and not its.terminating


class SlicePort(msgspec.Struct, frozen=True):
    """A port of all endpoints of a slice."""

    port: int | None = None
    protocol: str | None = None


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel"):
    """An EndpointSlice of ``discovery.k8s.io/v1``."""

    metadata: Meta
    address_type: str = ""
    endpoints: list[Endpoint] | None = None
    ports: list[SlicePort] | None = None


def worker_urls(slices: Iterable[EndpointSlice], pool_ports: list[int] | None) -> tuple[str, ...]:
    """Return a URL for each port of each endpoint that is ready, sorted by pod and port.

    A pod counts once, though it may be in several slices while it moves between them, and with one
    address, the IPv4 one if it has two. Names (``addressType: FQDN``) are left out, as gateways are
    told addresses.

    Parameters
    ----------
    slices : iterable of EndpointSlice
        Of one service.
    pool_ports : list of int or None
        The target ports of the InferencePool, in the order of the ranks; None: those of the slice.

    Examples
    --------
    >>> here = EndpointSlice(
    ...     metadata=Meta(name="a"), address_type="IPv4", ports=[SlicePort(8000, "TCP")],
    ...     endpoints=[Endpoint(["10.0.0.2"]), Endpoint(["10.0.0.3"], Conditions(ready=False))])
    >>> worker_urls([here], None), worker_urls([here], [8100, 8101])
    (('http://10.0.0.2:8000',), ('http://10.0.0.2:8100', 'http://10.0.0.2:8101'))
    """
    found: dict[str, tuple[str, list[int]]] = {}
    for each in sorted(slices, key=lambda each: (each.address_type, each.metadata.name)):
        if each.address_type not in ("IPv4", "IPv6"):
            continue
        ports = pool_ports if pool_ports is not None else _tcp_ports(each)
        for endpoint in each.endpoints or []:
            if endpoint.is_ready and endpoint.addresses:
                address = endpoint.addresses[0]
                host = f"[{address}]" if each.address_type == "IPv6" else address
                found.setdefault(_pod(endpoint), (host, ports))
    return tuple(
        f"http://{host}:{port}" for _, (host, ports) in sorted(found.items()) for port in ports
    )


def _tcp_ports(each: EndpointSlice) -> list[int]:
    ports = each.ports or []
    return sorted({its.port for its in ports if its.port and its.protocol in (None, "TCP")})


def _pod(endpoint: Endpoint) -> str:
    """Return what tells a pod from others, the same in all slices that it is in."""
    its = endpoint.target_ref
    return f"{its.name}/{its.uid}" if its is not None else endpoint.addresses[0]
