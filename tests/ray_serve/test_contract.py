"""The router against what was recorded of Ray Serve when `make test-ray` last ran."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.ray_serve import stand_in
from tests_ray.recording import METHODS, RECORD

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "ray.txt"


def recorded() -> Any:
    return json.loads(RECORD.read_text())


def test_the_record_is_of_the_locked_release() -> None:
    """Otherwise `make test-ray RECORD=--record` is due."""
    locked = re.search(r"^ray==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE)
    assert locked is not None
    assert locked[1] == recorded()["release"]


@pytest.mark.parametrize("name", METHODS)
def test_methods_take_what_serve_gives(name: str) -> None:
    """The router's, and those of the stand-in that the tests here use."""
    record = recorded()["methods"][name]
    with stand_in.router_module() as module:
        for its in (module.BalanceRouteRequestRouter, stand_in.RequestRouter):
            method = getattr(its, name)
            assert record["parameters"] == list(inspect.signature(method).parameters)
            assert record["is_coroutine"] == inspect.iscoroutinefunction(method)


def test_what_is_read_of_serves_objects_is_there() -> None:
    """The fields and properties that the router uses, and how streams are read."""
    record = recorded()
    used = ("args", "kwargs", "metadata", "future")
    assert set(used) <= set(record["fields"]["PendingRequest"])
    used_of_metadata = {"request_id", "internal_request_id", "is_streaming"}
    assert used_of_metadata <= set(record["fields"]["RequestMetadata"])
    assert "unique_id" in record["fields"]["ReplicaID"]
    expected = ["replica_id", "max_ongoing_requests", "replica_metadata"]
    assert expected == record["properties"]["RunningReplica"]
    assert ["max_num_routing_tasks"] == record["properties"]["RequestRouter"]
    assert ["__anext__", "__next__"] == record["calls"]
