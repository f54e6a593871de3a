"""The ranks of a service or an InferencePool, as settings of the router."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import numpy as np
from msgspec.structs import replace

from balanceroute.live.config import ServeConfig
from balanceroute.live.fixed import expect_same
from balanceroute.live.kubernetes.client import Cluster, open_cluster
from balanceroute.live.kubernetes.objects import EndpointSlice, InferencePool, worker_urls
from balanceroute.live.kubernetes.reflector import FIRST_BACKOFF_S, Reflector

CHANCE_STREAM = 5  # which random numbers of a seed spread the reconnections
NAMES = ("kubernetes_service", "kubernetes_pool", "kubernetes_namespace")
SETTLE_S = 0.1  # from a change to its effect: one change of a deployment comes in several

log = logging.getLogger(__name__)


class Discovery:
    """Follows the endpoints that settings name; make it with `discovering`.

    Parameters
    ----------
    cluster : Cluster
        Where to look.
    config : ServeConfig
        The settings, which name a service or an InferencePool.
    backoff_s : float
        As for `Reflector`.
    """

    def __init__(
        self, cluster: Cluster, config: ServeConfig, *, backoff_s: float = FIRST_BACKOFF_S
    ) -> None:
        self._config = config
        service = config.kubernetes_service or config.kubernetes_pool
        assert service is not None
        self._where = f"service {service} in namespace {cluster.namespace}"
        rng = np.random.default_rng((config.seed, CHANCE_STREAM))
        self._slices = Reflector(
            f"EndpointSlices of {self._where}",
            cluster.slices_of(service),
            EndpointSlice,
            self._note,
            rng=rng,
            backoff_s=backoff_s,
        )
        self._pool: Reflector[InferencePool] | None = None
        self._pool_name = config.kubernetes_pool
        if self._pool_name is not None:
            self._pool = Reflector(
                f"InferencePool {self._pool_name} in namespace {cluster.namespace}",
                cluster.pool(self._pool_name),
                InferencePool,
                self._note,
                rng=rng,
                backoff_s=backoff_s,
            )
        self.urls: tuple[str, ...] = ()
        self._has_some = asyncio.Event()
        self._settling: asyncio.TimerHandle | None = None
        self._on_change: Callable[[], object] = bool
        self._told: tuple[str, ...] = ()

    @property
    def reflectors(self) -> list[Reflector[EndpointSlice] | Reflector[InferencePool]]:
        """Return what has to run."""
        return [self._slices] if self._pool is None else [self._slices, self._pool]

    def _note(self) -> None:
        if self._settling is None:
            loop = asyncio.get_running_loop()
            self._settling = loop.call_later(SETTLE_S, self._settle)

    def _settle(self) -> None:
        """Take over what is there now, once all of it is known."""
        self._settling = None
        if not all(reflector.is_synced for reflector in self.reflectors):
            return
        urls = worker_urls(self._slices.objects.values(), self._pool_ports())
        if urls == self.urls:
            return
        self._say(urls)
        self.urls = urls
        if urls:
            self._has_some.set()
        self._on_change()

    def follow(self, on_change: Callable[[], object]) -> None:
        """Call whenever there are other endpoints than those that were applied last."""
        self._on_change = on_change
        if self._told != self.urls:
            on_change()

    def _pool_ports(self) -> list[int] | None:
        if self._pool is None:
            return None
        pool = self._pool.objects.get(self._pool_name or "")
        return [port.number for port in pool.spec.target_ports] if pool is not None else []

    def _say(self, urls: tuple[str, ...]) -> None:
        if not urls:
            reason = "has no endpoint that is ready"
            if self._pool is not None and self._pool_name not in self._pool.objects:
                reason = f"cannot be used: there is no InferencePool {self._pool_name}"
            log.error("%s %s; requests are refused (503)", self._where, reason)
            return
        added, gone = set(urls) - set(self.urls), set(self.urls) - set(urls)
        log.warning(
            "%s: %d ranks; new: %s; drained: %s",
            self._where,
            len(urls),
            ", ".join(sorted(added)) or "none",
            ", ".join(sorted(gone)) or "none",
        )

    async def wait(self) -> None:
        """Wait until there is an endpoint."""
        if not self._has_some.is_set():
            log.warning("waiting for endpoints of %s that are ready", self._where)
        await self._has_some.wait()

    def applied_to(self, config: ServeConfig) -> ServeConfig:
        """Return settings with the ranks that are there now; there may be none.

        Raises
        ------
        ConfigError
            If they look elsewhere.
        """
        expect_same(self._config, config, NAMES)
        self._told = self.urls
        return replace(config, worker_urls=self.urls)

    def stop(self) -> None:
        """Say nothing any more."""
        if self._settling is not None:
            self._settling.cancel()


@contextlib.asynccontextmanager
async def discovering(
    config: ServeConfig, *, backoff_s: float = FIRST_BACKOFF_S
) -> AsyncIterator[Discovery]:
    """Follow the endpoints that settings name for the time of the context.

    Raises
    ------
    ConfigError
        If there is no cluster to ask.
    MissingExtraError
        If Kubernetes' client is not installed.
    """
    async with open_cluster(config.kubernetes_namespace) as cluster:
        found = Discovery(cluster, config, backoff_s=backoff_s)
        tasks = [asyncio.create_task(reflector.run()) for reflector in found.reflectors]
        for task in tasks:
            task.add_done_callback(_complain)
        try:
            yield found
        finally:
            found.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _complain(task: asyncio.Task[None]) -> None:
    """Say so if endpoints are not followed any more; only an error of ours ends that."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("endpoints are not followed any more; please report this", exc_info=error)
