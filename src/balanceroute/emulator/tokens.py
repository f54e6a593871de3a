"""Tokens without a tokenizer: one for every four bytes of text, and vectors out of a hash."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4  # role and separators that a chat template adds
FIRST_TEXT_ID = 256  # ids below are special
NUM_TEXT_IDS = 50_000
TEMPLATE_ID = 3

OUTPUT_TEXT, OUTPUT_ID = " a", 264
END_ID = 2  # has no text
EMBEDDING_SIZE = 8


def count_text_tokens(text: str) -> int:
    """Return the tokens of a text: its UTF-8 bytes over 4, rounded up.

    Examples
    --------
    >>> count_text_tokens(""), count_text_tokens("four"), count_text_tokens("Fünf")
    (0, 1, 2)
    """
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def text_token_ids(text: str) -> list[int]:
    """Return an id for every four bytes of a text; equal bytes have equal ids.

    Examples
    --------
    >>> text_token_ids("aaaaaaaab") == [*text_token_ids("aaaa") * 2, *text_token_ids("b")]
    True
    """
    data = text.encode("utf-8", "surrogatepass")
    return [
        FIRST_TEXT_ID + int.from_bytes(data[i : i + BYTES_PER_TOKEN], "big") % NUM_TEXT_IDS
        for i in range(0, len(data), BYTES_PER_TOKEN)
    ]


def chat_token_ids(texts: Sequence[str]) -> list[int]:
    """Return the ids of messages: those of each text, after four for its template."""
    return [
        token
        for text in texts
        for token in [*[TEMPLATE_ID] * TOKENS_PER_MESSAGE, *text_token_ids(text)]
    ]


def embed(token_ids: Sequence[int]) -> list[float]:
    """Return a vector of length 1 that depends on the tokens only.

    Examples
    --------
    >>> vector = embed([1, 2, 3])
    >>> len(vector), round(sum(x * x for x in vector), 6), vector == embed([1, 2, 3])
    (8, 1.0, True)
    """
    data = struct.pack(f"<{len(token_ids)}q", *token_ids)
    digest = hashlib.blake2b(data, digest_size=2 * EMBEDDING_SIZE).digest()
    raw = [part + 0.5 for part in struct.unpack(f"<{EMBEDDING_SIZE}h", digest)]
    length = sum(x * x for x in raw) ** 0.5
    return [x / length for x in raw]
