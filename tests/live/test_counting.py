"""Prompt lengths: estimated, counted by a tokenizer of our own, or by an engine."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from balanceroute.errors import ConfigError
from balanceroute.live.counting import TokenizerCounting
from balanceroute.live.prompts import PromptCounter
from balanceroute.live.texts import prompt_texts, tokenize_body
from balanceroute.live.tokenizer import FileTokenizer
from balanceroute.live.wire import PATHS, read_request
from tests.live.fake_engine import Client, FakeEngine, routing, run, serving, until
from tests.live.test_trouble import hang

CHAT, RESPONSES, COMPLETIONS = "/v1/chat/completions", "/v1/responses", "/v1/completions"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a tokenizer of one token per word, with one before each completion's prompt."""
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "[UNK]": 1}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def message(content: object, role: str = "user") -> dict[str, object]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (COMPLETIONS, {"prompt": "a b c"}, 1 + 3),
        (COMPLETIONS, {"prompt": ["a b", "c"]}, 2 + 3),  # two prompts, each with its <s>
        (COMPLETIONS, {"prompt": [7, 8]}, 2),  # ids need no tokenizer
        (CHAT, {"messages": [message("a b c"), message(None, "assistant")]}, 3 + 2 * 4),
        (CHAT, {"messages": [message([{"type": "text", "text": "a b"}, {"type": "x"}])]}, 2 + 4),
        (RESPONSES, {"input": "a b c"}, 3 + 4),
        (RESPONSES, {"input": [message("a b")], "instructions": "c d e"}, 5 + 2 * 4),
    ],
)
def test_texts_are_counted(path: str, body: dict[str, object], expected: int, file: Path) -> None:
    """Each endpoint's own way; a message costs four tokens more until it is known better."""
    data = msgspec.json.encode(body)
    counting = TokenizerCounting(FileTokenizer(file))
    facts = asyncio.run(counting.count(path, data, read_request(path, data)))
    counting.stop()
    assert expected == PromptCounter().count(facts)


def test_what_tools_are_described_with_counts() -> None:
    """They stand in the prompt as JSON, about."""
    body = {"messages": [message("a")], "tools": [{"type": "function"}]}
    found = prompt_texts(CHAT, msgspec.json.encode(body))
    assert found is not None
    assert (("a", '[{"type":"function"}]'), 1) == (found.texts, found.num_messages)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"messages": 3}', b'{"messages": [], "x": \xff}', b'{"messages": [3]}']
)
def test_what_cannot_be_counted_is_left_to_the_estimate(body: bytes) -> None:
    """It is the engine that judges requests."""
    assert prompt_texts(CHAT, body) is None
    assert tokenize_body(COMPLETIONS, body) is None


def test_what_a_template_adds_is_learned(file: Path) -> None:
    """From usage; the texts themselves are exact already."""
    data = msgspec.json.encode({"messages": [message("a b c")] * 2})
    counting, counter = TokenizerCounting(FileTokenizer(file)), PromptCounter()
    facts = asyncio.run(counting.count(CHAT, data, read_request(CHAT, data)))
    counting.stop()
    for _ in range(1000):
        counter.learn(facts, 6 + 2 * 11)
    assert 6 + 2 * 11 == counter.count(facts)


def test_a_tokenizer_of_another_model_is_doubted(caplog: pytest.LogCaptureFixture) -> None:
    """Once, when it has been wrong for some time."""
    data = msgspec.json.encode({"prompt": "a " * 100})
    facts = replace(read_request(COMPLETIONS, data), text_tokens=100)
    counter = PromptCounter()
    for _ in range(100):
        counter.learn(facts, 150)
    assert 1 == caplog.text.count("is it the model's own?")
    assert "33 per cent off" in caplog.text


class SlowTokenizer:
    """Counts one token, once it is told to go on."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.go_on = threading.Event()

    def count(self, texts: Sequence[str], *, is_chat: bool) -> int:
        """Wait for the event loop; were it held up, that would be until the time is over."""
        self.threads.add(threading.current_thread().name)
        assert self.go_on.wait(timeout=5.0)
        return 1


def test_long_texts_do_not_hold_up_others() -> None:
    """They are counted in a thread while the loop goes on."""

    async def test() -> None:
        tokenizer = SlowTokenizer()
        counting = TokenizerCounting(tokenizer)
        data = msgspec.json.encode({"prompt": "word " * 1000})
        counted = asyncio.create_task(
            counting.count(COMPLETIONS, data, read_request(COMPLETIONS, data))
        )
        await until(lambda: len(tokenizer.threads) > 0)
        assert not counted.done()
        tokenizer.go_on.set()
        assert 1 == (await counted).text_tokens
        assert tokenizer.threads == {"tokenize_0"}
        counting.stop()

    run(test())


async def booked_tokens(client: Client, body: Mapping[str, object], path: str) -> int:
    """Return the prompt tokens that a request is booked with before its usage is known."""
    asked = asyncio.create_task(client.post({**body, "stream": True}, path))
    ranks = client.router.group.ledger.ranks
    await until(lambda: ranks["load_tokens"][0] > 0)
    load = int(ranks["load_tokens"][0])
    asked.cancel()
    await until(lambda: client.router.group.ledger.num_in_flight == 0)
    return load - 1  # the token that the engine has given


def test_a_router_with_a_tokenizer(file: Path) -> None:
    """The ledger has the counted length from the start."""

    async def test() -> None:
        async with serving(FakeEngine(hang)) as engine:
            async with routing(engine, tokenizer=str(file.parent)) as client:
                assert 1 + 50 == await booked_tokens(client, {"prompt": "a " * 50}, COMPLETIONS)
                long = {"messages": [message("a " * 1000)]}
                assert 4 + 1000 == await booked_tokens(client, long, CHAT)

    run(test())


def test_a_router_that_asks_the_engine() -> None:
    """It asks for the rendered chat; token ids need no question."""

    async def test() -> None:
        async with serving(FakeEngine(hang)) as engine:
            async with routing(engine, count_by="engine") as client:
                body = {"model": "fake", "messages": [message("a")]}
                assert 123 == await booked_tokens(client, body, CHAT)
                assert [body] == engine.questions
                assert 2 == await booked_tokens(client, {"prompt": [1, 2]}, COMPLETIONS)
                assert 123 == await booked_tokens(client, {"input": "a"}, RESPONSES)
                assert {"messages": [message("a")]} == engine.questions[1]
                assert 2 == len(engine.questions)

    run(test())


def test_an_engine_that_does_not_count_in_time(caplog: pytest.LogCaptureFixture) -> None:
    """The estimate serves, loudly once; others do not wait for it in vain."""

    async def test() -> None:
        async with serving(FakeEngine(hang)) as engine:
            settings: dict[str, Any] = {"count_by": "engine", "tokenize_timeout_secs": 0.1}
            async with routing(engine, **settings) as client:
                engine.tokenize_s = 30.0
                body: dict[str, object] = {"prompt": "a " * 50}
                estimate = PromptCounter().count(
                    read_request(COMPLETIONS, msgspec.json.encode(body))
                )
                for _ in range(3):
                    assert estimate == await booked_tokens(client, body, COMPLETIONS)
                assert 1 == len(engine.questions)
                assert 1 == caplog.text.count("/tokenize gives no count")
                assert b"balanceroute_count_fallbacks_total 3.0" in client.router.meters.text()
                engine.tokenize_s = 0.0
                await asyncio.sleep(1.1)
                assert 123 == await booked_tokens(client, body, COMPLETIONS)
                assert 1 == caplog.text.count("/tokenize answers again")

    run(test())


@pytest.mark.parametrize(
    ("settings", "text", "message"),
    [
        ({"count_by": "tokenizer"}, None, "--count-by tokenizer needs --tokenizer FILE"),
        ({"count_by": "engine", "tokenizer": "x"}, None, "--tokenizer is not used with --count-by"),
        ({}, "{}", r"is no tokenizer\.json"),
        ({"tokenizer": "/nowhere/tokenizer.json"}, None, "cannot read /nowhere/tokenizer.json"),
    ],
)
def test_settings_that_cannot_be(
    settings: dict[str, str], text: str | None, message: str, tmp_path: Path
) -> None:
    """They say what is missing or wrong."""
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
        settings = {"tokenizer": str(tmp_path)}

    async def test() -> None:
        async with routing(FakeEngine(), worker_urls=["http://127.0.0.1:9"], **settings):
            pass

    with pytest.raises(ConfigError, match=message):
        run(test())


PICTURE = "data:image/png;base64," + "iVBORw0KGgo" * 50_000
SOUND = {"data": "UklGRiQAAABXQVZF" * 30_000, "format": "wav"}


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (CHAT, {"type": "image_url", "image_url": {"url": PICTURE}}),
        (CHAT, {"type": "input_audio", "input_audio": SOUND}),
        (RESPONSES, {"type": "input_image", "image_url": PICTURE}),
        (RESPONSES, {"type": "input_file", "file_data": PICTURE}),
    ],
)
def test_pictures_count_for_nothing(path: str, part: dict[str, object]) -> None:
    """However long they are; their tokens teach nothing about text, as no file would tell them."""
    text = "word " * 100
    body = {PATHS[path]: [message([{"type": "text", "text": text}, part])]}
    facts = read_request(path, msgspec.json.encode(body))
    counter = PromptCounter()
    assert 500 <= facts.prompt_bytes < 700
    assert counter.count(facts) < 200
    for _ in range(100):
        counter.learn(facts, 2_000)
    assert 4.0 == counter.bytes_per_token


def test_text_is_no_picture() -> None:
    """Words without spaces count, be they of letters or escaped; so does a picture's address."""
    for text in ("a" * 1000, "\u4e2d" * 500):
        body = {"messages": [message(text)]}
        raw = json.dumps(body["messages"]).encode()
        facts = read_request(CHAT, b'{"messages": %b}' % raw)
        assert (len(raw), False) == (facts.prompt_bytes, facts.has_media)
        part = {"type": "image_url", "image_url": {"url": "http://a/b.png"}}
        both = [message([{"type": "text", "text": "\u4e2d" * 500}, part])]
        raw = json.dumps(both).encode()
        facts = read_request(CHAT, b'{"messages": %b}' % raw)
        assert (len(raw), True) == (facts.prompt_bytes, facts.has_media)


def test_a_prompt_has_at_least_one_token() -> None:
    """Whatever an engine's tokenizer says of it: nothing could be booked."""
    facts = read_request(COMPLETIONS, b'{"prompt": " "}')
    assert 1 == PromptCounter().count(replace(facts, counted_tokens=0))
