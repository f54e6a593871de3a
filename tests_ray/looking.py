"""How the tests look at the router that a handle has in this process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

WAIT_S = 60.0


def prompt(num_tokens: int, max_tokens: int) -> dict[str, Any]:
    return {"prompt": [1] * num_tokens, "max_tokens": max_tokens}


def router_of(handle: Any) -> Any:
    """Return the request router of a handle that has been used."""
    return handle._router._asyncio_router.request_router


def desk_of(handle: Any) -> Any:
    (desk,) = router_of(handle)._desks.values()
    return desk


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait for what others bring about, which nobody here is told of."""
    until_s = time.monotonic() + WAIT_S
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < until_s, f"not in {WAIT_S:g} s: {what}"
        pause.wait(0.05)


def read_stream(handle: Any, request: dict[str, Any]) -> tuple[str, int, Exception | None]:
    """Return which replica has answered a request, its tokens, and what went wrong, if anything."""
    replica, numbers = "", []
    try:
        for event in handle.options(stream=True).stream.remote(request):
            if '"text"' in event:
                its = json.loads(event.removeprefix("data: "))
                replica = its["replica"]
                numbers.append(int(its["choices"][0]["text"]))
    except Exception as error:
        assert list(range(len(numbers))) == numbers
        return replica, len(numbers), error
    assert list(range(request["max_tokens"])) == numbers
    return replica, len(numbers), None


def read_all(
    handle: Any, requests: list[dict[str, Any]]
) -> list[tuple[str, int, Exception | None]]:
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: read_stream(handle, request), requests))


def expect_empty(handle: Any) -> None:
    """See to it that nothing is booked any more, and that the totals are right."""
    desk = desk_of(handle)
    eventually(lambda: desk.group.ledger.num_in_flight == 0, "all requests have left the ledger")
    assert 0 == desk.group.num_waiting
    eventually(lambda: not router_of(handle)._calls, "no call is remembered")
    desk.group.check()
