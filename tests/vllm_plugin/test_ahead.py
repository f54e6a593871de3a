"""Requests that a rank has beyond its slots."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from balanceroute.policies.classic import LeastTokens
from balanceroute.vllm_plugin.ahead import MEMORY_STEPS, Ahead
from balanceroute.vllm_plugin.balancer import Balancer
from balanceroute.vllm_plugin.facts import RequestFacts
from tests.vllm_plugin.driving import POOLED, make_client, report, request, run
from tests.vllm_plugin.stand_in import EngineCoreOutput, SamplingParams


@pytest.mark.parametrize(("steps_per_end", "expected"), [(1, 3), (3, 1), (4, 1), (7, 0), (300, 0)])
def test_as_many_as_end_until_others_can_follow(steps_per_end: int, expected: int) -> None:
    """In three steps; where ends are rare, none."""
    ahead = Ahead()
    for number in range(4 * MEMORY_STEPS):
        ahead.note(int(number % steps_per_end == 0))
    assert expected == ahead.num_reqs


def test_none_before_anything_has_ended_and_what_an_operator_says_stays() -> None:
    """One end is no rate yet."""
    learned, fixed = Ahead(), Ahead(5)
    for ahead in (learned, fixed):
        ahead.note(1)
    assert (0, 5) == (learned.num_reqs, fixed.num_reqs)


class Timed(LeastTokens):
    """Least tokens, for a policy that says when requests go as well."""

    times_releases = True


@pytest.mark.parametrize(("policy", "expected"), [(LeastTokens(), 10), (Timed(), 8)])
def test_slots_are_exceeded_unless_the_policy_times_releases(
    policy: LeastTokens, expected: int
) -> None:
    """What waits on a rank begins when a slot gets free there, whatever a policy waits for."""
    balancer = Balancer(
        num_ranks=2, num_slots=8, kv_tokens=10_000, policy=policy, is_pooled=True, ahead=Ahead(2)
    )
    rank = balancer.place(RequestFacts(request_id="a", prompt_tokens=10))
    balancer.take_step(rank, [EngineCoreOutput("a", [7])], None)
    assert [expected] * 2 == balancer.group.num_slots.tolist()


def test_a_slot_is_given_away_before_its_request_has_ended_where_that_is_certain() -> None:
    """By its limit of tokens: two steps before, since that is how long the next one takes."""

    async def story() -> None:
        client = make_client(POOLED, max_num_seqs=1)
        for name, max_tokens in (("a", 5), ("b", 50), ("c", 50)):
            await client.add_request_async(
                request(name, sampling_params=SamplingParams(max_tokens=max_tokens))
            )
        await asyncio.sleep(0.02)
        rank = dict(client.sent)
        for _ in range(2):
            for name in ("a", "b"):
                await client.process_engine_outputs(client, report(rank[name], name))
            await asyncio.sleep(0.02)
            assert {"a", "b"} == set(dict(client.sent))
        for name in ("a", "b"):
            await client.process_engine_outputs(client, report(rank[name], name))
        await asyncio.sleep(0.02)
        assert rank["a"] == dict(client.sent)["c"]

    run(story())


def test_ends_that_were_foreseen_are_not_counted_as_those_that_were_not() -> None:
    """Where each request ends at its limit, none is ahead of the slots; else as many as end."""
    for reason, expected in (("length", 8), ("stop", 11)):
        balancer = Balancer(
            num_ranks=2,
            num_slots=8,
            kv_tokens=10_000,
            policy=LeastTokens(),
            is_pooled=True,
            ahead=Ahead(),
        )
        for number in range(4 * MEMORY_STEPS):
            name = str(number)
            rank = balancer.place(RequestFacts(request_id=name, prompt_tokens=10))
            balancer.take_step(rank, [EngineCoreOutput(name, [7], reason)], None)
        assert [expected] * 2 == balancer.group.num_slots.tolist()


def test_a_request_waits_on_its_rank_for_a_slot_that_gets_free() -> None:
    """One slot and one ahead: each rank has a second request before its first has ended."""
    settings = msgspec.structs.replace(POOLED, ahead=1)

    async def story() -> None:
        client = make_client(settings, max_num_seqs=1)
        for name in "abcde":
            await client.add_request_async(request(name))
        await asyncio.sleep(0.02)
        first = dict(client.sent)
        assert {"a", "b"} == set(first)
        await client.process_engine_outputs(client, report(first["a"], "a"))
        while len(client.sent) < 4:  # or until the story's own deadline
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        ranks = np.bincount([rank for _, rank in client.sent], minlength=2)
        assert [2, 2] == ranks.tolist()

    run(story())
