"""The live page: what it is told, and by whom it may be changed."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import aiohttp
import aiohttp.test_utils
import msgspec
import numpy as np
import pytest

from balanceroute.cluster.ledger import Ledger
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.live.dashboard import EVENTS_PATH, FILES, page_file
from balanceroute.policies.base import Plan
from tests.live.fake_engine import Client, FakeEngine, run, serving, until
from tests.live.shown import a_group, administered


async def states(client: Client, count: int, path: str = "") -> list[dict[str, Any]]:
    """Return the first states that a page is told."""
    found: list[dict[str, Any]] = []
    async with client.session.get((path or client.url) + EVENTS_PATH) as answer:
        assert 200 == answer.status
        async for line in answer.content:
            if line.startswith(b"data: "):
                found.append(msgspec.json.decode(line[6:]))
            if len(found) == count:
                return found
    raise AssertionError("the stream has ended")


def test_pages_are_told_five_times_a_second() -> None:
    """Loads, pool, and why the latest requests went where they went."""

    async def test() -> None:
        async with a_group(2) as client:
            asking = asyncio.create_task(states(client, 6))
            await until(lambda: len(client.router.dashboard._watchers) == 1)
            await client.post(headers={"X-Request-Id": "mine"})
            began_s = asyncio.get_running_loop().time()
            told = await asking
            assert asyncio.get_running_loop().time() - began_s < 10.0
            assert [] == told[0]["history"]
            assert "mine" == told[-1]["decisions"][0]["name"]
            assert 1 == len(told[-1]["decisions"][0]["others"])
            assert {"costs", "fit", "bound"} > {told[0]["basis"]}
            assert told[0]["idle"] is None  # no step has been seen: not a zero
            await until(lambda: not client.router.dashboard._watchers)

    run(test())


def test_no_more_is_explained_than_can_be_shown() -> None:
    """Of plans at nearly the same time the first: an open page costs no more when many come."""
    ledger = Ledger(num_ranks=2)
    pool, plan = PoolView.of_prompts([30, 50]), Plan.oldest(np.array([0, 1]))

    def view(now_s: float) -> GroupView:
        return GroupView.of_accounts(
            ledger.ranks,
            ledger.ranks,
            now_s=now_s,
            is_immediate=False,
            num_slots=np.array([4, 4]),
            kv_capacity_tokens=np.array([4000, 4000]),
        )

    async def test() -> None:
        async with a_group(2) as client:
            asking = asyncio.create_task(states(client, 2))
            dashboard = client.router.dashboard
            await until(lambda: len(dashboard._watchers) == 1)
            client.router.group.name_of = str  # type: ignore[method-assign,assignment]
            for number in range(100):
                dashboard._note_plan(view(1.0 + 0.001 * number), pool, plan)
            assert 6 == len(dashboard._decisions)  # of 0.1 s, one every 0.2 s / 12
            await asking

    run(test())


def test_the_page_is_open_and_what_it_shows_is_not() -> None:
    """With keys the stream asks for one; the page itself holds nothing to hide."""

    async def test() -> None:
        async with a_group(1, api_keys=["secret"]) as client:
            for path in FILES:
                status, _ = await client.get(path)
                assert 200 == status
            async with client.session.get(client.url + EVENTS_PATH) as answer:
                assert 401 == answer.status

    run(test())


def test_nothing_comes_from_elsewhere() -> None:
    """No file names another host, and the browser is told to ask none."""
    for path in FILES:
        answer = page_file(path)
        assert isinstance(answer.body, bytes)
        assert [] == re.findall(rb"https?://", answer.body)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_an_open_page_does_not_hold_up_the_end() -> None:
    """Its stream ends first, instead of being waited for."""

    async def test() -> None:
        async with aiohttp.ClientSession() as session:
            async with a_group(1, shutdown_timeout_secs=20.0) as client:
                page = Client(session, client.router, client.url)
                asking = asyncio.create_task(states(page, 10_000))
                await until(lambda: len(client.router.dashboard._watchers) == 1)
                began_s = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - began_s < 8.0
            with pytest.raises(AssertionError, match="the stream has ended"):
                await asking

    run(test())


def test_administrators_change_the_policy() -> None:
    """With the token only; a policy that there is not leaves the present one, and says what is."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, administered(engine) as (client, url):
            shown = {"Authorization": "Bearer token"}
            async with client.session.post(url + "/policy", json={"policy": "br_0"}) as answer:
                assert 401 == answer.status
            for spec, words in (("br_9", "br_0"), ("br_0,no=1", "no"), ("x.py:P", "policy")):
                body = {"policy": spec}
                async with client.session.post(url + "/policy", json=body, headers=shown) as answer:
                    assert 400 == answer.status
                    assert words in (await answer.json())["error"]["message"]
                assert "fcfs" == client.router.parts.policy_now
            body = {"policy": "least_tokens"}
            async with client.session.post(url + "/policy", json=body, headers=shown) as answer:
                assert {"policy": "least_tokens"} == await answer.json()
            _, page = await client.get("/metrics")
            assert b'balanceroute_policy_info{policy="least_tokens"} 1.0' in page
            assert b"fcfs" not in page
            status, _, _ = await client.post()
            assert 200 == status

    run(test())
