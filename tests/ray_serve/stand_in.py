"""A stand-in for what the router uses of Ray Serve, in our own words, for tests without Ray."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

NAME = "balanceroute.ray_serve.router"


@dataclass(frozen=True)
class ReplicaID:
    """Of a replica."""

    unique_id: str


@dataclass
class RunningReplica:
    """A replica that may be chosen."""

    replica_id: ReplicaID
    max_ongoing_requests: int = 8
    replica_metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class RequestMetadata:
    """What Serve knows of a request."""

    request_id: str
    internal_request_id: str
    is_streaming: bool = True


@dataclass
class PendingRequest:
    """A request that has no replica yet."""

    args: list[Any]
    kwargs: dict[str, Any]
    metadata: RequestMetadata
    future: asyncio.Future[Any]

    def reset_future(self) -> None:
        """Get a new one, as Serve does before it routes a request again."""
        self.future = asyncio.get_running_loop().create_future()


class RequestRouter:
    """What routers derive from."""

    def __init__(self) -> None:
        self.died: list[str] = []
        self.queue_lens: dict[str, int] = {}

    def initialize_state(self, **kwargs: Any) -> None:
        """Take the settings in."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take in which replicas run."""
        self.curr_replicas = {replica.replica_id: replica for replica in replicas}

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Choose."""
        raise NotImplementedError

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """Note that a replica has taken a request."""

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Note that a request has ended."""

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Note that a replica has died."""
        self.died.append(replica_id.unique_id)

    def on_new_queue_len_info(self, replica_id: ReplicaID, num_ongoing_requests: int) -> None:
        """Note how many requests a replica has."""
        self.queue_lens[replica_id.unique_id] = num_ongoing_requests

    @property
    def max_num_routing_tasks(self) -> int:
        """Return how many requests are routed at a time."""
        return 2


@dataclass(kw_only=True)
class RequestRouterConfig:
    """What a deployment takes."""

    request_router_class: str
    request_router_kwargs: dict[str, Any]


class Result:
    """A streamed answer, which Serve reads by calling its methods by name."""

    def __init__(self, pieces: list[Any]) -> None:
        self._pieces = iter(pieces)

    def __next__(self) -> Any:
        return next(self._pieces)

    async def __anext__(self) -> Any:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


@contextmanager
def router_module() -> Iterator[Any]:
    """Give the router's module, made with the stand-in."""
    made = {name: ModuleType(name) for name in ("ray", "ray.serve")}
    made["ray.serve.config"] = _module("ray.serve.config", RequestRouterConfig)
    made["ray.serve.request_router"] = _module(
        "ray.serve.request_router", PendingRequest, ReplicaID, RequestRouter, RunningReplica
    )
    before = {name: sys.modules.get(name) for name in (*made, NAME)}
    sys.modules.update(made)
    sys.modules.pop(NAME, None)
    try:
        yield importlib.import_module(NAME)
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def _module(name: str, *classes: type[Any]) -> ModuleType:
    module = ModuleType(name)
    for its in classes:
        setattr(module, its.__name__, its)
    return module
