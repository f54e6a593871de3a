from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import GangSchedulingConfig
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from balanceroute.ray_serve.router import request_router_config
from tests_ray.conftest import Deploy
from tests_ray.looking import (
    desk_of,
    eventually,
    expect_empty,
    prompt,
    read_all,
    read_stream,
    router_of,
)
from tests_ray.replicas import Engine


def test_a_replica_that_dies_takes_only_its_own_streams_with_it(deploy: Deploy) -> None:
    """Each request is answered once, by one replica, or ends with an error; then all goes on."""
    handle = deploy("death", 3)
    read_all(handle, [prompt(10, 2) for _ in range(6)])
    with ThreadPoolExecutor(12) as pool:
        futures = [pool.submit(read_stream, handle, prompt(100, 150)) for _ in range(12)]
        desk = desk_of(handle)
        eventually(lambda: desk.group.ledger.num_in_flight == 12, "all run")
        handle.die.remote({})
        answers = [future.result() for future in futures]
    failed = {replica for replica, _, error in answers if error is not None}
    assert len(failed) <= 1
    assert 12 - sum(error is not None for _, _, error in answers) >= 7
    assert all(isinstance(error, RayActorError) for _, _, error in answers if error is not None)
    expect_empty(handle)
    eventually(lambda: len(router_of(handle).curr_replicas) == 3, "a replica takes its place")
    later = read_all(handle, [prompt(100, 20) for _ in range(12)])
    assert [None] * 12 == [error for _, _, error in later]
    assert 3 == len({replica for replica, _, _ in later} - failed)
    assert 3 == len(desk.names)
    expect_empty(handle)


def test_scaling_up_and_down_loses_nothing() -> None:
    """New replicas get requests; those that go answer theirs; numbers are used again."""
    handle = scale(1)
    eventually(lambda: read_stream(handle, prompt(10, 2))[2] is None, "it serves")
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(read_stream, handle, prompt(50, 300)) for _ in range(8)]
        scale(3)
        eventually(lambda: len(router_of(handle).curr_replicas) == 3, "three run")
        more = read_all(handle, [prompt(50, 10) for _ in range(12)])
        answers = [future.result() for future in futures]
    assert [None] * 20 == [error for _, _, error in more + answers]
    assert 1 == len({replica for replica, _, _ in answers})
    eventually(lambda: num_serving(handle) == 3, "all three serve")
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(read_stream, handle, prompt(50, 200)) for _ in range(8)]
        eventually(lambda: desk_of(handle).group.ledger.num_in_flight == 8, "all run")
        scale(1)
        assert [None] * 8 == [future.result()[2] for future in futures]
    eventually(lambda: len(router_of(handle).curr_replicas) == 1, "one is left")
    scale(2)
    eventually(lambda: num_serving(handle) == 2, "two serve")
    assert 3 == desk_of(handle).group.num_ranks
    expect_empty(handle)
    serve.delete("scale")


def scale(num_replicas: int) -> Any:
    """Say how many replicas there are to be, as `serve deploy` does; return a handle."""
    config = ServeDeploySchema.model_validate(
        {
            "applications": [
                {
                    "name": "scale",
                    "route_prefix": "/scale",
                    "import_path": "tests_ray.replicas:app",
                    "deployments": [{"name": "Server", "num_replicas": num_replicas}],
                }
            ]
        }
    )
    _get_global_client().deploy_apps(config, _blocking=True)
    return serve.get_app_handle("scale")


def num_serving(handle: Any) -> int:
    return len({replica for replica, _, _ in read_all(handle, [prompt(50, 5) for _ in range(8)])})


def test_each_gang_is_balanced_by_itself() -> None:
    """As data-parallel deployments have them; one that dies goes as a whole, and comes again."""
    app = Engine.options(
        num_replicas=4,
        gang_scheduling_config=GangSchedulingConfig(gang_size=2),
        request_router_config=request_router_config(slots=4),
    ).bind(0.01)
    handle = serve.run(app, name="gangs", route_prefix="/gangs")
    eventually(lambda: num_serving(handle) == 4, "all four serve")
    desks = router_of(handle)._desks
    assert [2, 2] == [desk.group.num_ranks for desk in desks.values()]
    before = set(desks)
    handle.die.remote({})
    eventually(lambda: len(set(desks) - before) == 1, "a new gang has come")
    eventually(lambda: len(desks) == 2, "the old one is forgotten")
    eventually(lambda: num_serving(handle) == 4, "all four serve")
    serve.delete("gangs")
