from __future__ import annotations

import asyncio
from typing import Any

import pytest

from balanceroute.vllm_plugin import hooks
from balanceroute.vllm_plugin.engage import binding_of
from balanceroute.vllm_plugin.settings import PluginSettings
from tests.vllm_plugin.driving import POOLED, make_client, report, request, run
from tests.vllm_plugin.stand_in import (
    EngineCoreOutputs,
    make_client_class,
    make_config,
)


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


def test_a_plan_waits_for_all_ranks_of_a_step() -> None:
    """Only when both have told of it is the slot filled that the first of them had got free."""

    async def story() -> None:
        settings = PluginSettings(policy="least_tokens", binding="pooled", settle_secs=1.0)
        client = make_client(settings, max_num_seqs=1)
        for name in "ab":
            await client.add_request_async(request(name))
            await asyncio.sleep(0.05)
        ranks = dict(client.sent)
        assert {"a", "b"} == set(ranks)
        for name in "cd":  # they find no slot
            await client.add_request_async(request(name))
        await asyncio.sleep(0.05)
        await client.process_engine_outputs(client, report(ranks["a"], "a", ended=("a",)))
        await client.add_request_async(request("e"))  # an arrival brings no plan forward
        await asyncio.sleep(0.05)
        assert 2 == len(client.sent)
        await client.process_engine_outputs(client, report(ranks["b"], "b"))
        await asyncio.sleep(0.05)
        assert ("c", ranks["a"]) == client.sent[-1]

    run(story())
