from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from balanceroute.vllm_plugin import contract, hooks
from tests.vllm_plugin.driving import IMMEDIATE, make_client, run
from tests.vllm_plugin.stand_in import (
    make_client_class,
    make_modules,
)


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vllm.plugins.balanceroute")


def test_taking_hold_twice_does_nothing() -> None:
    """Plug-ins may be loaded again."""
    client_class = make_client_class()
    hooks.install(client_class, IMMEDIATE, routes=True)
    before = dict(vars(client_class))
    hooks.install(client_class, IMMEDIATE, routes=True)
    assert before == dict(vars(client_class))


def test_it_says_once_that_it_works(caplog: pytest.LogCaptureFixture) -> None:
    """With version, policy and binding."""
    run(_made())
    said = [record.message for record in caplog.records]
    assert 1 == len(said)
    assert "chooses among 2 ranks by least_tokens, binding at once" in said[0]


async def _made() -> Any:
    return make_client(IMMEDIATE)


def _register(monkeypatch: pytest.MonkeyPatch, version: str = "0.32.0+cpu", **env: str) -> Any:
    core_client, engine = make_modules()
    modules = {
        "vllm": SimpleNamespace(__version__=version),
        "vllm.v1.engine.core_client": core_client,
        "vllm.v1.engine": engine,
    }
    monkeypatch.setattr("importlib.import_module", modules.__getitem__)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    hooks.register()
    return core_client.DPLBAsyncMPClient


def test_it_is_off_until_its_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a line of vLLM is touched."""
    monkeypatch.delenv("BALANCEROUTE_VLLM", raising=False)
    assert hooks.ENGAGEMENT not in vars(_register(monkeypatch))


def test_it_takes_hold_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in has all that is needed."""
    assert hooks.ENGAGEMENT in vars(_register(monkeypatch, BALANCEROUTE_VLLM="1"))


@pytest.mark.parametrize(
    ("version", "env", "word"),
    [
        ("0.99.0", {}, "0.99.0 is not among the tested releases"),
        ("0.32.0", {"VLLM_USE_RUST_FRONTEND": "1"}, "chosen in Rust"),
        ("0.32.0", {"BALANCEROUTE_BINDING": "late"}, "Invalid enum value 'late'"),
        ("0.32.0", {"BALANCEROUTE_VLLM": "perhaps"}, "must be 1, observe or 0"),
    ],
)
def test_it_refuses_with_a_reason(
    version: str,
    env: dict[str, str],
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One error, and vLLM works as if it were not there."""
    taken = _register(monkeypatch, version, **({"BALANCEROUTE_VLLM": "1"} | env))
    assert hooks.ENGAGEMENT not in vars(taken)
    assert word in caplog.text
    assert 1 == len(caplog.records)


def test_an_unknown_release_can_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the operator says so, and what is needed is there."""
    env = {"BALANCEROUTE_VLLM": "1", "BALANCEROUTE_VLLM_ANY_VERSION": "1"}
    assert hooks.ENGAGEMENT in vars(_register(monkeypatch, "0.99.0", **env))


@pytest.mark.parametrize("name", contract.METHODS)
def test_a_missing_method_is_found(name: str) -> None:
    """Each of those that are replaced or called."""
    core_client, engine = make_modules()
    if name == "__init__":
        core_client.DPLBAsyncMPClient.__init__ = lambda self: None
    else:
        delattr(core_client.DPLBAsyncMPClient, name)
    assert any(name in fault for fault in contract.faults(core_client, engine))
