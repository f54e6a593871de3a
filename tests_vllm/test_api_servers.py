"""Several API servers in front of the same ranks: what each knows of the others' requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests_vllm.checks import added, at_rest, expect_whole
from tests_vllm.load import mixed_lengths, send_all
from tests_vllm.servers import ANY_API_SERVERS, ON, START_S, Server, running_server

NUM_SERVERS = 2
AT_ONCE = "binding at once (dense ranks step by themselves)"
NUM_LONG, NUM_SHORT = 4, 12
UNDER_WAY_S = 0.5


@pytest.fixture(scope="module")
def server(folder: Path, dense: Path) -> Iterator[Server]:
    arguments = ["--data-parallel-size", "2", "--api-server-count", str(NUM_SERVERS)]
    arguments += ["--max-num-seqs", "64"]
    with running_server(folder, dense, *arguments, entry=ANY_API_SERVERS, environment=ON) as server:
        deadline_s = time.monotonic() + START_S
        while server.log.count(AT_ONCE) < NUM_SERVERS:  # the first to be up answers for all
            assert time.monotonic() < deadline_s, server.log[-2000:]
            time.sleep(0.2)
        yield server


def test_each_binds_at_once(server: Server) -> None:
    """None of them knows of every slot, and each says it once."""
    assert server.log.count(AT_ONCE) == NUM_SERVERS


def test_the_sum_of_their_ledgers_is_exact_and_level(server: Server) -> None:
    """Both have served, their accounts add up to the engines', and the ranks held alike."""
    lengths, before = mixed_lengths(120, seed=17), at_rest(server)
    outcomes = asyncio.run(send_all(server, lengths, concurrency=48))
    expect_whole(outcomes, lengths)
    after = at_rest(server)
    assert len(lengths) == added(before, after, "balanceroute_decisions_total/policy")
    tokens = sum(added(before, after, f"vllm:generation_tokens_total@{r}") for r in (0, 1))
    assert sum(output for _, output in lengths) == tokens


def test_each_counts_what_the_others_have_sent(server: Server) -> None:
    """Long prompts on one rank and short ones beside them: the short ones go to the other rank."""

    async def story() -> None:
        every = [(1500, 540)] * NUM_LONG
        long = asyncio.create_task(
            send_all(server, every, concurrency=NUM_LONG, ranks=[0] * NUM_LONG)
        )
        await asyncio.sleep(UNDER_WAY_S)
        outcomes = await send_all(server, [(20, 4)] * NUM_SHORT, concurrency=4)
        assert [outcome.status for outcome in outcomes] == [200] * NUM_SHORT
        assert not long.done()
        await long

    before = at_rest(server)
    asyncio.run(story())
    after = at_rest(server)
    assert added(before, after, "vllm:prompt_tokens_total@1") == NUM_SHORT * 20
