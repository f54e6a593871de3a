"""What completions, chats and responses answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from balanceroute.emulator.group import EmulatedGroup
from balanceroute.emulator.tokens import END_ID, OUTPUT_ID
from tests.emulator.serving import (
    Client,
    completion,
    parse_events,
    post,
    serve_group,
    stream,
    wait_until,
)

USAGE = {"prompt_tokens": 2, "total_tokens": 6, "completion_tokens": 4}
USAGE_WITH_DETAILS = USAGE | {"prompt_tokens_details": None}


def test_completion() -> None:
    """A whole completion has the text, why it ended, and what was used."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        status, answer = await post(client, "/v1/completions", completion(4))
        assert 200 == status
        assert "text_completion" == answer["object"]
        assert answer["id"].startswith("cmpl-")
        assert " a a a a" == answer["choices"][0]["text"]
        assert "length" == answer["choices"][0]["finish_reason"]
        assert USAGE_WITH_DETAILS == answer["usage"]

    serve_group(test)


def test_completion_stream() -> None:
    """A chunk for each token, the usage if it is asked for, and the end."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        body = completion(4, stream_options={"include_usage": True})
        *chunks, last = await stream(client, "/v1/completions", body)
        assert [" a"] * 4 == [chunk["choices"][0]["text"] for chunk in chunks]
        assert [None, None, None, "length"] == [c["choices"][0]["finish_reason"] for c in chunks]
        assert [None] * 4 == [chunk["usage"] for chunk in chunks]
        assert ([], USAGE_WITH_DETAILS) == (last["choices"], last["usage"])
        assert 1 == len({chunk["id"] for chunk in [*chunks, last]})
        plain = await stream(client, "/v1/completions", completion(4))
        assert 4 == len(plain)

    serve_group(test)


def test_usage_in_every_chunk() -> None:
    """`continuous_usage_stats` counts in each chunk."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}
        chunks = await stream(client, "/v1/completions", completion(5, stream_options=options))
        assert [1, 2, 3, 4, 5, 5] == [chunk["usage"]["completion_tokens"] for chunk in chunks]
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        body |= {"ignore_eos": True, "stream_options": options}
        chunks = await stream(client, "/v1/chat/completions", body)
        assert [0, 1, 2, 2] == [chunk["usage"]["completion_tokens"] for chunk in chunks]

    serve_group(test)


def test_token_ids() -> None:
    """`return_token_ids`: the prompt's with the first chunk, the output's with each."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        body = completion(9, prompt=[5, 6, 7], ignore_eos=False, return_token_ids=True)
        length = {"X_Emulated_Output_Tokens": "2"}
        chunks = await stream(client, "/v1/completions", body, **length)
        choices = [chunk["choices"][0] for chunk in chunks]
        assert [[5, 6, 7], None] == [choice.get("prompt_token_ids") for choice in choices]
        assert [[OUTPUT_ID], [END_ID]] == [choice["token_ids"] for choice in choices]
        assert [" a", ""] == [choice["text"] for choice in choices]
        _, answer = await post(client, "/v1/completions", body, **length)
        assert [OUTPUT_ID, END_ID] == answer["choices"][0]["token_ids"]
        assert [5, 6, 7] == answer["choices"][0]["prompt_token_ids"]

    serve_group(test)


def test_stream_interval() -> None:
    """The first token comes at once, then so many to a chunk, and the rest with the last."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        chunks = await stream(client, "/v1/completions", completion(9))
        assert [1, 3, 3, 2] == [chunk["choices"][0]["text"].count("a") for chunk in chunks]
        assert "length" == chunks[-1]["choices"][0]["finish_reason"]

    serve_group(test, stream_interval=3)


def test_chat() -> None:
    """A chat has a message, its stream opens with the role."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        parts = [{"type": "text", "text": "hell"}, {"type": "text", "text": "o"}]
        body: dict[str, Any] = {
            "messages": [
                {"role": "system", "content": "hello"},
                {"role": "user", "content": parts, "name": "x"},
            ],
            "max_completion_tokens": 3,
            "min_tokens": 3,
        }
        status, answer = await post(client, "/v1/chat/completions", body)
        assert 200 == status
        assert {"role": "assistant", "content": " a a a"} == answer["choices"][0]["message"]
        assert 12 == answer["usage"]["prompt_tokens"]  # two messages of 4 + 2
        chunks = await stream(client, "/v1/chat/completions", body)
        assert [
            {"role": "assistant", "content": ""},
            {"content": " a"},
            {"content": " a"},
            {"content": " a"},
        ] == [chunk["choices"][0]["delta"] for chunk in chunks]
        assert ["chat.completion.chunk"] * 4 == [chunk["object"] for chunk in chunks]
        assert "length" == chunks[-1]["choices"][0]["finish_reason"]

    serve_group(test)


def test_responses() -> None:
    """A response is one message; its stream tells it in numbered events that add up."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        body = {"input": "hello", "max_output_tokens": 9}
        length = {"X_Emulated_Output_Tokens": "3"}
        status, answer = await post(client, "/v1/responses", body, **length)
        assert 200 == status
        assert ("response", "completed") == (answer["object"], answer["status"])
        assert " a a" == answer["output"][0]["content"][0]["text"]
        counted = (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"])
        assert (6, 3) == counted
        _, answer = await post(client, "/v1/responses", {"input": [{"content": "hello"}]})
        assert 6 == answer["usage"]["input_tokens"]
        headers = {"X-Emulated-Output-Tokens": "3"}
        async with client.post(
            "/v1/responses", json=body | {"stream": True}, headers=headers
        ) as streamed:
            text = (await streamed.read()).decode()
        data = "\n\n".join(event.partition("\n")[2] for event in text.split("\n\n"))
        events = parse_events(data + "\n\ndata: [DONE]")
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
        assert (
            " a a" == "".join(deltas) == events[-1]["response"]["output"][0]["content"][0]["text"]
        )
        assert "response.completed" == events[-1]["type"]

    serve_group(test)


@pytest.mark.parametrize(
    ("more", "header", "length", "reason"),
    [
        ({"max_tokens": 5, "ignore_eos": True}, None, 5, "length"),
        ({"max_tokens": 5, "min_tokens": 5}, None, 5, "length"),
        ({"max_tokens": 50}, "7", 7, "stop"),
        ({"max_tokens": 5}, "7", 5, "length"),
        ({"max_tokens": 7, "ignore_eos": True}, "7", 7, "length"),
        ({}, "40", 40, "stop"),  # the default of 16 is none of the client's
        ({"ignore_eos": True}, None, 16, "length"),
        ({"max_tokens": 40, "min_tokens": 39}, None, 39, "stop"),  # a mean of 1 draws 1
        ({"max_tokens": 40}, None, 1, "stop"),
    ],
)
def test_output_length(more: dict[str, Any], header: str | None, length: int, reason: str) -> None:
    """The header, the request or chance say how long an output is, and limits cut it."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        headers = {} if header is None else {"X_Emulated_Output_Tokens": header}
        _, answer = await post(client, "/v1/completions", {"prompt": "x"} | more, **headers)
        assert length == answer["usage"]["completion_tokens"]
        assert reason == answer["choices"][0]["finish_reason"]

    serve_group(test, mean_output_tokens=1.0, constant_s=0.0005)


def test_the_same_seed_draws_the_same_lengths() -> None:
    """Lengths depend on the seed and the number of the request, and have the mean they should."""

    async def lengths(group: EmulatedGroup, client: Client) -> list[int]:
        body = {"messages": [{"role": "user", "content": "hello"}]}
        drawn = []
        for _ in range(20):
            _, answer = await post(client, "/v1/chat/completions", body)
            drawn.append(answer["usage"]["completion_tokens"])
        return drawn

    def run(seed: int) -> list[int]:
        return serve_group(lengths, seed=seed, mean_output_tokens=5.0, constant_s=0.0002)

    first = run(1)
    assert first == run(1)
    assert first != run(2)
    assert 2 < sum(first) / len(first) < 10


def test_a_client_that_goes_away_frees_its_slot() -> None:
    """The request is aborted as soon as its connection is closed, streaming or not."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        for is_stream in (True, False):
            body = completion(10_000, stream=is_stream)
            call = asyncio.create_task(hang_on(client, body))
            await wait_until(lambda: group.engine.ranks[0].num_running == 1)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await wait_until(lambda: group.num_open == 0)
            assert [0, 0] == [rank.num_running for rank in group.engine.ranks]
            assert [0, 0] == [rank.used_blocks for rank in group.engine.ranks]
        assert 2 == sum(meters.num_ended["abort"] for meters in group.meters)

    async def hang_on(client: Client, body: object) -> None:
        async with client.post("/v1/completions", json=body, headers=pinned) as answer:
            await answer.read()

    pinned = {"X-data-parallel-rank": "0"}
    serve_group(test)


def test_http_1_0() -> None:
    """A client of HTTP/1.0 gets its stream without chunked encoding, ended by the connection."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        host, _, port = group.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = b'{"prompt":"x","max_tokens":2,"ignore_eos":true,"stream":true}'
        head = b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert 2 == len(parse_events(answer.partition(b"\r\n\r\n")[2].decode()))

    serve_group(test)


def test_requests_in_a_row_on_one_connection() -> None:
    """A stream ends cleanly, so that its connection serves again."""

    async def test(group: EmulatedGroup, client: Client) -> None:
        for _ in range(3):
            assert 2 == len(await stream(client, "/v1/completions", completion(2)))
            assert 200 == (await post(client, "/v1/completions", completion(1)))[0]
        assert client.connector is not None
        assert isinstance(group.num_open, int)

    serve_group(test)
