"""Load on a server: many requests at once, and what came of each."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np

from balanceroute.live.tokens import TokenMeter
from tests_vllm.servers import Server, completion, stopping

REQUEST_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a request; times in seconds, `status` 0 if it was given up."""

    status: int
    output_tokens: int
    first_s: float
    total_s: float

    @property
    def tpot_s(self) -> float:
        """Return the time per output token after the first."""
        return (self.total_s - self.first_s) / max(1, self.output_tokens - 1)


def mixed_lengths(number: int, seed: int) -> list[tuple[int, int]]:
    """Return prompt and output lengths as mixed as in conversations, scaled to a tiny server.

    Log-normal, so that a few requests hold many times what most do.
    """
    rng = np.random.default_rng(seed)
    prompts = np.clip(rng.lognormal(4.6, 1.1, number), 12, 1400).astype(int)
    outputs = np.clip(rng.lognormal(3.4, 0.9, number), 2, 400).astype(int)
    return list(zip(prompts.tolist(), outputs.tolist(), strict=True))


async def send_all(
    server: Server,
    lengths: list[tuple[int, int]],
    *,
    concurrency: int,
    streams: bool = True,
    leaves_after: int | None = None,
    ranks: list[int] | None = None,
    starts_s: list[float] | None = None,
    limit: int | None = None,
) -> list[Outcome]:
    """Send requests, so many at a time.

    Parameters
    ----------
    server : Server
        Or anything with a `url`.
    lengths : list of tuple
        Prompt and output tokens of each.
    concurrency : int
        Requests under way.
    streams : bool
        Whether answers come token by token.
    leaves_after : int or None
        Go away from each stream after so many tokens.
    ranks : list of int or None
        The rank that each asks for.
    starts_s : list of float or None
        When each is sent, seconds from now on; None: as soon as there is room.
    limit : int or None
        The limit of output that all ask for, so that nobody knows beforehand where each ends, which
        is by a stop token; None: each asks for what it is to have.
    """
    gate = asyncio.Semaphore(concurrency)
    timeout = aiohttp.ClientTimeout(total=REQUEST_S)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:

        async def send(number: int) -> Outcome:
            if starts_s is not None:
                await asyncio.sleep(starts_s[number])
            async with gate:
                settings: dict[str, Any] = {"stream": True} if streams else {}
                if streams:
                    settings["stream_options"] = {"include_usage": True}
                if limit is not None:
                    settings |= stopping(lengths[number][1], limit)
                body = completion(*lengths[number], **settings)
                headers = {"X-data-parallel-rank": str(ranks[number])} if ranks else {}
                return await _send(session, server.url, body, headers, leaves_after)

        return list(await asyncio.gather(*(send(number) for number in range(len(lengths)))))


async def _send(
    session: aiohttp.ClientSession,
    url: str,
    body: dict[str, Any],
    headers: dict[str, str],
    leaves_after: int | None,
) -> Outcome:
    meter, began_s, first_s = TokenMeter(), time.monotonic(), 0.0
    async with session.post(url + "/v1/completions", json=body, headers=headers) as answer:
        if not body.get("stream"):
            read = await answer.json()
            tokens = read.get("usage", {}).get("completion_tokens", 0)
            return _outcome(answer.status, tokens, 0.0, began_s)
        async for data in answer.content.iter_any():
            meter.feed(data)
            if meter.num_tokens > 0 and first_s == 0.0:
                first_s = time.monotonic() - began_s
            if leaves_after is not None and meter.num_tokens >= leaves_after:
                return _outcome(0, meter.num_tokens, first_s, began_s)
        has_ended = meter.is_done and not meter.has_failed and meter.usage is not None
        tokens = meter.usage.output_tokens if meter.usage is not None else 0
        return _outcome(answer.status if has_ended else 599, tokens, first_s, began_s)


def _outcome(status: int, output_tokens: int, first_s: float, began_s: float) -> Outcome:
    return Outcome(
        status=status,
        output_tokens=output_tokens,
        first_s=first_s,
        total_s=time.monotonic() - began_s,
    )
