from __future__ import annotations

import json

import pytest
from ray.serve._private.config import DeploymentConfig

from balanceroute.ray_serve.router import request_router_config
from tests_ray.recording import RECORD, record_installed


def test_ray_is_as_it_was_recorded(request: pytest.FixtureRequest) -> None:
    """`make test-ray RECORD=--record` writes anew what `make test` holds the router to."""
    found = record_installed()
    if request.config.getoption("--record"):
        RECORD.write_text(json.dumps(found, indent=1) + "\n")
    assert json.loads(RECORD.read_text()) == found


def test_llm_deployments_take_the_router() -> None:
    """Serve's `LLMConfig` checks its ``deployment_config`` in this way."""
    config = request_router_config(slots=4)
    made = DeploymentConfig(request_router_config=config)
    assert {"slots": 4} == made.request_router_config.request_router_kwargs
