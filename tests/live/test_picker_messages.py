"""What a picker reads and writes by hand, held against Envoy's own messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.live.picker.messages import (
    Part,
    read_asked,
    read_body,
    read_headers,
    read_metadata,
    read_modes,
)
from balanceroute.live.picker.replies import MAX_PIECE, go_on_with, pieces
from balanceroute.live.rpc.protobuf import BadMessage

pb = pytest.importorskip(
    "envoy.service.ext_proc.v3.external_processor_pb2", reason="xds-protos is not installed"
)

texts = st.text(st.characters(max_codepoint=255, exclude_characters="\0"), max_size=300)
names = st.text("abcdefghijklmnopqrstuvwxyz-:", min_size=1, max_size=200)


@given(st.lists(st.tuples(names, texts, st.booleans())), st.booleans())
def test_headers_as_envoy_writes_them(named: list[tuple[str, str, bool]], is_end: bool) -> None:
    """Short and long ones, as text or as they came; of several of one name the last."""
    theirs = pb.ProcessingRequest(request_headers={"end_of_stream": is_end})
    expected = {}
    for name, value, is_raw in named:
        entry = theirs.request_headers.headers.headers.add(key=name)
        text = value if is_raw else value.encode("ascii", "ignore").decode()
        if is_raw:
            entry.raw_value = text.encode("latin-1")
        else:
            entry.value = text
        expected[name] = text
    asked = read_asked(theirs.SerializeToString())
    assert Part.REQUEST_HEADERS == asked.part
    assert (expected, is_end) == read_headers(asked.content)


@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_a_piece_of_a_body(body: bytes, is_end: bool, is_observed: bool) -> None:
    """It comes with metadata, which are found among others."""
    theirs = pb.ProcessingRequest(
        response_body={"body": body, "end_of_stream": is_end}, observability_mode=is_observed
    )
    theirs.metadata_context.filter_metadata["other"]["key"] = {"inner": [1.5, True]}
    theirs.metadata_context.filter_metadata["envoy.lb"]["key"] = "value"
    theirs.protocol_config.request_body_mode = 4
    theirs.protocol_config.response_body_mode = 1
    asked = read_asked(theirs.SerializeToString())
    assert (Part.RESPONSE_BODY, is_observed) == (asked.part, asked.is_observed)
    assert (body, is_end) == read_body(asked.content)
    assert "value" == read_metadata(asked.metadata, "envoy.lb", "key")
    assert {"inner": [1.5, True]} == read_metadata(asked.metadata, "other", "key")
    assert read_metadata(asked.metadata, "envoy.lb", "none") is None
    assert (4, 1) == read_modes(asked.modes)


@given(st.binary(max_size=60))
def test_bytes_that_may_be_no_message(data: bytes) -> None:
    """They can be read, or `BadMessage` says that they cannot; nothing else happens."""
    for read in (read_asked, read_headers, read_body):
        try:
            read(data)
        except BadMessage:
            continue


@pytest.mark.parametrize("data", [b"\x0a\x05\x0a\x01a", b"\x0a\x04\x0a\x01a\x1a", b"\x0a\x81"])
def test_headers_that_are_cut_off(data: bytes) -> None:
    """A header that is not there in full is an error, not another header."""
    with pytest.raises(BadMessage):
        read_headers(b"\x0a" + bytes([len(data)]) + data)


@pytest.mark.parametrize("size", [0, 1, 127, 128, MAX_PIECE, MAX_PIECE + 1, 3 * MAX_PIECE])
@pytest.mark.parametrize("is_end", [False, True])
def test_a_body_that_goes_back(size: int, is_end: bool) -> None:
    """Envoy finds all of it, in pieces that it takes, and the end at the end."""
    body = b"x" * size
    told = [
        pb.ProcessingResponse.FromString(each)
        for each in pieces(Part.RESPONSE_BODY, body, is_end=is_end)
    ]
    found = [its.response_body.response.body_mutation.streamed_response for its in told]
    assert body == b"".join(each.body for each in found)
    assert [False] * (len(found) - 1) + [is_end] == [each.end_of_stream for each in found]
    assert max(len(each.body) for each in found) <= MAX_PIECE


def test_headers_that_are_set_and_removed() -> None:
    """Envoy overwrites the ones and takes the others out."""
    told = go_on_with(Part.REQUEST_HEADERS, (("a", "1"), ("b", "2")), ("c",), b"")
    mutation = pb.ProcessingResponse.FromString(told).request_headers.response.header_mutation
    sets = {each.header.key: each.header.raw_value for each in mutation.set_headers}
    assert {"a": b"1", "b": b"2"} == sets
    assert all(2 == each.append_action for each in mutation.set_headers)
    assert ["c"] == list(mutation.remove_headers)
