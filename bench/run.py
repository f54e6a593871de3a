"""Measure everything, or the named sections, and write one JSON document.

The balance sections read real traces from ``../shared/traces`` beside the checkout and are left
out, with a word, where those are absent.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Started as a script, from anywhere: the package `bench` is the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.auto import measure_ablation, measure_lengths, measure_unsaturated
from bench.balance import measure_balance, measure_burstgpt
from bench.machine import TRACES, describe_machine
from bench.plans import measure_plans
from bench.processes import measure_startup, measure_week
from bench.wave_bound import measure_bound
from bench.wave_limits import measure_limits
from bench.waves import measure_load, measure_real, measure_saturated

SECTIONS: dict[str, Callable[[], object]] = {
    "startup": measure_startup,
    "plans": measure_plans,
    "burstgpt": measure_burstgpt,
    "balance": measure_balance,
    "lengths": measure_lengths,
    "ablation": measure_ablation,
    "unsaturated": measure_unsaturated,
    "waves_saturated": measure_saturated,
    "waves_load": measure_load,
    "waves_limits": measure_limits,
    "waves_real": measure_real,
    "waves_bound": measure_bound,
    "week": measure_week,
}
WAVES = {"waves_saturated", "waves_load", "waves_limits", "waves_real", "waves_bound"}
NEEDS_TRACES = {"burstgpt", "balance", "lengths", "ablation", "unsaturated"} | WAVES


def main() -> None:
    """Run the sections and write what they return."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/out/bench.json"))
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    arguments = parser.parse_args()
    document: dict[str, object] = {
        "schema": "balanceroute.bench.v1",
        "machine": describe_machine(),
    }
    for name in arguments.only:
        if name in NEEDS_TRACES and not TRACES.is_dir():
            print(f"{name}: left out, since {TRACES} is absent", flush=True)
            continue
        began_s = time.monotonic()
        document[name] = SECTIONS[name]()
        print(f"{name}: measured in {time.monotonic() - began_s:.0f} s", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
