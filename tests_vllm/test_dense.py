"""Two dense ranks with the plug-in: ranks that step by themselves, and bind at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests_vllm.checks import added, at_rest, expect_whole
from tests_vllm.load import mixed_lengths, send_all
from tests_vllm.servers import ON, Server, running_server

BLOCKS, BLOCK_TOKENS, SLOTS = 110, 32, 32


@pytest.fixture(scope="module")
def server(folder: Path, dense: Path) -> Iterator[Server]:
    arguments = ["--data-parallel-size", "2", "--num-gpu-blocks-override", str(BLOCKS)]
    arguments += ["--max-num-seqs", str(SLOTS)]
    with running_server(folder, dense, *arguments, environment=ON) as server:
        yield server


def test_it_says_that_it_works_and_what_a_dense_model_can_gain(server: Server) -> None:
    """Once, in the server's log, and on its metrics."""
    assert server.log.count("chooses among 2 ranks by br_auto, binding at once") == 1
    assert server.log.count("this model is dense") == 1
    metrics = server.metrics()
    assert [v for name, v in metrics.items() if "balanceroute_plugin_info" in name] == [1.0]


@pytest.mark.parametrize("streams", [True, False])
def test_answers_are_whole_and_the_ledger_is_exact(server: Server, streams: bool) -> None:
    """At rest the ledger is empty, and each request was placed by the policy."""
    lengths, before = mixed_lengths(60, seed=int(streams)), at_rest(server)
    outcomes = asyncio.run(send_all(server, lengths, concurrency=24, streams=streams))
    expect_whole(outcomes, lengths)
    after = at_rest(server)
    tokens = sum(added(before, after, f"vllm:generation_tokens_total@{r}") for r in (0, 1))
    assert sum(output for _, output in lengths) == tokens
    assert len(lengths) == added(before, after, "balanceroute_decisions_total/policy")
    assert added(before, after, "balanceroute_ledger_repairs_total") == 0


def test_an_explicit_rank_is_honoured(server: Server) -> None:
    """All prompt tokens are on the rank that was asked for."""
    before = at_rest(server)
    outcomes = asyncio.run(send_all(server, [(50, 4)] * 6, concurrency=3, ranks=[1] * 6))
    assert [outcome.status for outcome in outcomes] == [200] * 6
    after = at_rest(server)
    assert added(before, after, "vllm:prompt_tokens_total@1") == 300
    assert added(before, after, "balanceroute_decisions_total/client") == 6


def test_a_rank_that_is_not_there_is_refused_as_before(server: Server) -> None:
    """With the message of vLLM itself."""
    answer = server.complete(50, 4, X_data_parallel_rank="7")
    assert "out of range" in str(answer)


def test_clients_that_leave_take_their_tokens_with_them(server: Server) -> None:
    """After 3 of 300 tokens the ranks are empty soon, in vLLM's books and in ours."""
    outcomes = asyncio.run(send_all(server, [(80, 300)] * 8, concurrency=8, leaves_after=3))
    assert [outcome.status for outcome in outcomes] == [0] * 8
    at_rest(server)


def test_the_ledger_agrees_with_the_engine_under_load(server: Server) -> None:
    """At each look: what the engine holds beyond it is the rest of a block per request, at most."""

    async def story() -> list[dict[str, float]]:
        sending = asyncio.create_task(send_all(server, [(60, 200)] * 24, concurrency=24))
        looks = []
        while not sending.done():
            await asyncio.sleep(0.2)
            looks.append(await asyncio.to_thread(server.metrics))
        await sending
        return looks

    looks, num_checked = asyncio.run(story()), 0
    for metrics in looks:
        for rank in (0, 1):
            load = metrics[f"balanceroute_rank_load_tokens@{rank}"]
            due = metrics[f"balanceroute_rank_due_tokens@{rank}"]
            running = metrics[f"balanceroute_rank_inflight_requests@{rank}"]
            beyond = metrics[f"balanceroute_rank_disagreement_tokens@{rank}"]
            if load > 0:
                assert -running <= beyond <= due + BLOCK_TOKENS * running
                num_checked += 1
    assert num_checked >= 2
    at_rest(server)


def test_preemptions_are_seen_and_nothing_is_lost(server: Server) -> None:
    """More tokens than both ranks can hold: some requests lose their place and all are answered."""
    before, lengths = at_rest(server), [(120, 200)] * 40
    outcomes = asyncio.run(send_all(server, lengths, concurrency=40))
    expect_whole(outcomes, lengths)
    after = at_rest(server)
    preempted = sum(added(before, after, f"vllm:num_preemptions_total@{r}") for r in (0, 1))
    assert preempted > 0
    seen = added(before, after, "balanceroute_preemptions_total")
    assert 0.5 * preempted <= seen <= 1.1 * preempted
