"""What engines say of themselves for a minute, as arrays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from balanceroute.errors import ConfigError
from balanceroute.live.engine_metrics import RANK_LABELS, read_engine_states

# Counters: what they are called without the engine's prefix.
GAP_SUM, GAP_COUNT = "inter_token_latency_seconds_sum", "inter_token_latency_seconds_count"
GENERATED, PROMPTS = "generation_tokens_total", "prompt_tokens_total"
ENDED = ("request_success_total", "num_requests_total")
COUNTERS = (GAP_SUM, GAP_COUNT, GENERATED, PROMPTS)
PREFIXES = ("vllm:", "sglang:")
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Looks at a group, one row per look; all arrays but the first have shape (T, G).

    Attributes
    ----------
    time_s : float64 array, shape (T,)
        When, ascending.
    load_tokens, num_running, num_waiting : float64 array
        Resident tokens, and requests.
    gap_s, num_gaps, generated_tokens, prompt_tokens, num_ended : float64 array
        Counters: the times between tokens, and how many; output and prompt tokens; requests.
    """

    time_s: NDArray[np.float64]
    load_tokens: NDArray[np.float64]
    num_running: NDArray[np.float64]
    num_waiting: NDArray[np.float64]
    gap_s: NDArray[np.float64]
    num_gaps: NDArray[np.float64]
    generated_tokens: NDArray[np.float64]
    prompt_tokens: NDArray[np.float64]
    num_ended: NDArray[np.float64]


def read_look(text: str, url: str) -> list[list[float]]:
    """Return a row of numbers per rank of a page of metrics, in the order of `Samples`.

    Raises
    ------
    ConfigError
        If the page is no engine's, or lacks something that is needed.
    """
    states = read_engine_states(text)
    if not states:
        hint = (
            "that is the router itself; name its engines"
            if "balanceroute_" in text
            else ("vLLM shows them on its own port, SGLang with --enable-metrics")
        )
        raise ConfigError(f"{url} shows no metrics of an engine's ranks; {hint}")
    counters = _counters(text)
    rows = []
    for rank, state in states.items():
        told = counters.get(rank, {})
        missing = [name for name in COUNTERS if name not in told]
        if missing:
            raise ConfigError(
                f"{url} lacks {', '.join(missing)} of rank {rank}; without it nothing can be said. "
                "Older engines call it otherwise: update, or let `doctor` look at a trace"
            )
        if state.kv_tokens <= 0:
            raise ConfigError(f"{url} does not say how many KV tokens rank {rank} can hold")
        now = [float(state.load_tokens), float(state.num_running), float(state.num_waiting)]
        rows.append(now + [told[name] for name in COUNTERS] + [told.get("ended", 0.0)])
    return rows


def _counters(text: str) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    lines = [line for line in text.splitlines() if line.startswith(PREFIXES)]
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            name = sample.name.partition(":")[2]
            rank = next((sample.labels[key] for key in RANK_LABELS if key in sample.labels), "0")
            if not rank.isdecimal():
                continue
            told = found.setdefault(int(rank), {})
            if name in COUNTERS:
                told[name] = sample.value
            elif name in ENDED:
                told["ended"] = told.get("ended", 0.0) + sample.value
    return found


async def take_samples(urls: Sequence[str], *, duration_s: float, interval_s: float) -> Samples:
    """Look at engines again and again.

    Parameters
    ----------
    urls : sequence of str
        Of servers; each may have several ranks.
    duration_s, interval_s : float
        For how long, and how often; above 0.

    Raises
    ------
    ConfigError
        If a server cannot be reached, is no engine, or its ranks change.
    """
    rows: list[list[list[float]]] = []
    times_s: list[float] = []
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        began_s = time.monotonic()
        while True:
            times_s.append(time.monotonic())
            looks = await asyncio.gather(*(_look(session, url) for url in urls))
            rows.append([row for look in looks for row in look])
            if len(rows[-1]) != len(rows[0]):
                raise ConfigError(f"there were {len(rows[0])} ranks, and now {len(rows[-1])}")
            if time.monotonic() - began_s >= duration_s:
                break
            await asyncio.sleep(interval_s)
    columns = np.array(rows, np.float64).transpose(2, 0, 1)
    return Samples(time_s=np.array(times_s), **dict(zip(_columns(), columns, strict=True)))


def _columns() -> tuple[str, ...]:
    names = ("load_tokens", "num_running", "num_waiting", "gap_s", "num_gaps")
    return (*names, "generated_tokens", "prompt_tokens", "num_ended")


async def _look(session: aiohttp.ClientSession, url: str) -> list[list[float]]:
    page = url.rstrip("/") + "/metrics"
    try:
        async with session.get(page) as answer:
            text = await answer.text() if answer.ok else ""
            status = answer.status
    except (aiohttp.ClientError, OSError, TimeoutError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {page}: {type(error).__name__}: {error}") from error
    if not text:
        raise ConfigError(f"{page} answers HTTP {status}; name an engine as http://host:port")
    return read_look(text, url)
