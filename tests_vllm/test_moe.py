"""Two ranks of a mixture of experts in lockstep, with the plug-in: requests may be held."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests_vllm.checks import added, at_rest, expect_whole
from tests_vllm.load import mixed_lengths, send_all
from tests_vllm.servers import ON, Server, running_server

SLOTS = 8


@pytest.fixture(scope="module")
def server(folder: Path, moe: Path) -> Iterator[Server]:
    arguments = ["--data-parallel-size", "2", "--enable-expert-parallel"]
    arguments += ["--max-num-seqs", str(SLOTS)]
    with running_server(folder, moe, *arguments, environment=ON) as server:
        yield server


def test_it_binds_late_where_ranks_meet_at_a_barrier(server: Server) -> None:
    """And says why."""
    assert "binding late (the ranks meet at a barrier)" in server.log


@pytest.mark.parametrize("streams", [True, False])
def test_answers_are_whole_with_more_requests_than_slots(server: Server, streams: bool) -> None:
    """Requests are held and placed; vLLM's own queues stay empty; nothing is left at the end."""
    lengths, before = mixed_lengths(60, seed=2 + streams), at_rest(server)
    outcomes = asyncio.run(send_all(server, lengths, concurrency=40, streams=streams))
    expect_whole(outcomes, lengths)
    after = at_rest(server)
    assert after["balanceroute_pool_requests"] == 0.0
    assert len(lengths) == added(before, after, "balanceroute_decisions_total/policy")
    tokens = sum(added(before, after, f"vllm:generation_tokens_total@{r}") for r in (0, 1))
    assert sum(output for _, output in lengths) == tokens
    assert added(before, after, "balanceroute_barrier_token_seconds_total") > 0
    assert added(before, after, "balanceroute_held_token_seconds_total") > 0


def test_held_requests_show_and_leave_with_their_clients(server: Server) -> None:
    """Twice as many as there are slots; all clients go away, and both queues are empty."""

    async def story() -> float:
        sending = asyncio.create_task(send_all(server, [(40, 1000)] * 32, concurrency=32))
        await asyncio.sleep(2.0)
        held = (await asyncio.to_thread(server.metrics))["balanceroute_pool_requests"]
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        return held

    assert asyncio.run(story()) == 32 - 2 * SLOTS
    assert at_rest(server)["balanceroute_pool_requests"] == 0.0


def test_a_dead_engine_ends_everything_as_in_vllm(server: Server) -> None:
    """No request hangs, held or not, and the server ends; this test is the last of its module."""

    async def story() -> list[object]:
        sending = asyncio.gather(
            *(send_all(server, [(40, 1000)], concurrency=1) for _ in range(24)),
            return_exceptions=True,
        )
        await asyncio.sleep(2.0)
        os.kill(_engine_process(server), signal.SIGKILL)
        return list(await asyncio.wait_for(sending, 60))

    ends = asyncio.run(story())
    assert len(ends) == 24
    deadline_s = time.monotonic() + 60
    while server.process.poll() is None and server.is_up() and time.monotonic() < deadline_s:
        time.sleep(0.5)
    assert not server.is_up()


def _engine_process(server: Server) -> int:
    """Return the id of a process that runs a rank."""
    group = server.process.pid
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            name = (folder / "cmdline").read_bytes().decode(errors="replace")
            is_ours = os.getsid(int(folder.name)) == group
        except (OSError, ProcessLookupError):
            continue
        if is_ours and "EngineCore" in name:
            return int(folder.name)
    raise AssertionError("no engine process was found")
