from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from prometheus_client import REGISTRY

from balanceroute.policies.base import Plan
from balanceroute.vllm_plugin import hooks
from balanceroute.vllm_plugin.settings import PluginSettings
from tests.vllm_plugin.driving import IMMEDIATE, POOLED, make_client, report, request, run
from tests.vllm_plugin.stand_in import (
    make_client_class,
    make_config,
)


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vllm.plugins.balanceroute")


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
