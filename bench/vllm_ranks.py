"""The plug-in against vLLM's own rule on a real vLLM: two ranks of a tiny mixture of experts.

Runs in the environment of `make test-vllm`. Three servers are up: one that chooses by its own rule
while the plug-in counts, one in which the plug-in chooses, and one in which it levels tokens only,
without timing prefills. Each repeat sends the same requests to all of them, in turns. At the end
stand the ratios of tokens/s to the first arm's, as they are and at the same speed of the machine.

With `--step-time C,t_l,t_p` each rank also sleeps C + t_l L + t_p P seconds in every step, L its
resident tokens and P the prompt tokens that it computes, as if it had a device: then the slowest
rank sets the pace, and not how much work two cores have in all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shlex
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.machine import Probe, Stolen, describe_machine
from bench.paired import compare
from tests_vllm.checks import at_rest
from tests_vllm.load import mixed_lengths, send_all
from tests_vllm.models import make_model
from tests_vllm.servers import Server, running_server

ON = {"BALANCEROUTE_VLLM": "1"}
LOOK_S = 0.2  # from one look at the engines' own counters to the next
MIDDLE = (0.1, 0.85)  # of a run, in which both ranks are busy
LEARNED = ("balanceroute_step_cost", "balanceroute_times_prefills", "balanceroute_rank_slots")
SUMS = ("held", "barrier", "spread")  # of tokens by time, by the plug-in's ledger


def looked_at(num_ranks: int) -> list[str]:
    """Return the metrics of the engines and of the plug-in that tell how level ranks are."""
    return [
        *(f"vllm:kv_cache_usage_perc@{rank}" for rank in range(num_ranks)),
        *(f"balanceroute_{name}_token_seconds_total" for name in SUMS),
        *(f"vllm:generation_tokens_total@{rank}" for rank in range(num_ranks)),
    ]


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=96)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--arms", nargs="*", choices=list(arms()))
    parser.add_argument("--step-time", help="C,t_l,t_p of an emulated device, seconds")
    parser.add_argument("--limit", type=int, help="tokens that all ask for; they stop before")
    parser.add_argument("--server", default="", help="more arguments of vLLM's, in one text")
    parser.add_argument("--urls", nargs="*", default=[], help="ARM=PORT of those that are up")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    device = {} if given.step_time is None else {"STEP_TIME": given.step_time}
    more = shlex.split(given.server)
    with contextlib.ExitStack() as stack:
        if given.urls:
            servers = dict(known(text) for text in given.urls)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            servers = {
                arm: stack.enter_context(
                    start(folder, environment | device, given.slots, *more, num_ranks=given.ranks)
                )
                for arm, environment in arms().items()
                if given.arms is None or arm in given.arms
            }
        runs = []
        for repeat in range(given.repeats):
            for arm in in_turns(servers, repeat):
                lengths = mixed_lengths(given.requests, given.first_seed + repeat)
                run = measure(servers[arm], lengths, given)
                runs.append({"arm": arm, "seed": given.first_seed + repeat} | run)
                print(json.dumps(runs[-1]), flush=True)
    first, *others = servers
    compared = {arm: compare(runs, arm, first, "output_tokens_per_s") for arm in others}
    for arm, ratio in compared.items():
        print(f"tokens/s of {arm} over {first}: {json.dumps(ratio)}")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {name: value for name, value in vars(given).items() if name != "out"}
        found = {"runs": runs, "compared": compared}
        result = {"machine": describe_machine(), "settings": settings} | found
        given.out.write_text(json.dumps(result, indent=1) + "\n")


def in_turns(arms: Iterable[str], repeat: int) -> list[str]:
    """Return arms in an order in which each comes first as often as last: machines tire."""
    all_arms = list(arms)
    turn = repeat % len(all_arms)
    return all_arms[turn:] + all_arms[:turn]


def arms() -> dict[str, dict[str, str]]:
    """Return the environment of each server."""
    level = {"BALANCEROUTE_POLICY": "br_auto,waves=false"}
    return {"vllm": {"BALANCEROUTE_VLLM": "observe"}, "balanceroute": ON, "level": ON | level}


def known(text: str) -> tuple[str, Server]:
    """Return the name and the server of ``ARM=PORT``, which somebody else has started."""
    arm, _, port = text.partition("=")
    server = Server(SimpleNamespace(), int(port), Path("/dev/null"))  # type: ignore[arg-type]
    return arm, server


def start(
    folder: Path, environment: Mapping[str, str], slots: int, *more: str, num_ranks: int = 2
) -> contextlib.AbstractContextManager[Server]:
    """Return a server whose ranks wait for each other."""
    model = make_model(folder / "model", is_moe=True)
    arguments = ["--data-parallel-size", str(num_ranks), "--enable-expert-parallel"]
    arguments += ["--max-num-seqs", str(slots), *more]
    return running_server(folder, model, *arguments, environment=environment)


def measure(
    server: Server, lengths: list[tuple[int, int]], given: argparse.Namespace
) -> dict[str, Any]:
    """Return the figures of one run."""
    before, num_ranks = at_rest(server), given.ranks
    stolen = Stolen()
    with Probe() as probe:
        outcomes, looks, took_s = asyncio.run(_run(server, lengths, given))
    after = at_rest(server)
    whole = [
        outcome.status == 200 and outcome.output_tokens == asked
        for outcome, (_, asked) in zip(outcomes, lengths, strict=True)
    ]
    generated = sum(
        after[f"vllm:generation_tokens_total@{r}"] - before[f"vllm:generation_tokens_total@{r}"]
        for r in range(num_ranks)
    )
    return {
        "answered": sum(whole),
        "ledger_exact": generated == sum(asked for _, asked in lengths),
        "took_s": round(took_s, 2),
        "work_ms": probe.work_ms,  # how fast the machine was
        "output_tokens_per_s": round(generated / took_s, 1),
        "tpot_ms": in_ms([o.tpot_s for o in outcomes if o.output_tokens > 1]),
        "ttft_ms": in_ms([o.first_s for o in outcomes]),
        "stolen_ratio": stolen.ratio(),
        "learned": {name: value for name, value in after.items() if name.startswith(LEARNED)},
        **_middle(np.array(looks), num_ranks),
    }


def in_ms(values_s: list[float]) -> dict[str, float]:
    """Return mean, median and 99th percentile of times, milliseconds."""
    p50, p99 = np.percentile(values_s, [50, 99]) * 1e3
    mean = statistics.fmean(values_s) * 1e3
    return {"mean": round(mean, 2), "p50": round(float(p50), 2), "p99": round(float(p99), 2)}


async def _run(
    server: Server, lengths: list[tuple[int, int]], given: argparse.Namespace
) -> tuple[list[Any], list[list[float]], float]:
    looks: list[list[float]] = []
    names = looked_at(given.ranks)

    async def look() -> None:
        while True:
            metrics = await asyncio.to_thread(server.metrics)
            looks.append([*(metrics[name] for name in names), time.monotonic()])
            await asyncio.sleep(LOOK_S)

    looking, began_s = asyncio.create_task(look()), time.monotonic()
    outcomes = await send_all(server, lengths, concurrency=given.concurrency, limit=given.limit)
    took_s = time.monotonic() - began_s
    looking.cancel()
    return outcomes, looks, took_s


def _middle(looks: NDArray[np.float64], num_ranks: int) -> dict[str, float]:
    """Return how far apart the ranks were in the middle of a run.

    By the engines' own gauges at the looks, and by all steps in the ledger.
    """
    first, last = (int(part * len(looks)) for part in MIDDLE)
    usage = looks[first:last, :num_ranks]
    held, barrier, spread, *tokens, took_s = (looks[last - 1] - looks[first])[num_ranks:]
    most, mean = usage.max(axis=1).mean(), usage.mean()
    figures = {
        "middle_tokens_per_s": sum(tokens) / took_s,
        "idle_ratio": 1.0 - held / barrier,
        "spread": spread / (held / num_ranks),
        "engine_idle_ratio": 1.0 - mean / most,
        "engine_spread": (usage.max(axis=1) - usage.min(axis=1)).mean() / mean,
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


if __name__ == "__main__":
    main()
