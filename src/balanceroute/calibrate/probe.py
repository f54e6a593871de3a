"""Controlled load on a running engine: how long its steps take with so much on each rank."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from balanceroute.errors import ConfigError

RANK_HEADER = "X-data-parallel-rank"
EVENT_END = b"\n\n"
ASK_S = 300.0
FEWEST_STEPS = 4  # that a step time is the mean of
LONGER_TRIES = (1, 3, 9)  # times the output tokens that were asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The engine that is measured.

    Attributes
    ----------
    url : str
        Where it takes requests.
    model : str
        Its name there.
    ranks : tuple of int
        The data-parallel ranks behind the URL.
    vocabulary : int
        Token ids that a prompt may use, from 1.
    max_tokens : int or None
        Most that prompt and output may add up to; None if the engine does not say.
    """

    url: str
    model: str
    ranks: tuple[int, ...]
    vocabulary: int
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The mean time of the steps in which all requests of a probe were decoding.

    Attributes
    ----------
    num_reqs, tokens : float
        Running requests and resident tokens on each rank, the latter in the middle of the time.
    step_s : float
        Seconds.
    """

    num_reqs: float
    tokens: float
    step_s: float


async def find_target(session: aiohttp.ClientSession, url: str, model: str | None) -> Target:
    """Ask an engine what it serves and which ranks it has.

    Raises
    ------
    ConfigError
        If it does not answer as vLLM does.
    """
    url = url.rstrip("/")
    try:
        async with session.get(url + "/v1/models") as answer:
            models = msgspec.json.decode(await answer.read())["data"]
        async with session.get(url + "/metrics") as answer:
            text = await answer.text()
    except (aiohttp.ClientError, OSError, msgspec.DecodeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{url} does not answer as an OpenAI server with vLLM's metrics ({error}); "
            "give the base URL, as http://127.0.0.1:8000"
        ) from error
    ranks = sorted(
        {
            int(line.partition('engine="')[2].partition('"')[0])
            for line in text.splitlines()
            if line.startswith("vllm:num_requests_running{") and 'engine="' in line
        }
    )
    if not ranks:
        raise ConfigError(f"{url}/metrics shows no vllm:num_requests_running; is it a vLLM server?")
    name = model or str(models[0]["id"])
    # One rank behind a port is addressed by no number, whatever its number in the group.
    return Target(
        url=url,
        model=name,
        ranks=tuple(ranks) if len(ranks) > 1 else (-1,),
        vocabulary=250,
        max_tokens=models[0].get("max_model_len"),
    )


async def measure_steps(
    session: aiohttp.ClientSession,
    target: Target,
    *,
    num_reqs: int,
    prompt_tokens: int,
    output_tokens: int,
) -> Sample:
    """Run `num_reqs` requests on each rank at once, and time the steps with all of them.

    Where they missed each other, since one had ended before another began, or their tokens came
    in bursts, since something was too busy to pass them on, longer ones are tried.

    Raises
    ------
    ConfigError
        If the engine refuses a request, or they never ran all together.
    """
    room = target.max_tokens - prompt_tokens if target.max_tokens is not None else None
    for factor in LONGER_TRIES:
        tokens = factor * output_tokens
        if factor > 1 and room is not None:
            tokens = min(tokens, room)
        streams = [
            stream_times(session, target, rank, prompt_tokens, tokens, number)
            for number in range(num_reqs)
            for rank in target.ranks
        ]
        sample = sample_of(await asyncio.gather(*streams), target, num_reqs, prompt_tokens)
        if sample is not None:
            return sample
    raise ConfigError(
        f"{num_reqs} requests of {prompt_tokens} tokens on each rank did not run together for "
        f"{FEWEST_STEPS} steps, or their tokens came in bursts; ask for more --output-tokens, or "
        "fewer --requests than the engine's --max-num-seqs, while nothing else runs there"
    )


def sample_of(
    ran: Sequence[list[float]], target: Target, num_reqs: int, prompt_tokens: int
) -> Sample | None:
    """Return the mean step while all decoded, None if that was too short or not seen evenly."""
    began_s, ended_s = max(times_s[0] for times_s in ran), min(times_s[-1] for times_s in ran)
    inside = [[t for t in times_s if began_s <= t <= ended_s] for times_s in ran]
    most = max(inside, key=len)
    if len(set(most)) <= max(FEWEST_STEPS, len(most) // 2):
        return None
    middle = sum(sum(t <= (most[0] + most[-1]) / 2 for t in times_s) for times_s in ran)
    return Sample(
        num_reqs=float(num_reqs),
        tokens=num_reqs * prompt_tokens + middle / len(target.ranks),
        step_s=(most[-1] - most[0]) / (len(most) - 1),
    )


async def stream_times(
    session: aiohttp.ClientSession,
    target: Target,
    rank: int,
    prompt_tokens: int,
    output_tokens: int,
    number: int,
    *,
    times_s: list[float] | None = None,
) -> list[float]:
    """Run one request on a rank (-1: the only one), and return when its tokens came.

    Seconds of `time.perf_counter`; requests of another number have other prompts. The times are
    added to `times_s`, if that is given, as soon as they are known.

    Raises
    ------
    ConfigError
        If the engine refuses it or gives nothing.
    """
    headers = {RANK_HEADER: str(rank)} if rank >= 0 else {}
    body = _body(target, prompt_tokens, output_tokens, seed=number * 31 + rank * 7)
    times_s, rest = [] if times_s is None else times_s, b""
    timeout = aiohttp.ClientTimeout(total=ASK_S)
    url = target.url + "/v1/completions"
    async with session.post(url, json=body, headers=headers, timeout=timeout) as answer:
        if not answer.ok:
            said = (await answer.text())[:200]
            raise ConfigError(f"{target.url} refuses a probe: HTTP {answer.status}: {said}")
        async for data in answer.content.iter_any():
            now_s = time.perf_counter()
            *events, rest = (rest + data).split(EVENT_END)
            times_s += [now_s for event in events if b'"choices"' in event]
    if not times_s:
        raise ConfigError(f"{target.url} gave no tokens for a prompt of {prompt_tokens}")
    return times_s


def _body(target: Target, prompt_tokens: int, output_tokens: int, *, seed: int) -> dict[str, Any]:
    """Return a request whose prompt is unlike others, so that no prefix cache helps."""
    # A walk through the ids whose stride and start are the request's own.
    first, stride = 1 + seed % (target.vocabulary - 1), 1 + 2 * (seed % 97)
    prompt = [1 + (first + stride * i) % (target.vocabulary - 1) for i in range(prompt_tokens)]
    return {
        "model": target.model,
        "prompt": prompt,
        "max_tokens": output_tokens,
        "min_tokens": output_tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
    }
