"""`balanceroute serve` as a process: signals, settings read again, sudden death and new start."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from balanceroute.emulator.serve import emulated_groups
from tests.emulator.serving import server_config
from tests.live.fake_engine import run, until
from tests.live.starting import (
    LIMIT_S,
    NUM_RANKS,
    NUM_SLOTS,
    ask,
    body,
    emulator_state,
    expect_refusal,
    group,
    is_whole,
    router,
    workers,
)

pytestmark = pytest.mark.slow


def test_settings_are_read_again(tmp_path: Path) -> None:
    """Ranks, policy and limits change, a stream goes on; what cannot be leaves all as it was."""
    file, log = tmp_path / "router.yaml", tmp_path / "log"

    def write(**changed: Any) -> None:
        settings = {"policy": "fcfs", "slots": NUM_SLOTS, "metrics-interval-secs": 0.1}
        settings |= {"health-check-interval-secs": 0.1}
        file.write_bytes(msgspec.yaml.encode(settings | changed))

    async def test() -> None:
        async with group() as engine, aiohttp.ClientSession() as session:
            urls = [f"{engine.url}@{rank}" for rank in range(NUM_RANKS)]
            write(**{"worker-urls": urls[:1]})
            async with router("--config", str(file), log=log) as it:
                long = asyncio.create_task(ask(session, it.url, 3000))
                await until(lambda: engine.engine.ranks[0].num_running == 1)
                # Other ranks, another policy.
                write(**{"worker-urls": urls[1:3], "policy": "least_requests"})
                it.process.send_signal(signal.SIGHUP)
                await it.said("new settings are in force")
                async with asyncio.timeout(10):
                    while [w["is_open"] for w in await workers(session, it.url)] != [0, 1, 1]:
                        await asyncio.sleep(0.01)
                both = await asyncio.gather(*(ask(session, it.url, 50) for _ in range(2)))
                assert all(is_whole(ended, 50) for ended in both)
                ranks = engine.engine.ranks
                assert [20, 20, 20, 0] == [rank.total_prompt_tokens for rank in ranks]
                async with session.get(it.url + "/metrics") as answer:
                    text = await answer.text()
                assert 'balanceroute_policy_info{policy="least_requests"} 1.0' in text
                # A limit.
                write(**{"worker-urls": urls, "request-timeout-secs": 0.001})
                it.process.send_signal(signal.SIGHUP)
                await until(lambda: it.log.read_text().count("new settings are in force") == 2)
                assert not is_whole(await ask(session, it.url, 200), 200)
                # What cannot be.
                for changed, message in (
                    ({"worker-urls": urls, "policy": "nonsense"}, "nonsense"),
                    ({"worker-urls": ["nowhere"]}, "worker URL 'nowhere'"),
                    ({"worker-urls": urls, "max-headers": 99}, "max_headers cannot change"),
                    ({"worker-urls": urls, "slotz": 3}, "slotz"),
                ):
                    write(**changed)
                    it.process.send_signal(signal.SIGHUP)
                    await it.said(message)
                assert 4 == it.log.read_text().count("the settings stay as they are")
                assert not is_whole(await ask(session, it.url, 200), 200)
                assert NUM_RANKS == len(await workers(session, it.url))
                assert "Traceback" not in it.log.read_text()
                assert is_whole(await long, 3000)

    run(test(), LIMIT_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_graceful_end(number: signal.Signals, tmp_path: Path) -> None:
    """Who has come is served to the end, nobody else is let in, and it ends with 0."""

    async def test() -> None:
        async with group() as engine, aiohttp.ClientSession() as session:
            urls = ["--worker-urls", engine.url]
            more = ["--intra-node-data-parallel-size", "4", "--slots", "1", "--policy", "fcfs"]
            async with router(*urls, *more, log=tmp_path / "log") as it:
                asked = [asyncio.create_task(ask(session, it.url, 500)) for _ in range(6)]
                await until(lambda: sum(r.num_running for r in engine.engine.ranks) == 4)
                it.process.send_signal(number)
                await asyncio.sleep(0.2)
                async with aiohttp.ClientSession() as other:
                    with pytest.raises(aiohttp.ClientConnectorError):
                        await ask(other, it.url, 3)
                # Two of them have been waiting for a slot.
                assert all(is_whole(ended, 500) for ended in await asyncio.gather(*asked))
                assert 0 == await asyncio.wait_for(it.process.wait(), 10)
                assert "Traceback" not in it.log.read_text()

    run(test(), LIMIT_S)


def test_an_end_that_does_not_wait_for_ever(tmp_path: Path) -> None:
    """Streams that are not done in time end in an error event, and nothing runs on."""
    file = tmp_path / "router.yaml"

    async def test() -> None:
        async with group() as engine, aiohttp.ClientSession() as session:
            settings = {"worker-urls": [f"{engine.url}@0"], "slots": 1, "policy": "fcfs"}
            file.write_bytes(msgspec.yaml.encode(settings | {"shutdown-timeout-secs": 0.5}))
            async with router("--config", str(file), log=tmp_path / "log") as it:
                running = asyncio.create_task(ask(session, it.url, 100_000))
                await until(lambda: engine.engine.ranks[0].num_running == 1)
                waiting = asyncio.create_task(ask(session, it.url, 3))
                await asyncio.sleep(0.2)
                it.process.terminate()
                status, events = await running
                error = msgspec.json.decode(events[-1].removeprefix(b"data: "))["error"]
                assert (200, 503) == (status, error["code"])
                status, events = await waiting
                assert 503 == status
                assert 503 == msgspec.json.decode(events[0])["error"]["code"]
                assert 0 == await asyncio.wait_for(it.process.wait(), 10)
                await until(lambda: engine.engine.ranks[0].num_running == 0)

    run(test(), LIMIT_S)


def test_a_sudden_death_under_load(tmp_path: Path) -> None:
    """A new router places requests by what is on the ranks, within two seconds of its start.

    As many run on each rank then, those counted that have never been the router's.
    """

    async def test() -> None:
        async with group() as engine, aiohttp.ClientSession() as session:
            ranks = engine.engine.ranks
            arguments = ["--worker-urls", engine.url, "--intra-node-data-parallel-size", "4"]
            arguments += ["--slots", str(NUM_SLOTS), "--policy", "br_0"]
            # Another router's requests, on one rank.
            url = engine.url + "/v1/completions"
            rank = {"X-data-parallel-rank": "0"}
            others = [
                asyncio.create_task(session.post(url, json=body(8000), headers=rank))
                for _ in range(6)
            ]
            await until(lambda: ranks[0].num_running == 6)
            async with router(*arguments, log=tmp_path / "first") as it:
                asked = [asyncio.create_task(ask(session, it.url, 8000)) for _ in range(12)]
                await until(lambda: sum(r.num_running for r in ranks) == 18)
                it.process.send_signal(signal.SIGKILL)
                await it.process.wait()
                ends = await asyncio.gather(*asked, return_exceptions=True)
                assert all(isinstance(end, aiohttp.ClientError) for end in ends)
            async with router(*arguments, log=tmp_path / "second") as it:
                began_s = time.monotonic()
                # What the engine knows now: the dead router's requests are gone, the others' run.
                assert [6, 0, 0, 0] == [r.num_running for r in ranks]
                asked = [asyncio.create_task(ask(session, it.url, 8000)) for _ in range(18)]
                await until(lambda: sum(r.num_running for r in ranks) == 24, within_s=2.0)
                assert time.monotonic() - began_s < 2.0
                state = await emulator_state(session, engine.url)
                assert [6] * 4 == [r["num_running"] for r in state]
                loads = [r["resident_tokens"] for r in state]
                # Those of rank 0 have grown for as long as the router took to start; of the
                # others no rank is ahead by two requests: they have begun at nearly one step.
                assert max(loads[1:]) - min(loads[1:]) <= 2 * max(loads[1:]) / 6
                assert loads[0] > max(loads[1:])
                for task in asked:
                    task.cancel()
            for other in others:
                (await other).close()

    run(test(), LIMIT_S)


@pytest.mark.parametrize("what", ["port", "setting", "file"])
def test_what_cannot_be_started(what: str, tmp_path: Path) -> None:
    """One line, and exit code 2."""
    log = tmp_path / "log"

    async def test() -> None:
        async with group() as engine:
            port = engine.url.rsplit(":", 1)[1]
            arguments, message = {
                "port": (["--worker-urls", f"{engine.url}@0", "--port", port], "cannot listen on"),
                "setting": (["--worker-urls", "nowhere"], "worker URL 'nowhere'"),
                "file": (["--config", str(tmp_path / "none.yaml")], "cannot read"),
            }[what]
            await expect_refusal(*arguments, message=message, log=log)

    run(test(), LIMIT_S)


def test_several_ranks_behind_a_port_that_nobody_answers(tmp_path: Path) -> None:
    """It starts, says so, and lets requests in when the engine has come up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])

    async def test() -> None:
        async with aiohttp.ClientSession() as session:
            arguments = ["--worker-urls", f"http://127.0.0.1:{port}@0", "--policy", "fcfs"]
            more = ["--health-check-interval-secs", "0.1", "--slots", "4"]
            async with router(*arguments, *more, log=tmp_path / "log") as it:
                await it.said("is away")
                assert 503 == (await ask(session, it.url, 3))[0]
                config = server_config(num_ranks=1)
                async with emulated_groups(replace(config, port=port)):
                    await it.said("is back")
                    assert is_whole(await ask(session, it.url, 3), 3)

    run(test(), LIMIT_S)
