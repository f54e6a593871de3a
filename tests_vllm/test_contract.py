"""What the plug-in relies on in vLLM is there, and is what was recorded for other tests."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from balanceroute.vllm_plugin import contract
from tests_vllm.recording import RECORD, record_installed


def test_vllm_has_all_that_the_plugin_needs() -> None:
    """No method or field is missing."""
    core_client = importlib.import_module("vllm.v1.engine.core_client")
    engine = importlib.import_module("vllm.v1.engine")
    assert contract.faults(core_client, engine) == []


def test_the_record_is_of_this_release(request: pytest.FixtureRequest) -> None:
    """`pytest --record` writes it anew, after which the tests without vLLM are against it."""
    found = record_installed()
    if request.config.getoption("--record"):
        Path(RECORD).write_text(json.dumps(found, indent=1) + "\n")
    assert json.loads(RECORD.read_text()) == found
