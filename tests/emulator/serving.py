"""Emulated groups on loopback for tests, and how a client reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import aiohttp
import msgspec

from balanceroute.emulator.config import ServerConfig
from balanceroute.emulator.group import EmulatedGroup
from balanceroute.emulator.serve import emulated_groups
from tests.emulator.driving import engine_config

T = TypeVar("T")
Client = aiohttp.ClientSession

DEADLINE_S = 20.0
STEP_S = 0.002
ENGINE = (
    *("num_ranks", "num_slots", "num_blocks", "block_size", "budget_tokens"),
    *("prefill_s_per_token", "constant_s", "s_per_token"),
)


def server_config(**settings: Any) -> ServerConfig:
    """Return two ranks of four slots and steps of 2 ms, on free ports."""
    engine: dict[str, Any] = {"num_ranks": 2, "num_slots": 4, "block_size": 16}
    engine["constant_s"] = STEP_S
    engine |= {name: settings.pop(name) for name in ENGINE if name in settings}
    return ServerConfig(engine=engine_config(**engine), port=0, **settings)


def serve_groups(
    test: Callable[[Sequence[EmulatedGroup], Client], Awaitable[T]],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    **settings: Any,
) -> T:
    """Run a test's coroutine beside groups that serve, with a deadline.

    The client's addresses are relative to the first group's.
    """

    async def main() -> T:
        async with (
            asyncio.timeout(DEADLINE_S),
            emulated_groups(server_config(**settings)) as groups,
            aiohttp.ClientSession(groups[0].url) as client,
        ):
            return await test(groups, client)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main())


def serve_group(
    test: Callable[[EmulatedGroup, Client], Awaitable[T]],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    **settings: Any,
) -> T:
    """Run a test's coroutine beside one group."""
    return serve_groups(
        lambda groups, client: test(groups[0], client), loop_factory=loop_factory, **settings
    )


async def post(client: Client, path: str, body: object, **headers: str) -> tuple[int, Any]:
    """Return status and JSON of an answer; underscores of headers become dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post(path, data=msgspec.json.encode(body), headers=named) as answer:
        return answer.status, msgspec.json.decode(await answer.read())


async def get(client: Client, path: str) -> Any:
    async with client.get(path) as answer:
        assert 200 == answer.status
        return msgspec.json.decode(await answer.read())


async def stream(client: Client, path: str, body: dict[str, Any], **headers: str) -> list[Any]:
    """Return the events of a stream that ends with ``[DONE]``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = msgspec.json.encode(body | {"stream": True})
    async with client.post(path, data=data, headers=named) as answer:
        assert 200 == answer.status
        assert "text/event-stream; charset=utf-8" == answer.headers["Content-Type"]
        return parse_events((await answer.read()).decode())


def parse_events(text: str) -> list[Any]:
    """Return the JSON of each event but the last, which must be ``[DONE]``."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert "[DONE]" == lines.pop()
    return [msgspec.json.decode(line) for line in lines]


async def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait until something is so; the test's deadline applies."""
    while not is_true():
        await asyncio.sleep(STEP_S)


def completion(num_tokens: int = 4, **more: Any) -> dict[str, Any]:
    """Return a completion request of so many output tokens."""
    return {"prompt": "hello", "max_tokens": num_tokens, "ignore_eos": True} | more
