"""Load of one kind on one URL, measured at the client."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import aiohttp
import numpy as np

HEADERS = {"Content-Type": "application/json"}
TOKEN = b'"text":'


@dataclass(frozen=True, slots=True)
class Figures:
    """What a load has measured."""

    per_s: float
    p50_ms: float
    p99_ms: float


def body_of(*, is_streamed: bool, gap_ms: float = 0.0, num_chunks: int = 16) -> bytes:
    """Return a request; its model names the pace that the mock engine keeps."""
    model = b"m-%g-%d" % (gap_ms, num_chunks) if is_streamed else b"m"
    stream = b"true" if is_streamed else b"false"
    return b'{"model":"%s","prompt":"one two three","max_tokens":16,"stream":%s}' % (model, stream)


async def closed_loop(
    url: str, *, num_connections: int, duration_s: float, is_streamed: bool
) -> Figures:
    """Keep so many requests outstanding; requests per second, and the time that each takes."""
    body, taken_s = body_of(is_streamed=is_streamed), []
    end_s = time.perf_counter() + duration_s

    async def work(session: aiohttp.ClientSession) -> None:
        while (began_s := time.perf_counter()) < end_s:
            async with session.post(url, data=body, headers=HEADERS) as answer:
                data = await answer.read()
                if answer.status != 200 or (is_streamed and data.count(TOKEN) != 16):
                    raise RuntimeError(f"HTTP {answer.status}: {data[:200]!r}")
            taken_s.append(time.perf_counter() - began_s)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(num_connections)))
    return _figures(len(taken_s) / duration_s, np.array(taken_s))


async def steady_streams(
    url: str, *, num_streams: int, gap_ms: float, duration_s: float
) -> Figures:
    """Hold so many streams open; tokens per second, and the gaps between them."""
    num_chunks = max(2, round(duration_s * 1e3 / gap_ms))
    body = body_of(is_streamed=True, gap_ms=gap_ms, num_chunks=num_chunks)
    gaps_s: list[float] = []

    async def follow(session: aiohttp.ClientSession, number: int) -> None:
        await asyncio.sleep(number * gap_ms * 1e-3 / num_streams)  # ranks in turn, not all at once
        async with session.post(url, data=body, headers=HEADERS) as answer:
            last_s = 0.0
            while data := await answer.content.readany():
                now_s, num_tokens = time.perf_counter(), data.count(TOKEN)
                if last_s > 0.0 and num_tokens > 0:
                    gaps_s.extend([now_s - last_s] + [0.0] * (num_tokens - 1))
                last_s = now_s

    began_s = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(follow(session, number) for number in range(num_streams)))
    return _figures(len(gaps_s) / (time.perf_counter() - began_s), np.array(gaps_s))


async def burst(url: str, *, num_streams: int, gap_ms: float) -> None:
    """Have so many streams of 16 tokens at the same time, once."""
    body = body_of(is_streamed=True, gap_ms=gap_ms)

    async def follow(session: aiohttp.ClientSession, number: int) -> None:
        await asyncio.sleep(number * gap_ms * 1e-3 / num_streams)
        async with session.post(url, data=body, headers=HEADERS) as answer:
            data = await answer.read()
            if answer.status != 200 or data.count(TOKEN) != 16:
                raise RuntimeError(f"HTTP {answer.status}: {data[:200]!r}")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(follow(session, number) for number in range(num_streams)))


def _figures(per_s: float, taken_s: np.ndarray) -> Figures:
    p50_s, p99_s = np.percentile(taken_s, (50, 99))
    return Figures(per_s, float(p50_s) * 1e3, float(p99_s) * 1e3)
