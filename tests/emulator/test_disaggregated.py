"""Prefill and decode on different groups, with parameters as of vLLM's NIXL connector."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from balanceroute.emulator.group import EmulatedGroup
from tests.emulator.serving import Client, completion, post, serve_groups, wait_until

SPLIT: dict[str, Any] = {
    "num_groups": 2,
    "roles": ("prefill", "decode"),
    "num_ranks": 1,
    "num_slots": 1,
    "num_blocks": 10,
    "budget_tokens": 64,
    "max_model_len": 150,
}
PROMPT = list(range(100))  # 7 blocks of 16
NAMES = {"remote_engine_id", "remote_request_id"}
REMOTE_DECODE = {"do_remote_decode": True, "do_remote_prefill": False}


async def prefill(group: EmulatedGroup, client: Client) -> dict[str, Any]:
    """Let a group prefill the prompt; return the parameters for the decode side."""
    body = completion(1, prompt=PROMPT, kv_transfer_params=REMOTE_DECODE)
    status, answer = await post(client, f"{group.url}/v1/completions", body)
    assert 200 == status
    params: dict[str, Any] = answer["kv_transfer_params"]
    return params


async def decode(
    group: EmulatedGroup, client: Client, params: dict[str, Any], num_tokens: int = 3
) -> Any:
    body = completion(num_tokens, prompt=PROMPT, kv_transfer_params=params)
    status, answer = await post(client, f"{group.url}/v1/completions", body)
    assert 200 == status
    return answer


def stop(group: EmulatedGroup) -> None:
    """Let requests wait, however long a test takes."""
    group.faults.change(b'{"dead_ranks": [0]}')
    group.apply_faults()


def go_on(group: EmulatedGroup) -> None:
    group.faults.clear()
    group.apply_faults()


def test_a_prompt_is_prefilled_here_and_decoded_there() -> None:
    """Its KV is held until it has been fetched; the decode side computes no prompt."""

    async def test(groups: Sequence[EmulatedGroup], client: Client) -> None:
        first, second = groups
        params = await prefill(first, client)
        assert {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": list(range(7)),
            "remote_host": "127.0.0.1",
            "remote_port": int(first.url.rpartition(":")[2]),
            "tp_size": 1,
        } == {key: params[key] for key in params if key not in NAMES}
        assert NAMES < set(params)
        assert 2 == first.engine.totals.num_steps  # 64 tokens, then 36
        assert 7 == first.engine.ranks[0].used_blocks
        answer = await decode(second, client, params)
        assert 3 == answer["usage"]["completion_tokens"]
        assert 3 == second.engine.totals.num_steps
        assert 0 == first.engine.ranks[0].used_blocks
        _, records = second.engine.log.since(0)
        assert [100, 101, 102] == records.max_load_tokens.tolist()

    serve_groups(test, **SPLIT)


def test_held_kv_is_back_pressure() -> None:
    """A prefill rank whose blocks are held takes the next prompt when they have been fetched."""

    async def test(groups: Sequence[EmulatedGroup], client: Client) -> None:
        first, second = groups
        params = await prefill(first, client)
        waiting = asyncio.create_task(prefill(first, client))
        await wait_until(lambda: first.engine.ranks[0].num_waiting == 1)
        assert 2 == first.engine.totals.num_steps
        stop(second)
        fetching = asyncio.create_task(decode(second, client, params, 1))
        await wait_until(lambda: second.engine.ranks[0].num_waiting == 1)
        assert 7 == first.engine.ranks[0].used_blocks  # the decode rank has not got to it
        go_on(second)
        await asyncio.gather(fetching, waiting)
        assert 7 == first.engine.ranks[0].used_blocks  # those of the second prompt

    serve_groups(test, **SPLIT)


def test_kv_that_nobody_fetches_is_given_up() -> None:
    """After the time-out the blocks are free."""

    async def test(groups: Sequence[EmulatedGroup], client: Client) -> None:
        first, second = groups
        params = await prefill(first, client)
        await wait_until(lambda: first.engine.ranks[0].used_blocks == 0)
        await decode(second, client, params)  # it is too late, which is not noticed here

    serve_groups(test, **SPLIT, kv_hold_timeout_s=0.05)


def test_a_decode_request_that_is_aborted_lets_the_kv_go() -> None:
    """Nobody will fetch it any more."""

    async def test(groups: Sequence[EmulatedGroup], client: Client) -> None:
        first, second = groups
        params = await prefill(first, client)
        stop(second)
        call = asyncio.create_task(decode(second, client, params))
        await wait_until(lambda: second.engine.ranks[0].num_waiting == 1)
        call.cancel()
        await wait_until(lambda: first.engine.ranks[0].used_blocks == 0)

    serve_groups(test, **SPLIT)


def test_plain_groups_take_no_notice() -> None:
    """Without a role the parameters mean nothing, as for a vLLM without a connector."""

    async def test(groups: Sequence[EmulatedGroup], client: Client) -> None:
        assert await prefill(groups[0], client) is None
        assert 0 == groups[0].engine.ranks[0].used_blocks

    serve_groups(test, **(SPLIT | {"roles": ("plain",)}))
