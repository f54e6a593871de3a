"""What the request router relies on in Ray Serve, as a record of a release."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parents[1] / "tests" / "ray_serve" / "recorded.json"
METHODS = (
    "initialize_state",
    "update_replicas",
    "choose_replicas",
    "on_request_routed",
    "on_request_completed",
    "on_replica_actor_died",
    "on_new_queue_len_info",
)


def record_installed() -> dict[str, Any]:
    """Return the record of the Ray that is installed here."""
    routers = importlib.import_module("ray.serve.request_router")
    common = importlib.import_module("ray.serve._private.common")
    handles = importlib.import_module("ray.serve.handle")
    replica = routers.RunningReplica
    reading = handles.DeploymentResponseGenerator
    return {
        "release": importlib.import_module("ray").__version__,
        "methods": {name: _facts(getattr(routers.RequestRouter, name)) for name in METHODS},
        "properties": {
            "RequestRouter": _properties(routers.RequestRouter, "max_num_routing_tasks"),
            "RunningReplica": _properties(
                replica, "replica_id", "max_ongoing_requests", "replica_metadata"
            ),
        },
        "fields": {
            "PendingRequest": _fields(routers.PendingRequest),
            "RequestMetadata": _fields(common.RequestMetadata),
            "ReplicaID": _fields(common.ReplicaID),
        },
        # Whatever is read of an answer is read by calling these by name.
        "calls": [n for n in ("__anext__", "__next__") if n in _names(getattr(reading, n))],
    }


def _facts(method: Any) -> dict[str, Any]:
    return {
        "parameters": list(inspect.signature(method).parameters),
        "is_coroutine": inspect.iscoroutinefunction(method),
    }


def _properties(its: type[Any], *names: str) -> list[str]:
    return [name for name in names if isinstance(getattr(its, name, None), property)]


def _fields(its: Any) -> list[str]:
    return [each.name for each in dataclasses.fields(its)]


def _names(method: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = inspect.unwrap(method).__code__.co_names
    return found
