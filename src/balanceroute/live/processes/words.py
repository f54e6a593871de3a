"""What data planes and the brain say to each other, and how it goes over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from balanceroute.live.config import ServeConfig

SIZE_BYTES = 4  # before each frame


class Word(msgspec.Struct, frozen=True, array_like=True):
    """One thing that is said."""


class Running(msgspec.Struct, frozen=True, array_like=True):
    """A request that is on a rank, as whoever carries it knows it."""

    number: int
    rank: int
    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    num_prompts: int
    num_choices: int
    client: int
    prompt_hash: int
    is_streamed: bool
    name: str


class Hello(Word, frozen=True, tag=1):
    """A data plane is there, and has these requests on ranks."""

    plane: int
    pid: int
    running: list[Running]


class Select(Word, frozen=True, tag=2):
    """A request is to have a rank.

    Attributes
    ----------
    number : int
        By which the data plane calls it.
    prompt_tokens, max_tokens, num_prompts, num_choices, client, prompt_hash, priority, is_streamed
        As of `Ticket`, and so are `name` and `pinned_rank`.
    tenant : str or None
        Whose it is, if that matters.
    age_s : float
        How long ago it came.
    is_new : bool
        Whether it may be refused because too many wait; one that comes again is not.
    """

    number: int
    prompt_tokens: int
    max_tokens: int
    num_prompts: int
    num_choices: int
    client: int
    prompt_hash: int
    priority: int
    is_streamed: bool
    name: str
    pinned_rank: int
    tenant: str | None
    age_s: float
    is_new: bool


class Progress(Word, frozen=True, tag=3):
    """How many tokens requests have given so far, in all."""

    numbers: list[int]
    output_tokens: list[int]


class Finish(Word, frozen=True, tag=4):
    """A request has come to its end; `usage` as the engine counts it: prompt and output tokens."""

    number: int
    output_tokens: int
    usage: tuple[int, int] | None
    has_completed: bool


class Release(Word, frozen=True, tag=5):
    """A request was given up, on its rank or while it waited."""

    number: int


class Failure(Word, frozen=True, tag=6):
    """A request has failed on a rank, as `Health.fail` is told."""

    rank: int
    reason: str
    has_answered: bool


class Counted(Word, frozen=True, tag=7):
    """What has been counted since the last time: name, labels, how many; and CPU time in all."""

    added: list[tuple[str, list[str], float]]
    cpu_s: float


class Told(Word, frozen=True, tag=11):
    """What is in force: settings, and the URL and number there of each rank."""

    config: ServeConfig
    ranks: list[tuple[str, int | None]]


class Placed(Word, frozen=True, tag=12):
    """A request has a rank."""

    number: int
    rank: int


class Refused(Word, frozen=True, tag=13):
    """A request gets none, as `Refusal` says it."""

    number: int
    status: int
    message: str
    reason: str


class Loads(Word, frozen=True, tag=14):
    """How the ranks are: open or not, resident and due tokens, and how many requests more fit."""

    is_open: list[bool]
    load_tokens: list[int]
    room: list[int]


FROM_PLANE = Hello | Select | Progress | Finish | Release | Failure | Counted
FROM_BRAIN = Told | Placed | Refused | Loads
plane_decoder = msgspec.msgpack.Decoder(list[FROM_PLANE])
brain_decoder = msgspec.msgpack.Decoder(list[FROM_BRAIN])
_encode = msgspec.msgpack.Encoder().encode


def frame(words: list[Word]) -> bytes:
    r"""Return words as they go over a socket.

    Examples
    --------
    >>> frame([Release(7)])
    b'\x04\x00\x00\x00\x91\x92\x05\x07'
    """
    data = _encode(words)
    return len(data).to_bytes(SIZE_BYTES, "little") + data


class Talk(asyncio.Protocol):
    """One end of a connection between two processes of a router.

    Words that are said in the same turn of the event loop go out together.

    Parameters
    ----------
    decoder : msgspec.msgpack.Decoder
        Of what the other end says.
    on_words : callable
        Called with what it has said.
    on_lost : callable
        Called when the connection is over.
    """

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[list[Any]],
        on_words: Callable[[list[Any]], object],
        on_lost: Callable[[], object],
    ) -> None:
        self._decoder, self._on_words, self._on_lost = decoder, on_words, on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._rest = b""
        self._out: list[Word] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the way to the other end."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is of no such class

    def data_received(self, data: bytes) -> None:
        """Take in what has come."""
        data, at = self._rest + data, 0
        while len(data) - at >= SIZE_BYTES:
            begin = at + SIZE_BYTES
            end = begin + int.from_bytes(data[at:begin], "little")
            if end > len(data):
                break
            at = end
            self._on_words(self._decoder.decode(data[begin:end]))
        self._rest = data[at:]

    def connection_lost(self, _: BaseException | None) -> None:
        """Say nothing more."""
        self._transport = None
        self._on_lost()

    def say(self, word: Word) -> None:
        """Say something at the end of this turn of the event loop."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(word)

    def flush(self) -> None:
        """Say at once what is to be said."""
        out, self._out = self._out, []
        if out and self._transport is not None:
            self._transport.write(frame(out))

    def close(self) -> None:
        """End the connection, once all has been said."""
        self.flush()
        if self._transport is not None:
            self._transport.close()
