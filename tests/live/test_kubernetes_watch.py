"""What is listed and watched in Kubernetes when things go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from balanceroute.live.kubernetes.discovery import Discovery
from tests.live.cluster import SLICES, FakeApi, endpoint_slice, ready
from tests.live.fake_engine import until
from tests.live.following import URLS, Follow

pytest.importorskip("kubernetes.aio", reason="Kubernetes' client is not installed")


def test_lists_are_read_page_by_page(follow: Follow) -> None:
    """As large ones are given."""

    async def test(api: FakeApi, its: Discovery) -> None:
        api.page = 1
        for number in (3, 4):
            name = f"vllm-{number}"
            await api.put(SLICES, endpoint_slice(name, ready(f"10.0.0.{number}", name)))
        api.oldest = api.version + 1
        api.cut()
        await until(lambda: api.num_lists == 1 + 3)
        await until(lambda: len(its.urls) == 4)

    follow(test)


def test_a_watch_goes_on_where_it_was(follow: Follow) -> None:
    """Whether the server has ended it or the connection broke; nothing is listed anew."""

    async def test(api: FakeApi, its: Discovery) -> None:
        for break_off in (api.end_watches, api.cut):
            await api.bookmark(SLICES)
            await asyncio.sleep(0.1)  # a watch that has lasted
            since = api.version
            api.oldest = since  # what was before the bookmark is forgotten
            await broken_off(api, break_off)
            await api.put(SLICES, endpoint_slice("vllm-b", ready("10.0.0.3", "vllm-2")))
            await until(lambda: len(its.urls) == 3)
            assert str(since) == api.requests[-1][1]["resourceVersion"]
            await api.delete(SLICES, "vllm-b")
            await until(lambda: len(its.urls) == 2)
        assert 1 == api.num_lists

    follow(test)


async def broken_off(api: FakeApi, break_off: Callable[[], None]) -> None:
    num_watches = api.num_watches
    break_off()
    await until(lambda: api.num_watches == num_watches + 1)


@pytest.mark.parametrize("is_event", [True, False])
def test_what_is_too_old_is_listed_anew(follow: Follow, is_event: bool) -> None:
    """Whether the server says so in the watch or instead of it; what has gone meanwhile goes."""

    async def test(api: FakeApi, its: Discovery) -> None:
        await api.put(SLICES, endpoint_slice("vllm-b", ready("10.0.0.3", "vllm-2")))
        await until(lambda: len(its.urls) == 3)
        seen: list[tuple[str, ...]] = []
        its.follow(lambda: seen.append(its.urls))
        seen.clear()
        del api.objects[SLICES]["vllm-b"]
        api.objects[SLICES]["vllm-a"] = endpoint_slice("vllm-a", ready("10.0.0.2", "vllm-1"))
        api.version += 1000
        if is_event:
            api.oldest = api.version
        else:
            api.refusals.append(410)
        api.cut()
        await until(lambda: its.urls == URLS[1:])
        assert 2 == api.num_lists
        assert [URLS[1:]] == seen  # and nobody was told of less in between

    follow(test)


def test_while_the_server_is_away_all_stays(
    follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked again, later each time; then things go on."""

    async def test(api: FakeApi, its: Discovery) -> None:
        api.refusals += [503, 500, 403, 429]
        api.cut()
        await until(lambda: not api.refusals)
        assert URLS == its.urls
        await until(lambda: len(api.watchers) == 1)
        assert "HTTP 403: no; does the service account have the role" in caplog.text
        await api.put(SLICES, endpoint_slice("vllm-a", ready("10.0.0.2", "vllm-1")))
        await until(lambda: its.urls == URLS[1:])
        assert "answers again" in caplog.text
        assert 1 == api.num_lists

    follow(test)


def test_events_that_are_none_are_survived(follow: Follow) -> None:
    """The watch is begun again; what was known stays."""

    async def test(api: FakeApi, its: Discovery) -> None:
        await api.say(SLICES, {"type": "SOMETHING", "object": {"metadata": {}}})
        await until(lambda: api.num_watches == 2)
        await api.say(SLICES, {"kind": "Status"})
        await until(lambda: api.num_watches == 3)
        assert URLS == its.urls

    follow(test)
