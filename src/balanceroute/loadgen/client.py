"""The HTTP client: what the server is, and one request after the other."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from balanceroute.errors import ConfigError
from balanceroute.loadgen.config import LoadConfig
from balanceroute.loadgen.stream import StreamError, StreamMeter, error_message, read_chunk, shown

WORKER_HEADER = "x-balanceroute-worker"
EVENT_STREAM = "text/event-stream"
CONNECT_TIMEOUT_S = 10.0
CHECK_TIMEOUT_S = 10.0
# Below the 5 s after which vLLM's server closes idle connections, so that no request meets one that
# is being closed.
KEEPALIVE_S = 4.0
READ_BUFFER_BYTES = 1 << 18

clock = time.perf_counter


@dataclass(slots=True, eq=False, kw_only=True)
class Outcome:
    """What has become of one request.

    Attributes
    ----------
    row : int
        Its row in the workload.
    sent_s, ended_s : float
        When it was sent, and when its answer was whole or had failed, on `clock`; 0 before that.
    status : int
        HTTP status; 0 before there is one.
    cause, message : str
        Kind and details of the failure; empty if there is none.
    worker : str
        Rank that the router names.
    num_tokens : int
        Output tokens.
    prompt_tokens : int or None
        Length of the prompt as the server states it.
    piece_s, piece_tokens : array
        When tokens came, on `clock`, and how many at a time.
    """

    row: int
    sent_s: float = 0.0
    ended_s: float = 0.0
    status: int = 0
    cause: str = ""
    message: str = ""
    worker: str = ""
    num_tokens: int = 0
    prompt_tokens: int | None = None
    piece_s: array[float] = field(default_factory=lambda: array("d"))
    piece_tokens: array[int] = field(default_factory=lambda: array("I"))

    @property
    def has_failed(self) -> bool:
        """Tell whether there is no answer, or a bad one."""
        return bool(self.cause)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What the server says of itself.

    Attributes
    ----------
    model : str
        Name of the model that requests ask for.
    workers : tuple of str
        Ranks by the names that answers show, in their order; empty if the server is no router.
    """

    model: str
    workers: tuple[str, ...] = ()


class Client:
    """Sends requests to one server; use it as an asynchronous context manager.

    Parameters
    ----------
    config : LoadConfig
        Address, endpoint and timeout.
    """

    def __init__(self, config: LoadConfig) -> None:
        self._config = config
        self._url = config.base_url + config.path
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER_BYTES,
            skip_auto_headers=("Accept-Encoding",),  # nothing compressed comes token by token
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.session.close()

    async def examine(self) -> Endpoint:
        """Ask the server which model it has, and a router which ranks.

        Raises
        ------
        ConfigError
            If it cannot be reached, refuses the key, or names no model while none is given.
        """
        status, document = await self._get("/v1/models")
        if status in (401, 403):
            raise ConfigError(
                f"{self._config.base_url} refuses the key (HTTP {status}); name the variable that "
                "holds it with --api-key-env"
            )
        cards = document.get("data") if isinstance(document, dict) else None
        cards = [card for card in cards or () if isinstance(card, dict) and card.get("id")]
        wanted = self._config.model
        if wanted is None and not cards:
            raise ConfigError(
                f"{self._config.base_url}/v1/models names no model (HTTP {status}); check --url, "
                "or name one with --model"
            )
        return Endpoint(model=wanted or str(cards[0]["id"]), workers=await self._workers())

    async def send(self, outcome: Outcome, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a request and read its answer; whatever goes wrong is noted in `outcome`."""
        outcome.sent_s = clock()
        try:
            # One timer for the request: aiohttp's own looks at the task for every piece it reads.
            async with (
                asyncio.timeout(self._config.timeout_s),
                self.session.post(self._url, data=body, headers=headers) as answer,
            ):
                await self._read(outcome, answer)
        except StreamError as error:
            outcome.cause, outcome.message = error.cause, str(error)
        except (
            TimeoutError
        ) as error:  # before the others, since aiohttp's are connection errors too
            outcome.cause = "timeout"
            outcome.message = str(error) or f"no answer within {self._config.timeout_s:g} s"
        except aiohttp.ClientConnectorError as error:
            outcome.cause, outcome.message = "cannot connect", reason(error)
        except (aiohttp.ClientError, OSError) as error:
            outcome.cause, outcome.message = "connection lost", reason(error)
        outcome.ended_s = clock()

    async def _read(self, outcome: Outcome, answer: aiohttp.ClientResponse) -> None:
        outcome.status = answer.status
        outcome.worker = answer.headers.get(WORKER_HEADER, "")
        if answer.status != 200:
            message = error_message(await answer.read())
            raise StreamError(f"HTTP {answer.status}", message)
        if not self._config.is_streamed:
            chunk = read_chunk(await answer.read())
            if chunk.usage is None:
                raise StreamError("bad answer", "it does not state its usage")
            outcome.num_tokens = chunk.usage.completion_tokens
            outcome.prompt_tokens = chunk.usage.prompt_tokens
            return
        if answer.content_type != EVENT_STREAM:
            found = f"{answer.content_type} instead of a stream"
            raise StreamError("bad answer", f"{found}: {shown(await answer.read())}")
        await self._read_stream(outcome, answer.content)

    async def _read_stream(self, outcome: Outcome, content: aiohttp.StreamReader) -> None:
        meter, read = StreamMeter(), content.readany
        try:
            while data := await read():
                now_s = clock()
                num_tokens = meter.feed(data)
                if num_tokens:
                    outcome.piece_s.append(now_s)
                    outcome.piece_tokens.append(num_tokens)
                    outcome.num_tokens = meter.num_tokens
        finally:
            outcome.num_tokens = meter.num_tokens  # corrected, if usage was stated at the end
            outcome.prompt_tokens = meter.prompt_tokens
        if not meter.is_whole:
            raise StreamError("cut off", f"the stream ended after {meter.num_tokens} tokens")

    async def _workers(self) -> tuple[str, ...]:
        """Return a router's ranks; other servers have no such page, or another one."""
        try:
            _, document = await self._get("/workers")
        except ConfigError:
            return ()
        workers = document.get("workers") if isinstance(document, dict) else None
        names = [worker.get("worker") for worker in workers or () if isinstance(worker, dict)]
        return tuple(name for name in names if isinstance(name, str))

    async def _get(self, path: str) -> tuple[int, Any]:
        """Return the status and the JSON of a page, None if it is none."""
        key = self._config.api_key
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        timeout = aiohttp.ClientTimeout(total=CHECK_TIMEOUT_S)
        return await get_json(
            self.session, self._config.base_url + path, "url", headers=headers, timeout=timeout
        )


async def get_json(
    session: aiohttp.ClientSession,
    url: str,
    option: str,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: aiohttp.ClientTimeout,
) -> tuple[int, Any]:
    """Return the status and the JSON of a page, None if it is none.

    Raises
    ------
    ConfigError
        If the server cannot be reached; `option` is where its address came from.
    """
    try:
        async with session.get(url, headers=headers, timeout=timeout) as answer:
            data, status = await answer.read(), answer.status
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        what = reason(error) or "no answer"
        raise ConfigError(
            f"{url} cannot be reached: {what}; start the server, or correct --{option}"
        ) from error
    try:
        return status, msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return status, None


def reason(error: BaseException) -> str:
    """Return what went wrong with a connection in few words."""
    system = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(system, OSError) and system.strerror:
        return system.strerror
    return str(error) or type(error).__name__
