"""What Envoy is told in external processing, as bytes.

Answers are few and small, so each is put together by one function, and what comes again is kept.
"""

from __future__ import annotations

from functools import lru_cache

from balanceroute.live.picker.messages import Part
from balanceroute.live.rpc.protobuf import DELIMITED, delimited, varint

OVERWRITE = b"\x18\x02"  # append_action of a header: OVERWRITE_IF_EXISTS_OR_ADD
END = b"\x10\x01"  # end_of_stream of a piece
MAX_PIECE = 62_000  # bytes of a body, as other pickers send it; Envoy takes 64 KiB
IN_PIECE = (3, 3, 1)  # streamed_response of a body_mutation of a response, from within


def header_mutation(sets: tuple[tuple[str, str], ...], removes: tuple[str, ...] = ()) -> bytes:
    """Return a ``HeaderMutation``."""
    out = []
    for name, value in sets:
        header = delimited(1, name.encode("latin-1")) + delimited(3, value.encode("latin-1"))
        out.append(delimited(1, delimited(1, header) + OVERWRITE))
    out += [delimited(2, name.encode("latin-1")) for name in removes]
    return b"".join(out)


def go_on(part: Part, *, mutation: bytes = b"", body: bytes | None = None) -> bytes:
    r"""Return an answer by which Envoy goes on, with other headers or another body if given.

    Examples
    --------
    >>> go_on(Part.RESPONSE_BODY)
    b'"\x00'
    """
    common = delimited(2, mutation) if mutation else b""
    if body is not None:
        common += delimited(3, delimited(1, body))
    return delimited(part, delimited(1, common) if common else b"")


@lru_cache(maxsize=4096)
def go_on_with(
    part: Part, sets: tuple[tuple[str, str], ...], removes: tuple[str, ...], metadata: bytes
) -> bytes:
    """Return the same with other headers, and metadata if any; the same few come again."""
    return go_on(part, mutation=header_mutation(sets, removes)) + metadata


def pieces(part: Part, body: bytes, *, is_end: bool) -> list[bytes]:
    """Return answers with the next of a body, where Envoy leaves it to the picker."""
    told = []
    for at in range(0, max(1, len(body)), MAX_PIECE):
        is_last = at + MAX_PIECE >= len(body)
        its_part = body if at == 0 and is_last else body[at : at + MAX_PIECE]
        before, behind = _around_piece(part, len(its_part), is_end and is_last)
        told.append(before + its_part + behind)
    return told


@lru_cache(maxsize=4096)
def _around_piece(part: Part, size: int, is_end: bool) -> tuple[bytes, bytes]:
    """Return what stands before and behind so many bytes of a body."""
    behind = END if is_end else b""
    before = b"\x0a" + varint(size) if size > 0 else b""
    length = len(before) + size + len(behind)
    for number in (*IN_PIECE, part):
        head = varint(number << 3 | DELIMITED) + varint(length)
        before = head + before
        length += len(head)
    return before, behind


@lru_cache(maxsize=4096)
def destination(endpoints: str, namespace: str, key: str) -> bytes:
    """Return what tells Envoy's load balancer of endpoints, to be added to an answer."""
    inner = delimited(1, delimited(1, key.encode()) + _nested(3, endpoints.encode()))
    outer = delimited(1, delimited(1, namespace.encode()) + _nested(5, inner))
    return delimited(8, outer)


def _nested(number: int, data: bytes) -> bytes:
    """Return a ``google.protobuf.Value`` as field 2 of a map's entry."""
    return delimited(2, delimited(number, data))


def immediate(status: int, mutation: bytes, body: bytes, details: str) -> bytes:
    """Return an answer that Envoy gives the client at once."""
    code = b"\x08" + varint(status)
    fields = (
        delimited(1, code),
        delimited(2, mutation),
        delimited(3, body),
        delimited(5, details.encode()),
    )
    return delimited(7, b"".join(fields))
