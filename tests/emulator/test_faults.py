"""Each fault does what it says, and stops when it is cleared."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import pytest
import uvloop

from balanceroute.emulator.group import EmulatedGroup
from tests.emulator.serving import (
    STEP_S,
    Client,
    completion,
    get,
    post,
    serve_group,
    stream,
    wait_until,
)

RANK = "X_data_parallel_rank"
PINNED = ({RANK: "0"}, {RANK: "1"})


async def set_faults(client: Client, **faults: Any) -> None:
    status, _ = await post(client, "/emulator/faults", faults)
    assert 200 == status


async def clear_faults(client: Client) -> None:
    async with client.delete("/emulator/faults") as answer:
        assert 200 == answer.status


def test_faults_add_up_and_can_be_looked_at() -> None:
    """A POST changes what it names, GET shows everything, DELETE clears it."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        nothing = await get(client, "/emulator/faults")
        await set_faults(client, dead_ranks=[1], barrier=False)
        await set_faults(client, slow_ranks={"0": 2.5})
        shown = await get(client, "/emulator/faults")
        assert nothing | {"dead_ranks": [1], "barrier": False, "slow_ranks": {"0": 2.5}} == shown
        await clear_faults(client)
        assert nothing == await get(client, "/emulator/faults")

    serve_group(test)


def test_a_slow_rank() -> None:
    """The group's steps take as much longer as the rank does."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        await set_faults(client, slow_ranks={1: 4})
        await post(client, "/v1/completions", completion(3), **PINNED[0])
        _, records = group.engine.log.since(0)
        assert [4 * STEP_S] * 3 == pytest.approx(records.duration_s.tolist())

    serve_group(test)


def test_a_dead_rank_stalls_everybody() -> None:
    """With the barrier nobody gets a token, until the rank is back."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        await set_faults(client, dead_ranks=[0])
        call = asyncio.create_task(post(client, "/v1/completions", completion(3), **PINNED[1]))
        await wait_until(lambda: group.num_open == 1)
        await asyncio.sleep(20 * STEP_S)
        assert 0 == group.engine.totals.num_steps
        await clear_faults(client)
        assert 200 == (await call)[0]

    serve_group(test)


def test_a_dead_rank_without_a_barrier() -> None:
    """Its own requests hang, and can be aborted; those of the others do not notice."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        await set_faults(client, dead_ranks=[0], barrier=False)
        call = asyncio.create_task(post(client, "/v1/completions", completion(3), **PINNED[0]))
        await wait_until(lambda: group.num_open == 1)
        assert 200 == (await post(client, "/v1/completions", completion(3), **PINNED[1]))[0]
        assert 1 == group.num_open
        call.cancel()
        await wait_until(lambda: group.num_open == 0)
        assert 0 == group.engine.ranks[0].num_waiting

    serve_group(test)


def test_a_dead_group() -> None:
    """Open answers are cut off, everything is 503 but the switch that brings it back."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        for is_stream in (True, False):
            body = completion(10_000, stream=is_stream)
            call = asyncio.create_task(post(client, "/v1/completions", body))
            await wait_until(lambda: group.num_open == 1)
            await set_faults(client, dead_group=True)
            with pytest.raises(aiohttp.ClientError):
                await call
            for path in ("/health", "/v1/models", "/metrics"):
                async with client.get(path) as answer:
                    assert 503 == answer.status
            assert 503 == (await post(client, "/v1/completions", completion()))[0]
            await wait_until(lambda: group.num_open == 0)
            await clear_faults(client)
        assert 200 == (await post(client, "/v1/completions", completion()))[0]

    serve_group(test)


@pytest.mark.parametrize("is_stream", [True, False])
def test_stalled_streams(is_stream: bool) -> None:
    """The rank works on, but its tokens come only when the fault is cleared."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        await set_faults(client, stalled_ranks=[0])
        body = completion(5)
        ask = stream if is_stream else post
        call = asyncio.create_task(ask(client, "/v1/completions", body, **PINNED[0]))
        await wait_until(lambda: group.engine.ranks[0].total_generated_tokens == 5)
        await asyncio.sleep(5 * STEP_S)
        assert not call.done()
        await clear_faults(client)
        told = await call
        if is_stream:
            assert [" a a a a a"] == [chunk["choices"][0]["text"] for chunk in told]

    serve_group(test)


def test_a_stream_that_stalls_midway() -> None:
    """What was withheld comes with the first token after it."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        call = asyncio.create_task(stream(client, "/v1/completions", completion(400), **PINNED[0]))
        await wait_until(lambda: group.engine.ranks[0].total_generated_tokens > 3)
        await set_faults(client, stalled_ranks=[0])
        at = group.engine.ranks[0].total_generated_tokens
        await wait_until(lambda: group.engine.ranks[0].total_generated_tokens > at + 10)
        await clear_faults(client)
        counts = [chunk["choices"][0]["text"].count("a") for chunk in await call]
        assert 400 == sum(counts)
        assert max(counts) >= 10

    serve_group(test)


@pytest.mark.parametrize("loop_factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_connection_that_is_reset(
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
) -> None:
    """The stream breaks off with a reset after so many chunks, and its request is aborted."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        await set_faults(client, reset_after_chunks=3)
        host, _, port = group.url.removeprefix("http://").partition(":")
        body = msgspec.json.encode(completion(99, stream=True))
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head % len(body) + body)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        await wait_until(lambda: group.num_open == 0)
        assert 3 <= group.engine.ranks[0].total_generated_tokens < 99
        await clear_faults(client)
        assert 9 == len(await stream(client, "/v1/completions", completion(9)))

    serve_group(test, loop_factory=loop_factory)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_refusals(status: int) -> None:
    """The next two requests are refused, the third is served."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        await set_faults(client, reject_count=2, reject_status=status)
        got = [await post(client, "/v1/completions", completion(1)) for _ in range(3)]
        assert [status, status, 200] == [answer[0] for answer in got]
        assert status == got[0][1]["error"]["code"]

    serve_group(test)


def test_bad_json() -> None:
    """The next whole answer and the next stream's first chunk cannot be read."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        await set_faults(client, bad_json_count=3)
        with pytest.raises(msgspec.DecodeError):
            await post(client, "/v1/completions", completion(2))
        for num_tokens in (2, 1):
            with pytest.raises(msgspec.DecodeError):
                await stream(client, "/v1/completions", completion(num_tokens))
        assert 200 == (await post(client, "/v1/completions", completion(2)))[0]

    serve_group(test)


def test_wrong_usage() -> None:
    """Answers report more tokens than there were."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        await set_faults(client, wrong_usage_tokens=100)
        _, answer = await post(client, "/v1/completions", completion(2))
        assert (102, 102) == (
            answer["usage"]["prompt_tokens"],
            answer["usage"]["completion_tokens"],
        )

    serve_group(test)


def test_metrics_that_are_missing() -> None:
    """One metric is left out, by either of a counter's names; or all of them are 404."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        names = ("vllm:kv_cache_usage_perc", "vllm:num_preemptions_total")
        for name in names:
            await set_faults(client, missing_metric=name)
            async with client.get("/metrics") as answer:
                text = (await answer.read()).decode()
            assert [name == other for other in names] == [other not in text for other in names]
        await set_faults(client, metrics_gone=True)
        async with client.get("/metrics") as answer:
            assert 404 == answer.status

    serve_group(test)
