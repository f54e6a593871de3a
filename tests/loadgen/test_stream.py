"""The stream's meter, wherever the network cuts the stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.loadgen.stream import StreamError, StreamMeter
from tests.loadgen.servers import event, text_chunk

END = b"data: [DONE]\n\n"
STREAMS = {
    "completion": (text_chunk() * 4 + text_chunk("", "stop") + END, 5),
    "with usage": (text_chunk() * 2 + event({"usage": {"completion_tokens": 9}}) + END, 9),
    "role first, as OpenAI ends": (
        event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        + event({"choices": [{"delta": {"content": "a"}}]})
        + event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        + END,
        1,
    ),
    "end token without text, as vLLM": (
        event({"choices": [{"delta": {"content": "a"}}]})
        + event({"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]})
        + END,
        2,
    ),
    "reasoning": (event({"choices": [{"delta": {"reasoning_content": "a"}}]}) + END, 1),
    "token ids": (event({"choices": [{"text": "abc", "token_ids": [1, 2, 3]}]}) + END, 3),
    "usage as it goes": (
        event({"choices": [{"text": "abc"}], "usage": {"completion_tokens": 3}})
        + event({"choices": [{"text": "ab"}], "usage": {"completion_tokens": 5}})
        + END,
        5,
    ),
    "comments and carriage returns": (
        b": alive\r\n\r\ndata:" + text_chunk()[5:].replace(b"\n", b"\r\n") + b"event: x\r\n" + END,
        1,
    ),
}


@pytest.mark.parametrize("name", STREAMS)
@given(cuts=st.lists(st.integers(0, 600), max_size=6))
def test_tokens_do_not_depend_on_where_the_stream_is_cut(name: str, cuts: list[int]) -> None:
    """In one piece or many: the same count, and the end is seen."""
    data, num_tokens = STREAMS[name]
    meter = StreamMeter()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for i in range(len(edges) - 1):
        if edges[i] < edges[i + 1]:
            meter.feed(data[edges[i] : edges[i + 1]])
    assert (num_tokens, True) == (meter.num_tokens, meter.is_done)


def test_a_finish_reason_makes_an_answer_whole() -> None:
    """Some servers send no end marker."""
    meter = StreamMeter()
    meter.feed(text_chunk())
    assert not meter.is_whole
    meter.feed(text_chunk(finish="length"))
    assert (True, False) == (meter.is_whole, meter.is_done)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"data: nonsense\n\n", "bad JSON"),
        (b"data: \xff\n\n", "bad JSON"),
        (b'data: {"choices": [{"text": 3}]}\n\n', "bad JSON"),
        (b'data: {"error": "gone"}\n\n', "error in the answer"),
    ],
)
def test_what_is_no_chunk_is_an_error(data: bytes, cause: str) -> None:
    """With its cause; what came before is still counted."""
    meter = StreamMeter()
    with pytest.raises(StreamError) as caught:
        meter.feed(text_chunk() + data)
    assert (cause, 1) == (caught.value.cause, meter.num_tokens)
