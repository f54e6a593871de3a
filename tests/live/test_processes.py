"""`balanceroute serve --processes`: what several processes do together, and when one dies."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.live.fake_engine import run, until
from tests.live.several import (
    BRAIN,
    fetch,
    is_gone,
    name_ranks,
    parts,
    until_async,
)
from tests.live.starting import LIMIT_S, NUM_SLOTS, is_whole

pytestmark = pytest.mark.slow


def test_a_data_plane_dies_under_streams(tmp_path: Path) -> None:
    """Its own streams break off and are aborted, no other; another takes its place and port."""

    async def test() -> None:
        async with parts(tmp_path / "log") as its:
            asked = its.ask(20, 150)
            await until(lambda: sum(its.num_running) == 20)
            await until_async(its.is_exact)
            _, shown = await fetch(its.session, its.it.url + "/workers")
            (brain, *planes) = shown["processes"]
            assert 20 == sum(plane["num_requests"] for plane in planes)
            dying = max(planes, key=lambda plane: plane["num_requests"])
            os.kill(dying["pid"], signal.SIGKILL)
            num_left = 20 - dying["num_requests"]
            await until(lambda: sum(its.num_running) == num_left, within_s=2.0)
            await until_async(its.is_exact)
            await until_async(its.is_ready)
            now = await its.pids()
            assert dying["pid"] not in now.values()
            assert 3 == len(now)
            assert brain["pid"] == now[BRAIN]
            later = its.ask(12, 5)  # over both of them
            assert all(is_whole(ended, 5) for ended in await asyncio.gather(*later))
            ends = await asyncio.gather(*asked, return_exceptions=True)
            broken = [end for end in ends if isinstance(end, aiohttp.ClientError)]
            assert dying["num_requests"] == len(broken)
            assert num_left == sum(
                not isinstance(end, BaseException) and is_whole(end, 150) for end in ends
            )
            await until_async(its.is_exact)
            log = its.it.log.read_text()
            assert f"and with it {dying['num_requests']} requests" in log
            assert "Traceback" not in log

    run(test(), LIMIT_S)


def test_the_brain_dies_under_streams(tmp_path: Path) -> None:
    """No stream notices, requests go on meanwhile, and the new brain knows what is under way.

    Also which number each rank has, though the settings name them in another order since.
    """
    file = tmp_path / "router.yaml"

    async def test() -> None:
        async with parts(tmp_path / "log", file=file) as its:
            pids = await its.pids()
            name_ranks(file, its.engine.url, [3, 0, 1, 2])
            its.it.process.send_signal(signal.SIGHUP)
            await its.it.said("new settings are in force")
            await until_async(its.has_all_ranks)
            asked = its.ask(24, 250)
            await until(lambda: sum(its.num_running) == 24)
            await until_async(its.is_exact)
            os.kill(pids[BRAIN], signal.SIGKILL)
            await its.it.said("the brain is gone")
            # By the last loads; twice as many as find room, so one rank at least gets full.
            meanwhile = its.ask(4, 20) + its.ask(12, 150)
            await until(lambda: max(its.num_running) == NUM_SLOTS)
            assert not await its.is_ready()
            await until_async(its.is_ready)
            await until_async(its.is_exact)
            _, shown = await fetch(its.session, its.it.url + "/workers")
            assert 4 * [0] == [rank["num_foreign"] for rank in shown["workers"]]
            now = await its.pids()
            assert now.pop(BRAIN) != pids.pop(BRAIN)
            assert now == pids
            ends = await asyncio.gather(*asked, *meanwhile)
            lengths = 24 * [250] + 4 * [20] + 12 * [150]
            assert all(is_whole(end, num) for end, num in zip(ends, lengths, strict=True))
            ranks = its.engine.engine.ranks
            assert 40 * 20 == sum(rank.total_prompt_tokens for rank in ranks)  # each once
            assert sum(lengths) == sum(rank.total_generated_tokens for rank in ranks)
            await until_async(its.is_exact)
            assert "Traceback" not in its.it.log.read_text()

    run(test(), LIMIT_S)


def test_the_supervisor_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others serve those who have come, and end; nothing is left behind."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))

    async def test() -> None:
        async with parts(tmp_path / "log", step_s=0.005) as its:
            pids = (await its.pids()).values()
            assert 1 == len(list(folder.glob("balanceroute-*")))
            asked = its.ask(8, 120)
            await until(lambda: sum(its.num_running) == 8)
            its.it.process.kill()
            assert all(is_whole(end, 120) for end in await asyncio.gather(*asked))
            await until(lambda: all(is_gone(pid) for pid in pids), within_s=20.0)
            assert [] == list(folder.glob("balanceroute-*"))

    run(test(), LIMIT_S)
