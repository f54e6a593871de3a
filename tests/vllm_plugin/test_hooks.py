from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from balanceroute.policies.base import Plan
from balanceroute.vllm_plugin import contract, hooks
from balanceroute.vllm_plugin.engage import binding_of
from balanceroute.vllm_plugin.settings import PluginSettings
from tests.vllm_plugin.stand_in import (
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    make_client_class,
    make_config,
    make_modules,
)

IMMEDIATE = PluginSettings(policy="least_tokens", binding="immediate")
POOLED = PluginSettings(policy="least_tokens", binding="pooled", settle_secs=0.0)


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vllm.plugins.balanceroute")


def make_client(settings: PluginSettings, *, routes: bool = True, **config: Any) -> Any:
    client_class = make_client_class()
    hooks.install(client_class, settings, routes=routes)
    return client_class(make_config(**config))


def request(name: str, prompt_tokens: int = 10, **fields: Any) -> EngineCoreRequest:
    return EngineCoreRequest(name, [1] * prompt_tokens, **fields)


def report(rank: int, *names: str, ended: tuple[str, ...] = ()) -> EngineCoreOutputs:
    outputs = [EngineCoreOutput(name, [1], "length" if name in ended else None) for name in names]
    return EngineCoreOutputs(rank, outputs, None, set(ended) or None)


def run(story: Any) -> Any:
    return asyncio.run(asyncio.wait_for(story, 20))


def test_ranks_are_chosen_by_tokens_and_vllm_keeps_its_own_books() -> None:
    """A long prompt and two short ones: the short ones share a rank, where vLLM would alternate."""

    async def story() -> None:
        client = make_client(IMMEDIATE)
        for name, prompt_tokens in (("a", 500), ("b", 10), ("c", 10)):
            await client.add_request_async(request(name, prompt_tokens))
        assert [("a", 0), ("b", 1), ("c", 1)] == client.sent
        assert {"a", "b", "c"} == set(client.reqs_in_flight)
        assert {b"\0": 1, b"\1": 2} == dict(client.engine_inflight)

    run(story())


def test_an_explicit_rank_is_honoured_and_booked() -> None:
    """The client's word stands, and counts for the next choice."""

    async def story() -> None:
        client = make_client(IMMEDIATE)
        await client.add_request_async(request("a", 100, data_parallel_rank=1))
        await client.add_request_async(request("b"))
        assert [("a", 1), ("b", 0)] == client.sent
        assert [10, 100] == client._balanceroute.balancer.group.ledger.ranks["due_tokens"].tolist()

    run(story())


def test_requests_that_make_no_tokens_are_left_to_vllm() -> None:
    """Pooling models may have a rank of their own for a request."""

    async def story() -> None:
        client = make_client(IMMEDIATE)
        for name in "ab":
            await client.add_request_async(
                request(name, sampling_params=None, pooling_params="embed")
            )
        assert [("a", 0), ("b", 1)] == client.sent
        assert 2 == client._balanceroute.balancer.num_in_flight

    run(story())


@pytest.mark.parametrize("settings", [IMMEDIATE, POOLED])
def test_a_policy_that_fails_leaves_vllm_in_charge(
    settings: PluginSettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request goes where vLLM would have sent it, and one message says why."""

    class Broken:
        binding = "immediate"

        def plan(self, view: Any, pool: Any) -> Plan:
            raise ZeroDivisionError

    monkeypatch.setattr(
        "balanceroute.vllm_plugin.engage.make_policy", lambda *args, **others: Broken()
    )
    monkeypatch.setattr("balanceroute.vllm_plugin.engage._warm", lambda *args, **others: None)

    async def story() -> None:
        client = make_client(settings)
        for name in "abcd":
            await client.add_request_async(request(name))
        await asyncio.sleep(0.05)
        assert [("a", 0), ("b", 1), ("c", 0), ("d", 1)] == sorted(client.sent)

    run(story())
    said = [record for record in caplog.records if "back in force" in record.message]
    assert 1 == len(said)
    assert "ZeroDivisionError" in caplog.text


def test_held_requests_go_when_there_is_a_slot() -> None:
    """Two ranks of one slot: the third request waits until the first has ended."""

    async def story() -> None:
        client = make_client(POOLED, max_num_seqs=1)
        for name in "abc":
            await client.add_request_async(request(name))
        await asyncio.sleep(0.02)
        assert ["a", "b"] == sorted(name for name, _ in client.sent)
        rank = dict(client.sent)["a"]
        await client.process_engine_outputs(client, report(rank, "a", ended=("a",)))
        await asyncio.sleep(0.02)
        assert ("c", rank) == client.sent[-1]

    run(story())


def test_a_held_request_can_be_aborted() -> None:
    """It never reaches a rank, and those that did are aborted there."""

    async def story() -> None:
        client = make_client(POOLED, max_num_seqs=1)
        for name in "abcd":
            await client.add_request_async(request(name))
        await asyncio.sleep(0.02)
        await client.abort_requests_async(["a", "c"])
        assert ["a"] == client.aborted
        rank = dict(client.sent)["a"]
        await client.process_engine_outputs(client, report(rank, ended=("a",)))
        await asyncio.sleep(0.02)
        assert ["a", "b", "d"] == sorted(name for name, _ in client.sent)

    run(story())


def test_an_abort_between_pool_and_rank_is_not_lost() -> None:
    """The request has a rank but was not sent yet; it is not sent any more."""

    async def story() -> None:
        client = make_client(POOLED)
        await client.add_request_async(request("a"))
        engagement = client._balanceroute
        engagement.balancer.group.plan()  # placed, with its sending due in the next turn
        await client.abort_requests_async(["a"])
        await asyncio.sleep(0.02)
        assert ([], 0) == (client.sent, engagement.balancer.num_in_flight)

    run(story())


def test_a_held_request_that_cannot_be_sent_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller is told, and the others are served."""

    def failed_outputs(request_id: str) -> EngineCoreOutputs:
        return report(0, request_id, ended=(request_id,))

    monkeypatch.setattr("balanceroute.vllm_plugin.engage.failed_outputs", failed_outputs)

    async def story() -> None:
        client_class = make_client_class()
        send = client_class.add_request_async

        async def add_request_async(self: Any, one: Any) -> None:
            await send(self, one)
            if one.request_id == "b":
                raise ValueError("cannot be encoded")

        client_class.add_request_async = add_request_async
        hooks.install(client_class, POOLED, routes=True)
        client = client_class(make_config())
        for name in "abc":
            await client.add_request_async(request(name))
        await asyncio.sleep(0.05)
        told = client.outputs_queue.get_nowait()
        assert ["b"] == [output.request_id for output in told.outputs]
        assert {"a", "c"} == set(client.reqs_in_flight)
        assert 2 == client._balanceroute.balancer.num_in_flight

    run(story())


def test_nobody_is_held_beyond_the_time_limit() -> None:
    """After it a request is bound at once, slot or not."""

    async def story() -> None:
        settings = PluginSettings(
            policy="least_tokens", binding="pooled", queue_timeout_secs=0.01, settle_secs=0.0
        )
        client = make_client(settings, max_num_seqs=1)
        for name in "abc":
            await client.add_request_async(request(name))
        await asyncio.sleep(0.05)
        await client.process_engine_outputs(client, report(0, "a"))
        await asyncio.sleep(0.02)
        assert 3 == len(client.sent)

    run(story())


def test_the_pool_is_bounded() -> None:
    """What finds it full is bound at once."""

    async def story() -> None:
        settings = PluginSettings(policy="least_tokens", binding="pooled", queue_size=1)
        client = make_client(settings, max_num_seqs=1)
        for name in "abc":
            await client.add_request_async(request(name))
        assert ["b", "c"] == [name for name, _ in client.sent]

    run(story())


def test_pausing_finds_held_requests_too() -> None:
    """They are on their ranks before vLLM pauses."""

    async def story() -> None:
        client = make_client(POOLED, max_num_seqs=1)
        for name in "abc":
            await client.add_request_async(request(name))
        assert 3 == await client.pause_scheduler_async()

    run(story())


def test_a_dead_engine_refuses_requests_as_before() -> None:
    """The caller gets vLLM's own error."""

    async def story() -> None:
        client = make_client(POOLED)
        client.resources.engine_dead = True
        with pytest.raises(ConnectionError, match="dead"):
            await client.add_request_async(request("a"))

    run(story())


def test_other_ranks_than_at_the_start_end_the_engagement(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Elastic scaling is vLLM's affair."""

    async def story() -> None:
        client = make_client(IMMEDIATE)
        client.core_engines.append(b"\2")
        for name in "abc":
            await client.add_request_async(request(name))
        assert [0, 1, 2] == [rank for _, rank in client.sent]

    run(story())
    assert "the number of ranks has changed" in caplog.text


def test_requests_that_vllm_has_forgotten_leave_the_ledger() -> None:
    """Two looks in a row, and they are taken out and counted."""

    async def story() -> None:
        client = make_client(IMMEDIATE)
        await client.add_request_async(request("a"))
        client.reqs_in_flight.clear()
        await asyncio.sleep(0.7)
        assert 0 == client._balanceroute.balancer.num_in_flight

    before = REGISTRY.get_sample_value("balanceroute_ledger_repairs_total") or 0.0
    run(story())
    assert before + 1.0 == REGISTRY.get_sample_value("balanceroute_ledger_repairs_total")


def test_metrics_show_the_ledger() -> None:
    """A quarter of a second later, and nothing at rest."""

    async def story() -> None:
        client = make_client(IMMEDIATE)
        await client.add_request_async(request("a", 100))
        await client.process_engine_outputs(client, report(0, "a"))
        await asyncio.sleep(0.4)
        assert 101.0 == REGISTRY.get_sample_value("balanceroute_rank_load_tokens", {"rank": "0"})
        await client.process_engine_outputs(client, report(0, "a", ended=("a",)))
        await asyncio.sleep(0.4)
        assert 0.0 == REGISTRY.get_sample_value("balanceroute_rank_load_tokens", {"rank": "0"})

    run(story())


def test_several_api_servers_count_what_the_others_have_sent() -> None:
    """A long prompt at one of them keeps the other's short ones off its rank."""

    async def story() -> None:
        client_class = make_client_class()
        hooks.install(client_class, IMMEDIATE, routes=True)
        config = make_config()
        config.client_count = 2
        one = client_class(config)
        client_class.first_index = 1
        other = client_class(config)
        await one.add_request_async(request("a", 500))
        for name in "bcd":
            await other.add_request_async(request(name))
        assert [("a", 0)] == one.sent
        assert [("b", 1), ("c", 1), ("d", 1)] == other.sent
        await one.process_engine_outputs(one, report(0, "a", ended=("a",)))
        await other.add_request_async(request("e"))
        assert ("e", 0) == other.sent[-1]

    run(story())


def test_observing_changes_nothing() -> None:
    """Ranks are chosen by requests, as in vLLM; the ledger counts."""

    async def story() -> None:
        client = make_client(IMMEDIATE, routes=False)
        for name, prompt_tokens in (("a", 500), ("b", 10), ("c", 10)):
            await client.add_request_async(request(name, prompt_tokens))
        assert [0, 1, 0] == [rank for _, rank in client.sent]
        assert [510, 10] == client._balanceroute.balancer.group.ledger.ranks["due_tokens"].tolist()

    run(story())


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


@pytest.mark.parametrize(
    ("changes", "is_pooled"),
    [
        ({}, True),
        ({"is_moe": False}, False),  # ranks that do not wait for each other
        ({"policy": "priority"}, False),  # the engine orders those that wait
    ],
)
def test_holding_is_for_groups_where_it_is_safe(changes: Any, is_pooled: bool) -> None:
    """Bound at once otherwise, unless the operator insists."""
    client = make_client_class()(make_config(**changes))
    assert is_pooled == binding_of(client, PluginSettings())[0]
    assert binding_of(client, PluginSettings(binding="pooled"))[0]


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
