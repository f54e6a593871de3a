"""The request router of Ray Serve, without Ray: what is booked whatever Serve does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from balanceroute.errors import ConfigError
from balanceroute.ray_serve import desk as desks
from balanceroute.ray_serve.calls import CallMeter
from tests.live.fake_engine import run, until
from tests.ray_serve.driving import Serve
from tests.ray_serve.stand_in import ReplicaID, router_module

EVENT = 'data: {"choices": [{"text": "a"}]}\n\n'
USAGE = 'data: {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 2}}\n\n'
DONE = "data: [DONE]\n\n"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with router_module() as its:
        monkeypatch.setattr(its, "warm", lambda *_, **__: None)  # the tests of policies have
        monkeypatch.setattr(its, "TEND_S", 0.01)
        yield its


def test_tokens_are_shared_out(module: Any) -> None:
    """The replica with the long prompt gets no others; what is complete is not counted."""

    async def test() -> None:
        serve = Serve(module, "a", "b", slots=8)
        long = serve.pending(1000)
        assert "a" == await serve.choose(long)
        short = [serve.pending(10) for _ in range(3)]
        assert ["b"] * 3 == [await serve.choose(its) for its in short]
        assert [1000, 30] == serve.loads
        serve.complete(long, "a")
        for its in short:
            serve.complete(its, "b")
        serve.expect_nothing_left()

    run(test())


def test_a_stream_is_counted_as_it_is_read(module: Any) -> None:
    """By either of the ways in which Serve reads it; the usage puts the prompt right."""

    async def test() -> None:
        serve = Serve(module, "a")
        first, second = serve.pending(30), serve.pending(30)
        answers = [await serve.send(its, [EVENT, [EVENT], USAGE, DONE]) for its in (first, second)]
        assert [EVENT, [EVENT]] == [await answers[0].__anext__() for _ in range(2)]
        assert [EVENT, [EVENT]] == [await asyncio.to_thread(answers[1].__next__) for _ in range(2)]
        await until(lambda: serve.loads == [64])
        ledger = serve.desk.group.ledger
        for _ in range(2):
            await answers[0].__anext__()
        serve.complete(first, "a")
        assert 1 == ledger.num_in_flight
        serve.complete(second, "a")  # before its caller has read the end
        assert 1 == ledger.num_in_flight
        for _ in range(2):
            await asyncio.to_thread(answers[1].__next__)
        await until(lambda: ledger.num_in_flight == 0)
        serve.expect_nothing_left()
        ended = ledger.take_events()[-2:]
        of_each = ended[["prompt_tokens", "generated_tokens", "has_completed"]]
        assert [(40, 2, 1)] * 2 == of_each.tolist()

    run(test())


def test_half_a_character_is_a_piece_as_well() -> None:
    """Whatever a replica yields, reading it does not fail because it is counted."""
    meter = CallMeter()
    assert [1, 1] == [meter.feed("\ud83d"), meter.feed(["\ude00"])]


def test_one_whose_end_nobody_reads_does_not_stay(module: Any) -> None:
    """As when its caller has gone, or it failed."""

    async def test() -> None:
        serve = Serve(module, "a")
        pending = serve.pending()
        await serve.send(pending, [EVENT])
        serve.complete(pending, "a")
        await until(lambda: serve.desk.group.ledger.num_in_flight == 0)
        serve.expect_nothing_left()
        assert 0 == serve.desk.group.ledger.take_events()[-1]["has_completed"]

    run(test())


def test_requests_wait_for_a_slot(module: Any) -> None:
    """And get it as soon as another has ended."""

    async def test() -> None:
        serve = Serve(module, "a", binding="pooled")
        first = [serve.pending() for _ in range(2)]
        assert ["a", "a"] == [await serve.choose(its) for its in first]
        third = serve.pending()
        waiting = asyncio.create_task(serve.choose(third))
        await until(lambda: serve.desk.group.num_waiting == 1)
        serve.complete(first[0], "a")
        assert "a" == await waiting

    run(test())


def test_a_prompt_that_no_replica_can_hold(module: Any) -> None:
    """It does not wait for room that there will never be; its engine knows what to say."""

    async def test() -> None:
        serve = Serve(module, "a", "b", binding="pooled", kv_tokens=100)
        assert "a" == await serve.choose(serve.pending(60))
        long = serve.pending(101)
        assert "b" == await serve.choose(long)
        serve.complete(long, "b")
        assert [60, 0] == serve.loads

    run(test(), within_s=10.0)


def test_who_gives_up_is_forgotten(module: Any) -> None:
    """While it waits, and between the choice and the sending."""

    async def test() -> None:
        serve = Serve(module, "a", slots=1, binding="pooled")
        first, second = serve.pending(), serve.pending()
        await serve.router.choose_replicas(serve.replicas, first)
        waiting = asyncio.create_task(serve.choose(second))
        await until(lambda: serve.desk.group.num_waiting == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        first.future.cancel()
        await until(lambda: serve.desk.group.ledger.num_in_flight == 0)
        serve.expect_nothing_left()

    run(test())


def test_one_that_a_replica_refuses_is_booked_once(module: Any) -> None:
    """Its completion on the first replica comes after it was sent to the second."""

    async def test() -> None:
        serve = Serve(module, "a", "b", slots=8)
        pending = serve.pending(100)
        first = await serve.choose(pending)
        serve.router.on_new_queue_len_info(ReplicaID(first), 8)  # others have filled it
        pending.reset_future()
        second = await serve.choose(pending)
        assert {"a", "b"} == {first, second}
        serve.complete(pending, first)
        assert 100 == sum(serve.loads)
        serve.complete(pending, second)
        serve.expect_nothing_left()

    run(test())


def test_a_replica_without_room_is_left_alone_for_a_while(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve asks again with the same future, if it could not send."""
    monkeypatch.setattr(desks, "LOOK_S", 0.1)

    async def test() -> None:
        serve = Serve(module, "a", "b", slots=4)
        pending = serve.pending(100)
        await serve.router.choose_replicas(serve.replicas, pending)
        assert "b" == await serve.choose(pending)
        assert "b" == await serve.choose(serve.pending(10))
        await until(lambda: not serve.desk.group.foreign_reqs.any())
        assert "a" == await serve.choose(serve.pending(10))

    run(test())


def test_what_other_routers_send_counts(module: Any) -> None:
    """As far as a replica's queue tells, beyond what is booked here."""

    async def test() -> None:
        serve = Serve(module, "a", "b", slots=8)
        mine = serve.pending(50)
        assert "a" == await serve.choose(mine)
        serve.router.on_new_queue_len_info(ReplicaID("a"), 1)
        assert [0, 0] == serve.desk.group.foreign_reqs.tolist()
        serve.router.on_new_queue_len_info(ReplicaID("b"), 3)
        assert [0, 3] == serve.desk.group.foreign_reqs.tolist()
        assert "a" == await serve.choose(serve.pending(10))

    run(test())


def test_replicas_come_and_go(module: Any) -> None:
    """One that has gone or died gets nothing; its number is taken by the next, once it is empty."""

    async def test() -> None:
        serve = Serve(module, "a", "b", slots=8)
        on_a = serve.pending(10)
        assert "a" == await serve.choose(on_a)
        serve.set_replicas("b", "c")
        assert ["a", "b", "c"] == serve.desk.names
        assert {"b", "c"} == {await serve.choose(serve.pending(10)) for _ in range(2)}
        serve.complete(on_a, "a")
        serve.set_replicas("b", "c", "d")
        assert ["d", "b", "c"] == serve.desk.names
        serve.router.on_replica_actor_died(ReplicaID("d"))
        assert ["d"] == serve.router.died
        assert "d" not in {await serve.choose(serve.pending(1)) for _ in range(4)}

    run(test())


def test_gangs_are_groups_of_their_own(module: Any) -> None:
    """Who waits for one that goes is taken by another; it is forgotten once it is empty."""

    async def test() -> None:
        serve = Serve(module, "a", "b", "c", "d", gangs="xxyy", slots=1, binding="pooled")
        first = [serve.pending() for _ in range(4)]
        names = [await serve.choose(its) for its in first]
        assert set("abcd") == set(names)
        waiting = [asyncio.create_task(serve.choose(serve.pending())) for _ in range(2)]
        await until(lambda: sum(d.group.num_waiting for d in serve.router._desks.values()) == 2)
        serve.set_replicas("c", "d", gangs="yy")
        for its, name in zip(first, names, strict=True):
            serve.complete(its, name)
        assert {"c", "d"} == set(await asyncio.gather(*waiting))
        await until(lambda: ["y"] == list(serve.router._desks))

    run(test())


def test_a_booking_that_nobody_confirms_ends(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As where Serve only asks whom to choose, and something else sends the request."""

    async def test() -> None:
        serve = Serve(module, "a", lease_secs=0.05)
        confirmed = serve.pending()
        await serve.send(confirmed)
        await serve.choose(serve.pending())
        await until(lambda: serve.desk.group.ledger.num_in_flight == 1)
        assert "replica a was chosen for request r2" in caplog.text
        serve.complete(confirmed, "a")
        await until(lambda: serve.desk.group.ledger.num_in_flight == 0)
        serve.expect_nothing_left()

    run(test())


def test_trouble_is_left_to_serve(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A request never waits for a router that has failed."""

    async def test() -> None:
        serve = Serve(module, "a", "b")
        serve.router._desks.clear()
        found = await serve.router.choose_replicas(serve.replicas, serve.pending())
        assert [serve.replicas] == found
        assert "Serve chooses a replica by itself" in caplog.text

    run(test())


def test_settings_that_are_none(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    """They are refused where they are made; a router that gets them tells every caller."""
    with pytest.raises(ConfigError, match="unknown field `slot`"):
        module.request_router_config(slot=3)
    config = module.request_router_config(slots=3)
    assert f"{module.__name__}.BalanceRouteRequestRouter" == config.request_router_class

    async def test() -> None:
        serve = Serve(module, "a", policy="best")
        pending = serve.pending()
        await serve.router.choose_replicas(serve.replicas, pending)
        with pytest.raises(ConfigError, match="best"):
            await pending.future

    with caplog.at_level(logging.CRITICAL):
        run(test())


def test_all_who_wait_are_shown_to_the_policy(module: Any) -> None:
    """Serve's own limit would show it two for each replica."""

    async def test() -> None:
        assert Serve(module, "a").router.max_num_routing_tasks >= 4096

    run(test())
