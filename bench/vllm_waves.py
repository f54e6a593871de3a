"""Prefills on a real vLLM whose two ranks wait for each other: what they cost, and what helps.

Runs in the environment of `make test-vllm`. First requests decode on rank 1 alone while prompts are
computed on rank 0: how long do their tokens wait? Then requests with long prompts come at random,
under vLLM's own rule, its own means (small chunks, prefills in every Nth step), and the plug-in.
The first three arms, or those of `--arms`, are up together and take turns. `--step-time` gives
each rank an emulated device, as `bench.vllm_ranks` has it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from balanceroute.calibrate.probe import Target, stream_times
from bench.machine import Stolen, describe_machine
from bench.vllm_ranks import in_ms, in_turns, known, start
from tests_vllm.checks import at_rest
from tests_vllm.load import send_all
from tests_vllm.servers import Server

ON = {"BALANCEROUTE_VLLM": "1"}
ARMS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "vllm": ({}, ()),
    "vllm, every 8th step": ({}, ("--prefill-schedule-interval", "8")),
    "balanceroute": (ON, ()),
    "vllm, chunks of 512": ({}, ("--max-num-batched-tokens", "512")),
    "balanceroute without waves": (ON | {"BALANCEROUTE_POLICY": "br_auto,waves=false"}, ()),
    "balanceroute, strong waves": (ON | {"BALANCEROUTE_POLICY": "br_wave,strength=1"}, ()),
}
AT_ONCE = 3  # servers of 6 GiB each that are up by default
STALLED_ARMS = ("vllm", "vllm, chunks of 512")
NUM_SLOTS = 32
NUM_DECODING, NUM_PROMPTS = 4, 8  # streams on rank 1, and prompts on rank 0 of each length
PROMPT_TOKENS = (0, 256, 512, 1024, 1900)  # 0: none, for comparison
PAUSE_S = 0.4  # from the end of a prompt to the next one
LONG = (1200, 1800)  # prompt tokens of requests that come at random
OUTPUT_TOKENS = (20, 60)


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="*", default=list(ARMS)[:AT_ONCE], choices=list(ARMS))
    parser.add_argument("--rates", type=float, nargs="*", default=[1.0, 2.0, 3.0])
    parser.add_argument("--seconds", type=float, default=30.0, help="of arrivals, each rate")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stalls", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--step-time", help="C,t_l,t_p of an emulated device, seconds")
    parser.add_argument("--urls", nargs="*", default=[], help="ARM=PORT of those that are up")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        up = dict(known(text) for text in given.urls)
        device = {} if given.step_time is None else {"STEP_TIME": given.step_time}
        servers = up or {arm: start_arm(stack, arm, device) for arm in given.arms}
        for arm in [arm for arm in STALLED_ARMS if arm in servers and given.stalls]:
            rows += [{"arm": arm} | row for row in asyncio.run(measure_stalls(servers[arm]))]
        for seed in range(given.repeats):
            for rate_per_s, arm in itertools.product(given.rates, in_turns(servers, seed)):
                row = measure_load(servers[arm], rate_per_s, given.seconds, seed)
                rows.append({"arm": arm} | row)
                print(json.dumps(rows[-1]), flush=True)
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {"step_time": given.step_time, "seconds": given.seconds}
        result = {"machine": describe_machine(), "settings": settings, "rows": rows}
        given.out.write_text(json.dumps(result, indent=1) + "\n")


def start_arm(stack: contextlib.ExitStack, arm: str, device: dict[str, str]) -> Server:
    """Return a server of an arm that is up until the stack is left."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    environment, arguments = ARMS[arm]
    return stack.enter_context(start(folder, environment | device, NUM_SLOTS, *arguments))


async def measure_stalls(server: Server) -> list[dict[str, Any]]:
    """Return the longest times between tokens on rank 1 while rank 0 computes prompts."""
    target = Target(url=server.url, model="tiny", ranks=(0, 1), vocabulary=250)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    rows = []
    async with aiohttp.ClientSession(connector=connector) as session:
        for prompt_tokens in PROMPT_TOKENS:
            gaps_s = await _gaps_beside(session, target, prompt_tokens)
            rows.append(
                {
                    "prompt_tokens": prompt_tokens,
                    "gap_ms": round(statistics.median(gaps_s) * 1e3, 1),
                    "longest_gap_ms": round(max(gaps_s) * 1e3, 1),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


async def _gaps_beside(
    session: aiohttp.ClientSession, target: Target, prompt_tokens: int
) -> list[float]:
    """Return, for each prompt on rank 0, the longest gap that it left in a stream of rank 1."""
    decoding = asyncio.gather(
        *(stream_times(session, target, 1, 64, 900, number) for number in range(NUM_DECODING))
    )
    await asyncio.sleep(2 * PAUSE_S)
    windows: list[tuple[float, float]] = []
    for number in range(NUM_PROMPTS):
        began_s = time.perf_counter()
        if prompt_tokens > 0:
            await stream_times(session, target, 0, prompt_tokens, 1, 100 + number)
        await asyncio.sleep(PAUSE_S)
        windows.append((began_s, time.perf_counter()))
    streams = await decoding
    longest = []
    for began_s, ended_s in windows:
        gaps = [
            later - earlier
            for times_s in streams
            for earlier, later in itertools.pairwise(times_s)
            if began_s <= later and earlier <= ended_s
        ]
        longest += [max(gaps)] if gaps else []
    return longest


def measure_load(server: Server, rate_per_s: float, seconds: float, seed: int) -> dict[str, Any]:
    """Return the times of requests that come at random, the same for all that are measured."""
    rng = np.random.default_rng((seed, round(1000 * rate_per_s)))
    number = max(2, round(rate_per_s * seconds))
    starts_s = np.cumsum(rng.exponential(1.0 / rate_per_s, number)).tolist()
    prompts, outputs = rng.integers(*LONG, number), rng.integers(*OUTPUT_TOKENS, number)
    lengths = list(zip(prompts.tolist(), outputs.tolist(), strict=True))
    at_rest(server)
    stolen = Stolen()
    outcomes = asyncio.run(send_all(server, lengths, concurrency=number, starts_s=starts_s))
    return {
        "rate_per_s": rate_per_s,
        "seed": seed,
        "answered": sum(outcome.status == 200 for outcome in outcomes),
        "requests": number,
        "tpot_ms": in_ms([outcome.tpot_s for outcome in outcomes]),
        "ttft_ms": in_ms([outcome.first_s for outcome in outcomes]),
        "stolen_ratio": stolen.ratio(),
    }


if __name__ == "__main__":
    main()
