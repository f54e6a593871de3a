"""Measure the decision log: bytes, and the time that its replay takes.

``python -m bench.decision_log`` keeps an emulated group full in virtual time, logs every plan, and
replays the log in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.emulator.config import EngineConfig
from balanceroute.live.decision_file import full_files, read_lines
from balanceroute.live.decision_log import DecisionLog
from balanceroute.policies import make_policy
from bench.machine import describe_machine
from tests.live.virtual import Virtual

COSTS = StepCosts(constant_s=0.01, s_per_token=1e-7, prefill_s_per_token=2e-5, budget_tokens=2048)
NUM_RANKS, NUM_SLOTS, NUM_WAITING = 8, 72, 64
MEAN_PROMPT_TOKENS = 1000
COMMAND = Path(sys.executable).with_name("balanceroute")


def write_log(path: Path, policy: str, num_plans: int, mean_output_tokens: int) -> None:
    """Log so many plans of a group that is kept full."""
    rng = np.random.default_rng(1)
    num_requests = 2 * num_plans * NUM_RANKS * NUM_SLOTS // mean_output_tokens + 10_000
    lengths = np.column_stack(
        [
            rng.geometric(1 / MEAN_PROMPT_TOKENS, num_requests),
            rng.geometric(1 / mean_output_tokens, num_requests),
        ]
    )
    config = EngineConfig(costs=COSTS, num_ranks=NUM_RANKS, num_slots=NUM_SLOTS, block_size=1)
    virtual = Virtual(config, lengths, policy=policy, num_waiting=NUM_WAITING)
    log = DecisionLog(path, group=virtual.group, max_bytes=64 << 20, max_files=0, costs=COSTS)
    log.note_policy(policy, 0)
    virtual.group.replace_policy(make_policy(policy, rng=np.random.default_rng((0, 2))))
    for step in virtual.steps():
        if step == num_plans:
            break
    log.close()


def show_bytes(path: Path) -> int:
    """Print what a plan and a request take; return how many plans there are."""
    files = [*(file for _, file in full_files(path)), path]
    num_bytes, num_plans, num_placed, of_part = 0, 0, 0, Counter[str]()
    for file in files:
        num_bytes += file.stat().st_size
        for raw in read_lines(file):
            line = msgspec.json.decode(raw)
            if "plan" in line:
                num_plans, num_placed = num_plans + 1, num_placed + len(line["plan"][0])
                of_part.update(
                    {name: len(msgspec.json.encode(part)) for name, part in line.items()}
                )
    print(
        f"{num_plans:,} plans place {num_placed:,} requests, {num_placed / num_plans:.1f} each, "
        f"in {num_bytes:,} bytes: {num_bytes / num_plans:.0f} a plan, "
        f"{num_bytes / num_placed:.0f} a request"
    )
    parts = (f"{name} {total / num_plans:.0f}" for name, total in of_part.most_common(6))
    print("uncompressed bytes a plan:", ", ".join(parts))
    return num_plans


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=100_000)
    parser.add_argument("--policy", default="br_auto")
    parser.add_argument("--output-tokens", type=int, default=200, help="mean of a request")
    parser.add_argument("--keep", type=Path, default=None, help="log to write, or to use again")
    chosen = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        path = chosen.keep or Path(folder) / "decisions.gz"
        if not path.exists():
            began_s = time.process_time()
            write_log(path, chosen.policy, chosen.plans, chosen.output_tokens)
            print(f"serving and logging took {time.process_time() - began_s:.0f} CPU seconds")
        num_plans = show_bytes(path)
        began_s, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([COMMAND, "replay", path], check=True)
        after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began_s
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(
            f"replayed in {wall_s:.1f} s, {cpu_s:.1f} CPU seconds with the start: "
            f"{1e6 * cpu_s / num_plans:.0f} microseconds a plan"
        )


if __name__ == "__main__":
    main()
