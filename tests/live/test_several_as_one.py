"""`balanceroute serve --processes` is one router to its clients, or does not start."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from balanceroute.errors import ConfigError
from balanceroute.live.reading import read_config
from tests.live.fake_engine import run, until
from tests.live.several import (
    fetch,
    is_closed,
    is_gone,
    parts,
    until_async,
)
from tests.live.starting import (
    LIMIT_S,
    NUM_RANKS,
    NUM_SLOTS,
    body,
    expect_refusal,
    group,
    is_whole,
)

pytestmark = pytest.mark.slow


def test_one_router_to_its_clients(tmp_path: Path) -> None:
    """Keys, limits, counts and pages are of all; settings change; nothing is left at the end."""
    file, log = tmp_path / "router.yaml", tmp_path / "log"
    settings = {"api-keys": ["k"], "decisions": True, "shutdown-timeout-secs": 20.0}

    def write(**changed: Any) -> None:
        file.write_bytes(msgspec.yaml.encode(settings | changed))

    async def test() -> None:
        write()
        async with parts(log, "--config", str(file), step_s=0.005) as its:
            url = its.it.url
            assert 401 == (await its.ask(1, 3)[0])[0]
            assert 401 == (await fetch(its.session, url + "/workers"))[0]
            its.session.headers["Authorization"] = "Bearer k"
            ended = await asyncio.gather(*its.ask(20, 3))
            assert all(is_whole(end, 3) for end in ended)
            # Another gateway's request, through whichever data plane.
            async with its.session.post(url + "/v1/decisions", json={"prompt_tokens": 9}) as held:
                assert 200 == held.status
                name = (await held.json())["id"]
            async with its.session.post(url + "/v1/decisions/finish", json={"id": name}) as held:
                assert 200 == held.status
            async with its.session.get(url + "/v1/models") as models:
                assert 200 == models.status

            async def has_counted() -> bool:
                async with its.session.get(url + "/metrics") as answer:
                    text = await answer.text()
                return (
                    'balanceroute_requests_total{code="401"} 2.0' in text
                    and 'balanceroute_dropped_requests_total{reason="unauthorized"} 2.0' in text
                    and "balanceroute_output_tokens_total 60.0" in text
                    and "balanceroute_pool_wait_seconds_count 21.0" in text
                    and "balanceroute_data_planes 2.0" in text
                )

            await until_async(has_counted)
            pids = (await its.pids()).values()
            # Settings are read again, also where requests are carried; what cannot be is not.
            write(**{"request-timeout-secs": 0.001, "api-keys": ["other"]})
            its.it.process.send_signal(signal.SIGHUP)
            await its.it.said("new settings are in force")
            its.session.headers["Authorization"] = "Bearer other"
            assert not any(is_whole(end, 200) for end in await asyncio.gather(*its.ask(8, 200)))
            write(decisions=False)
            its.it.process.send_signal(signal.SIGHUP)
            await its.it.said("decisions cannot change")
            write()
            its.it.process.send_signal(signal.SIGHUP)
            await until(lambda: log.read_text().count("new settings are in force") >= 2)
            its.session.headers["Authorization"] = "Bearer k"
            # The end: who has come is served, those who wait for a slot, too.
            asked = its.ask(NUM_RANKS * NUM_SLOTS + 4, 120)
            await until(lambda: sum(its.num_running) == NUM_RANKS * NUM_SLOTS)
            its.it.process.terminate()
            await until_async(lambda: is_closed(url))
            assert all(is_whole(end, 120) for end in await asyncio.gather(*asked))
            assert 0 == await asyncio.wait_for(its.it.process.wait(), 20)
            assert all(is_gone(pid) for pid in pids)
            assert "Traceback" not in log.read_text()

    run(test(), LIMIT_S)


@pytest.mark.parametrize("what", ["port", "ranks"])
def test_what_cannot_be_started(what: str, tmp_path: Path) -> None:
    """One line and exit code 2, whichever process finds it out."""
    log = tmp_path / "log"

    async def test() -> None:
        async with group() as engine:
            port = engine.url.rsplit(":", 1)[1]
            arguments, message = {
                "port": (["--worker-urls", f"{engine.url}@0", "--port", port], "cannot listen on"),
                "ranks": (
                    ["--worker-urls", engine.url, "--port", "0"],
                    "has 4 data-parallel ranks",
                ),
            }[what]
            await expect_refusal(*arguments, "--processes", "2", message=message, log=log)

    run(test(), LIMIT_S)


@pytest.mark.parametrize(
    ("more", "is_picker", "message"),
    [
        ({"prefill_urls": ["http://b:1"]}, False, "--prefill-urls needs --processes 1"),
        ({"kubernetes_service": "a", "worker_urls": []}, False, "name --worker-urls"),
        ({"policy": "br_fleet", "barrier": False}, False, "br_fleet needs --processes 1"),
        ({"otlp_traces_endpoint": "http://b:4318/v1/traces"}, False, "needs --processes 1"),
        ({}, True, "leave --processes out"),
        ({"processes": 0}, False, "`int` >= 1"),
    ],
)
def test_what_does_not_go_together(more: dict[str, Any], is_picker: bool, message: str) -> None:
    """It is refused, with the cure."""
    flags = {"worker_urls": ["http://a:1"], "processes": 2} | more
    with pytest.raises(ConfigError, match=message):
        read_config(None, flags, is_picker=is_picker)


def test_headers_that_are_no_text(tmp_path: Path) -> None:
    """They are told to the brain as others are, and so are the requests that come with them."""
    log = tmp_path / "log"

    async def test() -> None:
        async with parts(log, step_s=0.005) as its:
            port = int(its.it.url.rsplit(":", 1)[1])
            data = msgspec.json.encode(body(3))
            head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            head += b"X-Request-Id: caf\xe9\r\nContent-Length: %d\r\n\r\n" % len(data)
            for _ in range(2):
                asked = its.ask(4, 3)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(head + data)
                assert b"[DONE]" in await reader.read()
                writer.close()
                assert all(is_whole(end, 3) for end in await asyncio.gather(*asked))
            await until_async(its.is_exact)
            assert "Traceback" not in log.read_text()

    run(test(), LIMIT_S)
