"""Whole processes: start-up with cold and warm kernels, and a week of Azure's conversations."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import spread

COMMAND = Path(sys.executable).with_name("balanceroute")
NUM_HELPS = 7
NUM_WARM_STARTS = 5
WEEK_OF_REQUESTS = 27_303_999


def measure_startup() -> dict[str, object]:
    """Return seconds for ``--help``, and for a first and later ``simulate`` of 20,000 requests."""
    simulate = ["simulate", "azure-2024-conv", "--requests", "20000", "--json"]
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "NUMBA_CACHE_DIR": folder}
        cold_s = _time(simulate, env)
        warm_s = [_time(simulate, env) for _ in range(NUM_WARM_STARTS)]
    return {
        "help_s": spread([_time(["--help"], dict(os.environ)) for _ in range(NUM_HELPS)]),
        "command": "balanceroute " + " ".join(simulate),
        "cold_s": cold_s,
        "warm_s": spread(warm_s),
    }


def measure_week() -> dict[str, object]:
    """Return time and memory of 27.3 million requests on 144 ranks, saturated, on one core."""
    arguments = ["simulate", "azure-2024-conv", "--ranks", "144", "--requests"]
    arguments += [str(WEEK_OF_REQUESTS), "--policy", "br_0,select_by=margin", "--json"]
    began_s = time.monotonic()
    process = subprocess.Popen(
        [COMMAND, *arguments],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    )
    output, _ = process.communicate()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    metrics = json.loads(output)["runs"][0]["metrics"]
    return {
        "command": "balanceroute " + " ".join(arguments),
        "whole_process_s": time.monotonic() - began_s,
        "simulation_s": metrics["wall_s"],
        "peak_memory_gib": usage.ru_maxrss / 2**20,
        "steps": metrics["num_steps"],
        "efficiency": metrics["efficiency"],
    }


def _time(arguments: list[str], env: dict[str, str]) -> float:
    began_s = time.monotonic()
    subprocess.run([COMMAND, *arguments], env=env, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began_s
