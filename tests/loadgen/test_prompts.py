"""Prompts and bodies: lengths, equality, and what gives the output's length away."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from balanceroute.loadgen.bodies import LENGTH_HEADER, TEMPLATE_TOKENS, RequestMaker
from balanceroute.loadgen.config import LoadConfig
from balanceroute.loadgen.prompts import FIRST_ID, LAST_ID, PromptBook
from tests.loadgen.servers import requests

LENGTHS = [1, 2, 16, 1000, 3]


def bodies(workload: Any, **settings: Any) -> list[dict[str, Any]]:
    """Return the bodies of all requests."""
    config = LoadConfig(url="http://h:1", **settings)
    maker = RequestMaker(workload, config, model="m")
    return [json.loads(maker.body(row)) for row in range(workload.num_requests)]


def test_ids_are_as_many_as_the_trace_says() -> None:
    """And every vocabulary has them."""
    book = PromptBook(requests([1] * 5, prompts=LENGTHS), "ids", seed=0)
    prompts = [json.loads(book.prompt(row)) for row in range(5)]
    assert LENGTHS == [len(prompt) for prompt in prompts]
    assert all(FIRST_ID <= token <= LAST_ID for prompt in prompts for token in prompt)


def test_text_has_four_bytes_a_token() -> None:
    """Words of three letters with a space between: the last has none."""
    book = PromptBook(requests([1] * 5, prompts=LENGTHS), "text", seed=0)
    prompts = [json.loads(book.prompt(row)) for row in range(5)]
    assert LENGTHS == [-(-len(prompt) // 4) for prompt in prompts]
    assert LENGTHS == [len(prompt.split()) for prompt in prompts]


@pytest.mark.parametrize("kind", ["ids", "text"])
def test_equal_hashes_give_equal_prompts_and_others_share_no_prefix(kind: Any) -> None:
    """Hash 0 is unknown, not equal."""
    hashes = np.array([5, 0, 5, 0, 6])
    workload = requests([1] * 5, prompts=[64] * 5, prompt_hashes=hashes)
    book = PromptBook(workload, kind, seed=0)
    prompts = [book.prompt(row) for row in range(5)]
    assert prompts[0] == prompts[2]
    assert 4 == len({prompt[:64] for prompt in prompts})  # within the first block of 16 tokens


def test_a_chat_leaves_room_for_its_template() -> None:
    """The message is shorter by what a template adds, but never empty."""
    workload = requests([1] * 5, prompts=LENGTHS)
    texts = [body["messages"][0]["content"] for body in bodies(workload, api="chat")]
    assert [max(1, n - TEMPLATE_TOKENS) for n in LENGTHS] == [len(text.split()) for text in texts]


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_the_header_mode_keeps_the_length_out_of_the_body(api: str) -> None:
    """`max_tokens` is what the trace says, where it says something, and nothing else."""
    workload = requests([70, 80], max_tokens=np.array([0, 512], np.int32))
    first, second = bodies(workload, api=api)
    assert "max_tokens" not in first
    assert 512 == second["max_tokens"]
    assert not {"min_tokens", "ignore_eos"} & (first.keys() | second.keys())
    maker = RequestMaker(workload, LoadConfig(url="http://h:1"), model="m")
    assert ["70", "80"] == [maker.headers(row)[LENGTH_HEADER] for row in (0, 1)]


def test_ignore_eos_states_the_length_three_times_over() -> None:
    """For real engines; the header stays away."""
    (body,) = bodies(requests([70]), lengths="ignore-eos")
    assert (70, 70, True) == (body["max_tokens"], body["min_tokens"], body["ignore_eos"])
    config = LoadConfig(url="http://h:1", lengths="ignore-eos")
    assert LENGTH_HEADER not in RequestMaker(requests([70]), config, model="m").headers(0)


def test_streams_ask_for_usage() -> None:
    """And a model's name is quoted as JSON wants it."""
    workload = requests([1])
    config = LoadConfig(url="http://h:1")
    body = json.loads(RequestMaker(workload, config, model='a"b').body(0))
    assert ('a"b', True) == (body["model"], body["stream"])
    assert {"include_usage": True} == body["stream_options"]
    (plain,) = bodies(workload, is_streamed=False)
    assert not {"stream", "stream_options"} & plain.keys()
