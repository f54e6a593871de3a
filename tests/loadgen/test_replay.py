"""What a run sends, and what it measures of the answers."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from aiohttp import web

from balanceroute.errors import ConfigError
from balanceroute.loadgen import LoadConfig, Measurement, Snapshot, replay
from balanceroute.metrics import tpot_values, ttft_values
from tests.loadgen.servers import (
    FakeServer,
    event,
    finish,
    measure,
    open_stream,
    requests,
    stream_tokens,
    text_chunk,
)

# What a busy machine may add to a delay; far from what the tests tell apart.
SLACK_S = 0.5


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("lengths", ["header", "ignore-eos"])
def test_outputs_have_the_lengths_of_the_trace(api: str, lengths: str) -> None:
    """Each answer is as long as its request says, by header or by max_tokens."""
    outputs = [1, 2, 7, 30]
    found = measure(FakeServer(), requests(outputs), api=api, lengths=lengths)
    assert outputs == found.records.requests.output_tokens.tolist()
    assert (4, 4, 0, 0) == (
        found.num_sent,
        found.num_answered,
        found.num_failed,
        found.num_wrong_lengths,
    )
    assert sum(outputs) == found.num_window_tokens
    assert [200] * 4 == found.status.tolist()


def test_latencies_are_those_of_the_server() -> None:
    """First token after 200 ms, then ten at 20 ms: TTFT, gaps and the end say so, and agree."""
    server = FakeServer(first_s=0.2, gap_s=0.02)
    found = measure(server, requests([11, 11, 1]), concurrency=3)
    ttft_s, tpot_s = ttft_values(found.records), tpot_values(found.records)
    assert (3, 2) == (len(ttft_s), len(tpot_s))
    assert np.all((ttft_s >= 0.2) & (ttft_s < 0.2 + SLACK_S))
    assert 20 == len(found.gap_s)
    taken_s = found.records.requests.finished_s - found.records.requests.arrival_s
    assert np.all((taken_s[:2] >= 0.4) & (taken_s[:2] < 0.4 + SLACK_S))
    # Ten gaps each; a late first token makes them shorter, so that only the sum is the server's.
    assert (taken_s[:2] - ttft_s[:2]) / 10 == pytest.approx(tpot_s)
    assert found.gap_s.sum() == pytest.approx(10 * tpot_s.sum())


def test_open_loop_does_not_wait_for_answers() -> None:
    """Ten requests, 20 ms apart and none too early, though none is answered before the last."""
    last = asyncio.Event()

    async def patient(
        server: FakeServer, request: web.Request, body: dict[str, object]
    ) -> web.StreamResponse:
        if len(server.arrived_s) == 10:
            last.set()
        await last.wait()
        return await stream_tokens(server, request, body)

    server = FakeServer(patient)
    workload = requests([1] * 10, arrival_s=np.arange(10) * 0.02)
    found = measure(server, workload, arrivals="trace")
    assert 10 == max(server.num_open_seen)
    assert found.due_s == pytest.approx(np.arange(10) * 0.02)
    assert 10 == len(found.late_s)
    assert np.all((found.late_s >= -0.002) & (found.late_s < SLACK_S))


def test_open_loop_follows_the_rate_scale() -> None:
    """At four times the rate the times of the trace are a quarter of what they were."""
    workload = requests([1] * 5, arrival_s=np.arange(5) * 0.2)
    server = FakeServer()

    async def run() -> Measurement:
        from balanceroute.loadgen.plan import timed

        async with server.running():
            config = LoadConfig(url=server.url, arrivals="trace", rate_scale=4.0)
            return await replay(timed(workload, config), config)

    found = finish(run())
    assert [0.0, 0.05, 0.1, 0.15, 0.2] == pytest.approx(found.due_s.tolist())
    assert np.all((found.late_s >= -0.002) & (found.late_s < SLACK_S))


def test_closed_loop_keeps_so_many_outstanding() -> None:
    """Never more than asked for, and as good as always that many: each end brings the next."""

    async def uneven(
        server: FakeServer, request: web.Request, body: dict[str, object]
    ) -> web.StreamResponse:
        await asyncio.sleep(0.02 * (1 + len(server.arrived_s) % 5))  # or all would end at once
        return await stream_tokens(server, request, body)

    server = FakeServer(uneven)
    found = measure(server, requests([1] * 40), concurrency=5)
    assert 5 == max(server.num_open_seen)
    assert np.mean(server.num_open_seen[5:]) > 3.5  # in batches of five it would be 3
    assert 40 == found.num_answered
    assert np.all(np.isnan(found.due_s))
    assert 0 == len(found.late_s)


def test_sending_ends_after_the_duration_and_figures_leave_the_warm_up_out() -> None:
    """0.1 s of warm-up and 0.3 s of sending, then the answers under way are waited for."""
    server = FakeServer(first_s=0.05)
    found = measure(server, requests([1] * 10_000), concurrency=2, warmup_s=0.1, duration_s=0.3)
    assert [0.1, 0.4] == pytest.approx(found.records.window_s)
    assert 4 <= found.num_sent <= 18
    assert found.num_sent == found.num_answered
    assert 0.4 <= found.records.wall_s < 0.6 + SLACK_S
    assert found.num_window_tokens < found.num_answered


def test_an_open_loop_ends_with_the_duration_too() -> None:
    """Requests due after it are not sent."""
    workload = requests([1] * 100, arrival_s=np.arange(100) * 0.05)
    found = measure(FakeServer(), workload, arrivals="trace", duration_s=0.22)
    assert 5 == found.num_sent
    assert pytest.approx(0.22) == found.records.window_s[1]
    assert np.isnan(found.records.requests.arrival_s[5:]).all()


def test_a_short_run_is_measured_to_its_last_answer() -> None:
    """All requests are out at once and none ends while others are sent: a note says so."""
    found = measure(FakeServer(first_s=0.05), requests([2, 2]), concurrency=64)
    assert found.records.window_s[1] >= 0.05
    assert "to its last answer" in found.notes[0]
    assert 2 == len(ttft_values(found.records))


def test_answers_in_one_piece_have_no_first_token() -> None:
    """Without streaming the end and the length are known, and nothing is made up."""

    async def whole(
        server: FakeServer, request: web.Request, body: dict[str, object]
    ) -> web.StreamResponse:
        usage = {"completion_tokens": int(request.headers["X-Emulated-Output-Tokens"])}
        return web.json_response({"choices": [{"text": "x"}], "usage": usage})

    server = FakeServer(whole)
    found = measure(server, requests([3, 4]), is_streamed=False)
    assert [3, 4] == found.records.requests.output_tokens.tolist()
    assert 7 == found.num_window_tokens
    assert np.isnan(found.records.requests.first_token_s).all()
    assert np.isfinite(found.records.requests.finished_s).all()
    assert "stream" not in server.bodies[0]


def test_usage_corrects_what_chunks_seem_to_hold() -> None:
    """Three chunks of ten tokens each count as thirty, spread over the pieces."""

    async def tens(
        server: FakeServer, request: web.Request, body: dict[str, object]
    ) -> web.StreamResponse:
        answer = await open_stream(request)
        for _ in range(3):
            await answer.write(text_chunk(" a" * 10))
            await asyncio.sleep(0.01)
        await answer.write(event({"choices": [], "usage": {"completion_tokens": 30}}))
        await answer.write(b"data: [DONE]\n\n")
        return answer

    found = measure(FakeServer(tens), requests([30]))
    assert (30, 0, 2) == (found.num_window_tokens, found.num_wrong_lengths, len(found.gap_s))


def test_a_wrong_length_is_noted() -> None:
    """A server that does not know the header gives other lengths; the note says what to do."""

    async def short(
        server: FakeServer, request: web.Request, body: dict[str, object]
    ) -> web.StreamResponse:
        answer = await open_stream(request)
        await answer.write(text_chunk(finish="length") + b"data: [DONE]\n\n")
        return answer

    found = measure(FakeServer(short), requests([30, 1]))
    assert (1, 0) == (found.num_wrong_lengths, found.num_failed)
    assert "1 of 2 answers were not as long" in found.notes[-1]
    assert "--lengths ignore-eos" in found.notes[-1]


@pytest.mark.parametrize("names", [["http://a@0", "http://a@1"], ["http://b", "http://a"]])
def test_ranks_are_numbered_as_the_router_does(names: list[str]) -> None:
    """The header names a worker; its place among /workers is the rank."""
    server = FakeServer()
    server.workers = names
    found = measure(server, requests([1] * 4), concurrency=1)
    assert [1, 0, 1, 0] == found.records.requests.rank.tolist()
    assert 2 == found.records.num_ranks


def test_the_model_is_the_first_unless_named() -> None:
    """/v1/models lists two."""
    first, second = FakeServer(), FakeServer()
    measure(first, requests([1]))
    measure(second, requests([1]), model="second")
    assert ("first", "second") == (first.bodies[0]["model"], second.bodies[0]["model"])


def test_the_key_goes_along() -> None:
    """As a bearer token, with every request."""
    server = FakeServer()
    measure(server, requests([1]), api_key="secret")
    assert "Bearer secret" == server.headers[0]["Authorization"]


def test_stop_ends_the_run_and_keeps_what_was_measured() -> None:
    """Requests under way are cut off, counted, and are not failures."""
    server = FakeServer(first_s=0.05, gap_s=0.02)
    workload = requests([2] * 4 + [5000] * 4)

    async def run() -> Measurement:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, stop.set)
        async with server.running():
            return await replay(workload, LoadConfig(url=server.url, concurrency=4), stop=stop)

    found = finish(run())
    assert found.is_interrupted
    assert (4, 0, 4) == (found.num_answered, found.num_failed, found.num_unfinished)
    assert 8 == found.num_sent
    assert found.records.wall_s < 1.0
    assert np.isfinite(found.records.requests.first_token_s).all()
    assert np.isnan(found.records.requests.finished_s[4:]).all()
    assert found.records.window_s[1] == found.records.wall_s


def test_progress_is_told_twice_a_second() -> None:
    """Snapshots grow; nothing is told of a run that is over sooner."""
    seen: list[Snapshot] = []
    server = FakeServer(first_s=0.1, gap_s=0.01)

    async def run() -> None:
        async with server.running():
            config = LoadConfig(url=server.url, concurrency=2)
            await replay(requests([20] * 8), config, on_progress=seen.append)

    finish(run())
    assert 2 <= len(seen) <= 4
    assert [8] * len(seen) == [snapshot.num_requests for snapshot in seen]
    answered = [snapshot.num_answered for snapshot in seen]
    assert answered == sorted(answered)
    assert seen[-1].tokens_per_s > 0
    assert 0.1 <= (seen[-1].ttft_s or 0.0) < 0.1 + SLACK_S


def test_a_generator_that_cannot_keep_up_says_so() -> None:
    """A loop that is blocked again and again sends late."""
    server = FakeServer()

    async def run() -> Measurement:
        async with server.running():
            workload = requests([1] * 20, arrival_s=np.arange(20) * 0.02)
            running = asyncio.create_task(
                replay(workload, LoadConfig(url=server.url, arrivals="trace"))
            )
            while not running.done():
                await asyncio.sleep(0.01)
                until_s = asyncio.get_running_loop().time() + 0.1
                while asyncio.get_running_loop().time() < until_s:
                    pass
            return await running

    assert any("could not keep up" in note for note in finish(run()).notes)


def test_the_same_seed_sends_the_same_bodies() -> None:
    """Another seed sends other prompts."""
    servers = [FakeServer(stream_tokens) for _ in range(3)]
    for server, seed in zip(servers, (1, 1, 2), strict=True):
        measure(server, requests([1] * 5), concurrency=1, seed=seed)
    first, same, other = (server.bodies for server in servers)
    assert first == same
    assert first != other


def test_an_open_loop_needs_times() -> None:
    """A workload without arrival times is refused before anything is sent."""
    with pytest.raises(ConfigError, match="has no arrival times"):
        measure(FakeServer(), requests([1]), arrivals="trace")
