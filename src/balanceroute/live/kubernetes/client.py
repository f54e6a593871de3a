"""The one place that knows Kubernetes' Python client."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from balanceroute.errors import ConfigError, MissingExtraError
from balanceroute.live.kubernetes.reflector import GRACE_S, PAGE, Read

IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
GROUP, VERSION, POOLS = "inference.networking.k8s.io", "v1", "inferencepools"
SERVICE_LABEL = "kubernetes.io/service-name"

Call = Callable[..., Awaitable[Any]]


class Cluster:
    """A cluster's API server, and the namespace that is looked into; see `open_cluster`."""

    def __init__(self, slices: Call, pools: Call, namespace: str) -> None:
        self._slices, self._pools, self.namespace = slices, pools, namespace

    def slices_of(self, service: str) -> Read:
        """Return what reads the EndpointSlices of a service."""
        selector = f"{SERVICE_LABEL}={service}"
        return partial(_read, partial(self._slices, self.namespace, label_selector=selector))

    def pool(self, name: str) -> Read:
        """Return what reads an InferencePool."""
        of_pool = partial(self._pools, GROUP, VERSION, self.namespace, POOLS)
        return partial(_read, partial(of_pool, field_selector=f"metadata.name={name}"))


@contextlib.asynccontextmanager
async def open_cluster(namespace: str | None) -> AsyncIterator[Cluster]:
    """Reach the cluster that this process runs in, or else that of the current kubeconfig.

    Parameters
    ----------
    namespace : str or None
        Where to look; None: the pod's own, or that of the kubeconfig's context.

    Raises
    ------
    ConfigError
        If there is neither.
    MissingExtraError
        If the client is not installed.
    """
    try:
        from kubernetes.aio import client, config
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Kubernetes needs {error.name}; "
            "install it with: pip install 'balanceroute[kubernetes]'"
        ) from error
    settings = client.Configuration()
    try:
        if os.environ.get(IN_CLUSTER):
            config.load_incluster_config(client_configuration=settings)
            own = OWN_NAMESPACE.read_text().strip() if OWN_NAMESPACE.exists() else "default"
        else:
            path = os.environ.get("KUBECONFIG")  # which the client itself reads once, when imported
            await config.load_kube_config(path, client_configuration=settings)
            _, current = config.list_kube_config_contexts(path)
            own = current["context"].get("namespace", "default")
    except config.ConfigException as error:
        raise ConfigError(
            f"no Kubernetes cluster: {error}; run in a pod with a service account, or name a "
            "kubeconfig in KUBECONFIG"
        ) from error
    async with client.ApiClient(settings) as api:
        yield Cluster(
            client.DiscoveryV1Api(api).list_namespaced_endpoint_slice_without_preload_content,
            client.CustomObjectsApi(api).list_namespaced_custom_object_without_preload_content,
            namespace or own,
        )


async def _read(
    call: Call,
    *,
    resource_version: str | None = None,
    watch: bool = False,
    timeout_s: float,
    continue_from: str | None = None,
) -> aiohttp.ClientResponse:
    """List or watch."""
    if watch:
        answer = await call(
            watch=True,
            resource_version=resource_version,
            allow_watch_bookmarks=True,
            timeout_seconds=int(timeout_s),
            _request_timeout=timeout_s + GRACE_S,
        )
    else:
        answer = await call(limit=PAGE, _continue=continue_from, _request_timeout=timeout_s)
    found: aiohttp.ClientResponse = answer
    return found
