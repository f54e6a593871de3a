"""Ranks, errors, and everything that is not generation."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from balanceroute.emulator.group import EmulatedGroup
from balanceroute.emulator.serve import emulated_group
from balanceroute.errors import ConfigError
from balanceroute.types import StepRecords
from tests.emulator.serving import (
    Client,
    completion,
    get,
    post,
    serve_group,
    serve_groups,
    server_config,
    stream,
    wait_until,
)

RANK = "X_data_parallel_rank"


async def read_metrics(client: Client, url: str = "") -> dict[tuple[str, str], float]:
    """Return each sample by its name and its `engine` label."""
    async with client.get(f"{url}/metrics") as answer:
        assert 200 == answer.status
        text = (await answer.read()).decode()
    return {
        (sample.name, sample.labels.get("engine", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels and "finished_reason" not in sample.labels
    }


def test_a_header_or_a_field_pins_the_rank() -> None:
    """The header counts more than the field; a header that is no number counts nothing."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        await post(client, "/v1/completions", completion(2), **{RANK: "1"})
        await post(client, "/v1/completions", completion(3, data_parallel_rank=1))
        await post(client, "/v1/completions", completion(4, data_parallel_rank=0), **{RANK: "1"})
        await post(client, "/v1/completions", completion(5, data_parallel_rank=0), **{RANK: "x"})
        assert [5, 9] == [rank.total_generated_tokens for rank in group.engine.ranks]

    serve_group(test)


def test_a_port_per_rank() -> None:
    """Each port is one rank with its own metrics, and knows no rank but 0 in a header."""

    async def test(groups: Sequence[EmulatedGroup], client: Client) -> None:
        (group,) = groups
        first, second = group.urls
        await post(client, f"{second}/v1/completions", completion(3))
        await post(client, f"{second}/v1/completions", completion(4), **{RANK: "0"})
        assert [0, 7] == [rank.total_generated_tokens for rank in group.engine.ranks]
        status, error = await post(client, f"{second}/v1/completions", completion(3), **{RANK: "1"})
        assert 400 == status
        assert "data_parallel_rank 1 is out of range [0, 1)." == error["error"]["message"]
        shown = await read_metrics(client, second)
        assert {"1", ""} == {engine for _, engine in shown}
        assert 7.0 == shown["vllm:generation_tokens_total", "1"]
        assert {"0", ""} == {engine for _, engine in await read_metrics(client, first)}

    serve_groups(test, has_port_per_rank=True)


def test_groups_are_independent() -> None:
    """Groups of one process share nothing."""

    async def test(groups: Sequence[EmulatedGroup], client: Client) -> None:
        first, second = groups
        await post(client, f"{second.url}/v1/completions", completion(3))
        assert 0 == first.engine.num_steps_ended
        assert 3 == second.engine.num_steps_ended

    serve_groups(test, num_groups=2)


BAD_REQUESTS: list[tuple[str, Any, int, str, str | None]] = [
    ("/v1/completions", completion(n=2), 400, "n=1 only", "n"),
    ("/v1/completions", completion(model="other"), 404, "The model `other` does not", "model"),
    ("/v1/completions", completion(prompt=""), 400, "Either prompt or prompt_embeds", "prompt"),
    ("/v1/completions", completion(prompt=["a", "b"]), 400, "one prompt per request", "prompt"),
    ("/v1/completions", completion(prompt=[1, "b"]), 400, "a text or a list of", "prompt"),
    ("/v1/completions", completion(max_tokens=0), 400, "max_tokens must be at least 1", None),
    ("/v1/completions", completion(max_tokens="x"), 400, "Expected `int | null`", None),
    ("/v1/completions", completion(stream_options={}), 400, "Stream options can only", None),
    ("/v1/completions", completion(data_parallel_rank=7), 400, "7 is out of range [0, 2).", None),
    (
        "/v1/completions",
        completion(60),
        400,
        "You passed 2 input tokens and requested 60 output tokens. However, the model's context "
        "length is only 61 tokens, resulting in a maximum input length of 1 tokens. Please reduce "
        "the length of the input prompt.",
        "input_tokens",
    ),
    ("/v1/chat/completions", {"messages": []}, 400, "messages must not be empty", "messages"),
    ("/v1/chat/completions", {}, 400, "missing required field `messages`", None),
    ("/v1/responses", {"input": []}, 400, "input must not be empty", "input"),
    ("/v1/embeddings", {"input": []}, 400, "input must not be empty", "input"),
    ("/nowhere", {}, 404, "Not Found", None),
    ("/v1/models", {}, 405, "Method Not Allowed", None),
    ("/emulator/faults", {"no_such": 1}, 400, "unknown field `no_such`", None),
    ("/emulator/faults", {"dead_ranks": [2]}, 400, "rank 2 not in [0, 2)", None),
]


@pytest.mark.parametrize(("path", "body", "status", "message", "param"), BAD_REQUESTS)
def test_errors_have_vllms_form(
    path: str, body: Any, status: int, message: str, param: str | None
) -> None:
    """Message, type, parameter and the status as a number."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        got, answer = await post(client, path, body)
        assert status == got == answer["error"]["code"]
        assert message in answer["error"]["message"]
        assert {"message", "type", "param", "code"} == set(answer["error"])
        if param is not None:
            assert param == answer["error"]["param"]
        assert 0 == group.num_open

    serve_group(test, max_model_len=61)


def test_a_body_that_is_no_json() -> None:
    """It is 400, not 500."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        for data in (b"", b'{"prompt": "a', b"\xff\xfe", b"[1]"):
            async with client.post("/v1/completions", data=data) as answer:
                assert 400 == answer.status
                assert 400 == msgspec.json.decode(await answer.read())["error"]["code"]
        headers = {"X-Emulated-Output-Tokens": "many"}
        async with client.post("/v1/completions", json=completion(), headers=headers) as answer:
            assert 400 == answer.status

    serve_group(test)


def test_questions_of_routers() -> None:
    """Models, version, health and ping."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        models = await get(client, "/v1/models")
        assert ["tiny", 512] == [models["data"][0][key] for key in ("id", "max_model_len")]
        assert (await get(client, "/version"))["version"].startswith("0.32.0+")
        for method, path in (("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")):
            async with client.request(method, path) as answer:
                assert 200 == answer.status

    serve_group(test, model="tiny", max_model_len=512)


def test_tokenize_agrees_with_usage() -> None:
    """A prompt has as many tokens as `/tokenize` says, as text and as its ids."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        for text in ("a", "four", "fünf Wörter, und mehr", "🙂🙂"):
            _, counted = await post(client, "/tokenize", {"prompt": text})
            assert counted["count"] == len(counted["tokens"]) == -(-len(text.encode()) // 4)
            for prompt in (text, counted["tokens"], [text], [counted["tokens"]]):
                _, answer = await post(client, "/v1/completions", completion(1, prompt=prompt))
                assert counted["count"] == answer["usage"]["prompt_tokens"]
        chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        _, counted = await post(client, "/tokenize", chat)
        _, answer = await post(client, "/v1/chat/completions", chat)
        assert 6 == counted["count"] == answer["usage"]["prompt_tokens"]

    serve_group(test)


def test_embeddings() -> None:
    """Equal inputs have equal vectors, as numbers or base64."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        _, answer = await post(client, "/v1/embeddings", {"input": ["one", "two", "one"]})
        vectors = [row["embedding"] for row in answer["data"]]
        assert vectors[0] == vectors[2] != vectors[1]
        assert {"prompt_tokens": 3, "total_tokens": 3} == answer["usage"]
        body = {"input": "one", "encoding_format": "base64"}
        _, answer = await post(client, "/v1/embeddings", body)
        packed = base64.b64decode(answer["data"][0]["embedding"])
        assert vectors[0] == pytest.approx(struct.unpack(f"<{len(vectors[0])}f", packed))

    serve_group(test)


def test_metrics() -> None:
    """Names and labels are vLLM's, and the figures say what has happened."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        await stream(client, "/v1/completions", completion(5), **{RANK: "1"})
        calls = [hang_on(client, i) for i in range(3)]
        tasks = [asyncio.create_task(call) for call in calls]
        busy = group.engine.ranks[0]
        await wait_until(lambda: (busy.num_running, busy.num_waiting) == (2, 1))
        shown = await read_metrics(client)
        expected = {
            ("vllm:num_requests_running", "0"): 2.0,
            ("vllm:num_requests_running", "1"): 0.0,
            ("vllm:num_requests_waiting", "0"): 1.0,
            ("vllm:num_preemptions_total", "1"): 0.0,
            ("vllm:cache_config_info", "1"): 1.0,
            ("vllm:prompt_tokens_total", "1"): 2.0,
            ("vllm:generation_tokens_total", "1"): 5.0,
            ("vllm:time_to_first_token_seconds_count", "1"): 1.0,
            ("vllm:inter_token_latency_seconds_count", "1"): 4.0,
            ("vllm:e2e_request_latency_seconds_count", "1"): 1.0,
            ("emulator_speedup_ratio", ""): 1.0,
        }
        assert expected == {key: shown[key] for key in expected}
        assert 0 < shown["vllm:kv_cache_usage_perc", "0"] <= 1
        assert 0 < shown["vllm:inter_token_latency_seconds_sum", "1"]
        assert ("emulator_lag_seconds", "") in shown
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with client.get("/metrics") as answer:
            text = (await answer.read()).decode()
        assert 'block_size="16",engine="0",num_gpu_blocks="400"' in text
        assert 'finished_reason="length",model_name="emulated"} 1.0' in text

    async def hang_on(client: Client, i: int) -> None:
        headers = {"X-data-parallel-rank": "0"}
        async with client.post("/v1/completions", json=completion(900), headers=headers) as answer:
            await answer.read()

    serve_group(test, num_slots=2, num_blocks=400)


def test_state_and_records() -> None:
    """The state's sums are those of the records, which come by columns, from any step on."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        await post(client, "/v1/completions", completion(6), **{RANK: "1"})
        state = await get(client, "/emulator/state")
        assert [0, 6] == [rank["generated_tokens"] for rank in state["ranks"]]
        assert (2, 4, 6) == (state["num_ranks"], state["num_slots"], state["totals"]["num_steps"])
        answer = await get(client, "/emulator/records")
        assert (0, 6, 2) == (answer["first_step"], answer["num_steps"], answer["num_ranks"])
        records = StepRecords(**{k: np.array(v) for k, v in answer["columns"].items()})
        assert [2, 3, 4, 5, 6, 7] == records.max_load_tokens.tolist()
        assert records.duration_s.sum() == pytest.approx(state["totals"]["step_s"])
        assert records.mean_work_s.sum() == pytest.approx(state["totals"]["mean_work_s"])
        async with client.get("/emulator/records?since=4&limit=1&format=msgpack") as packed:
            later = msgspec.msgpack.decode(await packed.read())
        assert (4, [6]) == (later["first_step"], later["columns"]["max_load_tokens"])
        for wrong in ("since=x", "format=csv", "limit=-1"):
            async with client.get(f"/emulator/records?{wrong}") as refused:
                assert 400 == refused.status

    serve_group(test, s_per_token=1e-5)


def test_a_port_that_is_taken() -> None:
    """Two servers on one port: the second says so."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        port = int(group.url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with emulated_group(replace(server_config(), port=port)):
                raise AssertionError("it listens")

    serve_group(test)
