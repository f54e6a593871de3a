from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from ray import serve

from balanceroute.ray_serve.router import request_router_config
from tests_ray.replicas import Engine

Deploy = Callable[..., Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write what Ray's classes look like")


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=100 << 20,
        _node_ip_address="127.0.0.1",
    )
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
def deploy() -> Iterator[Deploy]:
    """Return what deploys engines, and gives a handle; a name may be deployed anew, otherwise."""
    names = set()

    def deploy(name: str, num_replicas: int, *, step_s: float = 0.01, **kwargs: Any) -> Any:
        config = request_router_config(**{"slots": 8, "policy": "br_auto"} | kwargs)
        names.add(name)
        app = Engine.options(num_replicas=num_replicas, request_router_config=config).bind(step_s)
        return serve.run(app, name=name, route_prefix=f"/{name}")

    yield deploy
    for name in names:
        serve.delete(name)
