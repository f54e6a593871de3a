from __future__ import annotations

import json

import pytest

from tests_ray.recording import RECORD, record_installed


def test_ray_is_as_it_was_recorded(request: pytest.FixtureRequest) -> None:
    """`make test-ray RECORD=--record` writes anew what `make test` holds the router to."""
    found = record_installed()
    if request.config.getoption("--record"):
        RECORD.write_text(json.dumps(found, indent=1) + "\n")
    assert json.loads(RECORD.read_text()) == found
