"""The endpoint picker behind the real Envoy, in front of emulated ranks: ``make test-envoy``."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from balanceroute.emulator.group import EmulatedGroup
from balanceroute.emulator.serve import emulated_groups
from bench.http.envoy import envoy_command, envoy_config, picker_command
from bench.http.run import free_port
from tests.emulator.serving import server_config
from tests.live.fake_engine import run, until

BINARY = os.environ.get("BALANCEROUTE_ENVOY", "")
LIMIT_S = 150.0  # the first picker compiles
NUM_SLOTS = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BINARY, reason="no Envoy: run `make test-envoy`, which fetches one"),
]


class Stack:
    """Emulated ranks, a picker and Envoy, of which the latter two can be killed and started."""

    def __init__(
        self,
        engine: EmulatedGroup,
        folder: Path,
        flags: list[str],
        *,
        more_ports: Sequence[int],
        is_local: bool,
    ) -> None:
        self.engine, self._folder, self._flags = engine, folder, flags
        self.port, self._grpc_port = free_port(), free_port()
        self._picker: int | Path = self._grpc_port  # where Envoy asks
        if is_local:
            self._picker = folder / "picker.sock"
            self._flags += ["--grpc-socket", str(self._picker)]
        self.url = f"http://127.0.0.1:{self.port}"
        self._ports = [int(url.rsplit(":", 1)[1]) for url in engine.urls]
        self._envoy_ports = [*self._ports, *more_ports]
        self.picker: asyncio.subprocess.Process | None = None
        self.envoy: asyncio.subprocess.Process | None = None
        self.picker_url = ""

    async def start_picker(self) -> None:
        """Start the picker, and wait until it serves."""
        flags = ["--policy", "br_0", "--slots", str(NUM_SLOTS), *self._flags]
        with (self._folder / "picker.log").open("ab") as log:
            self.picker = await asyncio.create_subprocess_exec(
                *picker_command(self._ports, self._grpc_port, *flags),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self.picker.stdout is not None
        line = (await self.picker.stdout.readline()).decode()
        assert "grpc://" in line, (self._folder / "picker.log").read_text()
        self.picker_url = line.split()[-1]

    async def start_envoy(self) -> None:
        """Start Envoy, and wait until it serves."""
        config = envoy_config(
            port=self.port, engine_ports=self._envoy_ports, picker=self._picker, modes={}
        )
        file = self._folder / "envoy.json"
        file.write_bytes(config)
        with (self._folder / "envoy.log").open("ab") as log:
            self.envoy = await asyncio.create_subprocess_exec(
                *envoy_command(Path(BINARY), file), stdout=log, stderr=log
            )
        async with aiohttp.ClientSession() as session:
            for _ in range(200):
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(self.url + "/health") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.05)
        raise AssertionError((self._folder / "envoy.log").read_text())

    async def stop(self) -> None:
        """Kill what runs."""
        for process in (self.picker, self.envoy):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()

    async def ask(
        self, session: aiohttp.ClientSession, num_tokens: int, *, is_streamed: bool
    ) -> str:
        """Send a request; return what has become of it."""
        body: dict[str, Any] = {"prompt": [1] * 20, "max_tokens": num_tokens, "ignore_eos": True}
        try:
            async with session.post(
                self.url + "/v1/completions", json=body | {"stream": is_streamed}
            ) as answer:
                data = await answer.read()
        except aiohttp.ClientError:
            return "broken"
        if answer.status != 200:
            return f"HTTP {answer.status}"
        if is_streamed:
            is_whole = data.count(b'"text":') == num_tokens and data.endswith(b"data: [DONE]\n\n")
        else:
            is_whole = data.count(b" a") == num_tokens and data.endswith(b"}")
        return "whole" if is_whole else "cut"

    async def booked(self) -> dict[str, Any]:
        """Return what the picker says of its ranks."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.picker_url + "/workers") as answer,
        ):
            told: dict[str, Any] = await answer.json()
            return told

    async def expect_nothing_left(self) -> None:
        """Wait until neither the ranks nor the picker hold anything."""
        await until(lambda: not any(rank.num_running for rank in self.engine.engine.ranks))
        for _ in range(100):
            told = await self.booked()
            if told["num_waiting"] == sum(each["num_inflight"] for each in told["workers"]) == 0:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(told)


@contextlib.asynccontextmanager
async def stack(
    folder: Path,
    *flags: str,
    more_ports: Sequence[int] = (),
    is_local: bool = False,
    **settings: Any,
) -> AsyncIterator[Stack]:
    """Run all of it."""
    config = server_config(num_slots=NUM_SLOTS, **{"has_port_per_rank": True} | settings)
    async with emulated_groups(config) as (engine,):
        its = Stack(engine, folder, list(flags), more_ports=more_ports, is_local=is_local)
        try:
            await its.start_picker()
            await its.start_envoy()
            yield its
        finally:
            await its.stop()


@pytest.mark.parametrize(("is_streamed", "is_local"), [(True, False), (False, True)])
def test_requests_wait_for_slots(tmp_path: Path, is_streamed: bool, is_local: bool) -> None:
    """Five times as many as there are slots are whole; they wait at the picker, not on ranks."""

    async def test() -> None:
        async with (
            stack(tmp_path, is_local=is_local) as its,
            aiohttp.ClientSession() as session,
        ):
            asked = [
                asyncio.create_task(its.ask(session, 60, is_streamed=is_streamed))
                for _ in range(40)
            ]
            ranks = its.engine.engine.ranks
            most_queued = 0
            while not all(task.done() for task in asked):
                most_queued = max(most_queued, *(rank.num_waiting for rank in ranks))
                await asyncio.sleep(0.01)
            assert {"whole": 40} == Counter(task.result() for task in asked)
            # What is sent waits for the next step of its rank, and nothing more; dealt out at once,
            # sixteen would wait on each.
            assert most_queued <= NUM_SLOTS
            await its.expect_nothing_left()

    run(test(), LIMIT_S)


def test_ranks_behind_one_port(tmp_path: Path) -> None:
    """Envoy passes the rank's number on, and the engine obeys."""

    async def test() -> None:
        flags = ["--intra-node-data-parallel-size", "2"]
        async with (
            stack(tmp_path, *flags, has_port_per_rank=False) as its,
            aiohttp.ClientSession() as session,
        ):
            asked = [asyncio.create_task(its.ask(session, 400, is_streamed=True)) for _ in range(8)]
            ranks = its.engine.engine.ranks
            await until(lambda: [4, 4] == [rank.num_running for rank in ranks], within_s=20.0)
            assert {"whole": 8} == Counter(await asyncio.gather(*asked))
            await its.expect_nothing_left()

    run(test(), LIMIT_S)


def test_a_client_that_goes_away(tmp_path: Path) -> None:
    """Its slot is free at once, and the next one has it."""

    async def test() -> None:
        async with stack(tmp_path) as its, aiohttp.ClientSession() as session:
            asked = [
                asyncio.create_task(its.ask(session, 100_000, is_streamed=True)) for _ in range(8)
            ]
            ranks = its.engine.engine.ranks
            await until(lambda: sum(rank.num_running for rank in ranks) == 8, within_s=20.0)
            late = asyncio.create_task(its.ask(session, 3, is_streamed=True))
            await asyncio.sleep(0.2)
            assert not late.done()
            asked[0].cancel()
            assert "whole" == await late
            for task in asked:
                task.cancel()
            await its.expect_nothing_left()

    run(test(), LIMIT_S)


def test_an_endpoint_that_is_gone(tmp_path: Path) -> None:
    """Envoy tries the fall-backs that the picker has named; without them a third would fail."""
    settings = tmp_path / "picker.yaml"
    settings.write_text("health-failure-threshold: 1000\n")  # so that it stays among the choices

    async def test() -> None:
        dead_port = free_port()
        flags = ["--no-barrier", "--config", str(settings)]
        flags += ["--worker-urls", f"http://127.0.0.1:{dead_port}"]
        async with (
            stack(tmp_path, *flags, more_ports=[dead_port]) as its,
            aiohttp.ClientSession() as session,
        ):
            asked = [its.ask(session, 20, is_streamed=True) for _ in range(24)]
            assert {"whole": 24} == Counter(await asyncio.gather(*asked))
            await its.expect_nothing_left()
            async with session.get(its.picker_url + "/metrics") as answer:
                lines = (await answer.text()).splitlines()
            assert "balanceroute_cut_streams_total 0.0" in lines

    run(test(), LIMIT_S)


@pytest.mark.parametrize("what", ["picker", "envoy"])
def test_a_restart_under_load(tmp_path: Path, what: str) -> None:
    """Killed and started again while requests come: others than those in flight are whole.

    Requests in flight end in an error that the client can see, none is answered twice, and when all
    is over nothing is booked and nothing runs.
    """

    async def test() -> None:
        async with stack(tmp_path) as its:
            ends: list[tuple[float, float, str]] = []
            loop = asyncio.get_running_loop()
            is_over = False

            async def client(number: int) -> None:
                async with aiohttp.ClientSession() as session:
                    while not is_over:
                        began_s = loop.time()
                        end = await its.ask(session, 30, is_streamed=number % 2 == 0)
                        ends.append((began_s, loop.time(), end))
                        if end != "whole":
                            await asyncio.sleep(0.05)

            clients = [asyncio.create_task(client(number)) for number in range(12)]
            await until(lambda: len(ends) > 30, within_s=20.0)
            process = its.picker if what == "picker" else its.envoy
            assert process is not None
            killed_s = loop.time()
            process.kill()
            await process.wait()
            await (its.start_picker() if what == "picker" else its.start_envoy())
            await asyncio.sleep(1.0)  # Envoy connects again
            back_s, num_before = loop.time(), len(ends)
            await until(lambda: len(ends) > num_before + 60, within_s=20.0)
            is_over = True
            await asyncio.gather(*clients)
            before = Counter(end for _, end_s, end in ends if end_s < killed_s)
            after = Counter(end for began_s, _, end in ends if began_s > back_s)
            assert {"whole"} == set(before), before
            assert {"whole"} == set(after), after
            between = Counter(end for began_s, end_s, end in ends if end_s >= killed_s > began_s)
            # At most those that were in flight; a stream that is cut is one that says so.
            assert sum(between.values()) <= 12
            assert set(between) <= {"whole", "broken", "HTTP 500", "HTTP 503", "HTTP 504"}, between
            await its.expect_nothing_left()

    run(test(), LIMIT_S)
