from __future__ import annotations

import json
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ray import serve

from balanceroute.errors import ConfigError
from balanceroute.ray_serve.router import request_router_config
from tests_ray.conftest import Deploy
from tests_ray.looking import desk_of, eventually, expect_empty, prompt, read_all, read_stream
from tests_ray.replicas import Engine, Ingress


def test_streams_are_counted_while_they_flow(deploy: Deploy) -> None:
    """The ledger grows with the answers, and is empty once they have ended."""
    handle = deploy("streams", 2)
    assert read_stream(handle, prompt(10, 3))[1:] == (3, None)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(read_stream, handle, prompt(100, 200)) for _ in range(4)]
        loads = desk_of(handle).group.ledger.ranks["load_tokens"]
        eventually(lambda: int(loads.sum()) > 4 * 100 + 4 * 50, "streams are booked")
        eventually(lambda: all(answer.done() for answer in answers), "streams end")
    assert all(answer.result()[1:] == (200, None) for answer in answers)
    expect_empty(handle)
    ended = desk_of(handle).group.ledger.take_events()[-4:]
    of_each = ended[["prompt_tokens", "generated_tokens", "has_completed"]]
    assert [(100, 200, 1)] * 4 == of_each.tolist()


def test_replicas_get_tokens_and_not_requests_alike(deploy: Deploy) -> None:
    """A replica that has a long prompt gets no short ones until the others have as many tokens."""
    handle = deploy("tokens", 2, step_s=0.05, policy="least_tokens")
    read_stream(handle, prompt(10, 1))
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(read_stream, handle, prompt(5000, 60))
        eventually(lambda: desk_of(handle).group.ledger.num_in_flight == 1, "the long one runs")
        short = read_all(handle, [prompt(100, 3) for _ in range(8)])
        assert {replica for replica, _, _ in short}.isdisjoint({long.result()[0]})


def test_requests_wait_in_the_pool_and_not_on_replicas(deploy: Deploy) -> None:
    """With two slots each, four of twelve run; all are answered once."""
    handle = deploy("pool", 2, slots=2)
    read_stream(handle, prompt(10, 1))
    desk, most = desk_of(handle), [0, 0]

    def look(*_: object) -> None:
        here = desk.group.ledger.ranks
        most[0] = max(most[0], int((here["num_running"] + here["num_waiting"]).max()))
        most[1] = max(most[1], desk.group.num_waiting)

    desk.group.plan_watchers.append(look)
    answers = read_all(handle, [prompt(50, 20) for _ in range(12)])
    assert [None] * 12 == [error for _, _, error in answers]
    look()
    assert most[0] <= 2
    assert most[1] >= 6
    expect_empty(handle)


def test_answers_in_one_piece_leave_the_ledger(deploy: Deploy) -> None:
    """Calls that are not streamed are booked for as long as they last."""
    handle = deploy("unary", 2)
    answers = [handle.remote(prompt(100, 5)) for _ in range(10)]
    served = Counter(answer.result(timeout_s=30) for answer in answers)
    assert [5, 5] == sorted(served.values())
    expect_empty(handle)


def test_a_caller_that_gives_up_leaves_the_pool(deploy: Deploy) -> None:
    """Whoever waits behind it goes on."""
    handle = deploy("cancel", 1, slots=1)
    read_stream(handle, prompt(10, 1))
    first = handle.remote(prompt(10, 50))
    eventually(lambda: desk_of(handle).group.ledger.num_in_flight == 1, "the first runs")
    second, third = handle.remote(prompt(10, 1)), handle.remote(prompt(10, 1))
    eventually(lambda: desk_of(handle).group.num_waiting == 2, "two wait")
    second.cancel()
    eventually(lambda: desk_of(handle).group.num_waiting == 1, "one of them has left")
    assert first.result(timeout_s=30) == third.result(timeout_s=30)
    expect_empty(handle)


def test_settings_that_are_none_are_refused(deploy: Deploy) -> None:
    """When they are made, and if they are not made here, to each caller."""
    with pytest.raises(ConfigError, match="unknown field `slot`"):
        request_router_config(slot=8)
    config = request_router_config()
    config.request_router_kwargs = {"policy": "best"}
    app = Engine.options(request_router_config=config).bind(0.01)
    handle = serve.run(app, name="bad", route_prefix="/bad")
    with pytest.raises(ConfigError, match="best"):
        handle.remote(prompt(1, 1)).result(timeout_s=30)
    serve.delete("bad")


def test_an_ingress_routes_what_comes_over_http() -> None:
    """The router is in the ingress, and counts there what passes to the client."""
    config = request_router_config(slots=8)
    engine = Engine.options(num_replicas=2, request_router_config=config).bind(0.01)
    handle = serve.run(Ingress.bind(engine), name="http", route_prefix="/http")
    request = urllib.request.Request(
        "http://127.0.0.1:8000/http",
        data=json.dumps(prompt(40, 200)).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        lines = iter(answer)
        for _ in range(300):  # two a token
            next(lines)
        loads, num_in_flight = _look(handle)
        assert 1 == num_in_flight
        assert 40 + 100 < sum(loads) <= 40 + 200
        assert any(b"[DONE]" in line for line in lines)
    eventually(lambda: _look(handle)[1] == 0, "it has left the ledger")
    serve.delete("http")


def _look(handle: Any) -> tuple[list[int], int]:
    *loads, num_in_flight = handle.look.remote().result(timeout_s=30)
    return loads, num_in_flight
