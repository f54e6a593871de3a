"""What balanced routing inside a bundle does to r*: predicted, and simulated."""

from __future__ import annotations

from functools import partial

from balanceroute.afd.cycle import Bundle, pipeline_s
from balanceroute.afd.loads import worker_load
from balanceroute.afd.optimum import best_integer, throughput
from balanceroute.afd.plan import device_weights
from balanceroute.afd.profile import load_profile
from balanceroute.afd.routing import barrier_ratio, simulate_routed
from balanceroute.afd.slots import slot_load
from balanceroute.types import Workload
from balanceroute.workload import load
from bench.machine import TRACES

CASES = (
    ("mooncake_conversation", "deepseek-v3", "h200_sxm", 64),
    ("mooncake_conversation", "deepseek-v3", "b200_sxm", 128),
    ("servegen_deepseek-r1_00-12h", "deepseek-v3", "h200_sxm", 256),
    ("mooncake_conversation", "qwen3-30b-a3b", "h200_sxm", 32),
)
POLICIES = ("br_0", "br_auto")
SHARES = (0.6, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)  # of the predicted r*, simulated
MAX_WORKERS, NUM_CYCLES = 128, 1500
ROUTED = (
    "| {source} | {profile}, {num_slots} | {policy} | {left:.3f} | {plain} | {predicted} | "
    "{simulated} | {gain:+.1%} | {off:+.1%} |"
)
Row = dict[str, object]


def routing_rows(policies: tuple[str, ...] = POLICIES) -> list[Row]:
    """Return a row per case and policy."""
    return [_row(*case, policy) for case in CASES for policy in policies]


def routing_table(rows: list[Row]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| workload | profile, B | policy | left of the barrier | r* without | with: predicted | "
        "simulated | throughput gained | cycle off, worst |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [ROUTED.format(**row) for row in rows]
    return "\n".join(lines)


def _row(source: str, model: str, device: str, num_slots: int, policy: str) -> Row:
    workload: Workload = load(str(TRACES / f"{source}.csv.gz"))
    bundle = Bundle(profile=load_profile(model, device), num_slots=num_slots)
    weights, independent = device_weights(bundle), worker_load(slot_load(workload), num_slots)
    left = barrier_ratio(workload, bundle, policy)
    squeezed = independent.squeezed(left)
    choices = range(1, MAX_WORKERS + 1)
    plain = best_integer(bundle, weights, partial(pipeline_s, bundle, independent), choices)
    predicted = best_integer(bundle, weights, partial(pipeline_s, bundle, squeezed), choices)
    tried = sorted({max(1, round(predicted * share)) for share in SHARES} | {plain})
    cycles = {
        r: simulate_routed(workload, bundle, r, policy, num_cycles=NUM_CYCLES).run.cycle_s
        for r in tried
    }
    simulated = best_integer(bundle, weights, lambda r: cycles[int(r)], tried)
    before = throughput(bundle, weights, plain, pipeline_s(bundle, independent, plain))
    after = throughput(bundle, weights, simulated, cycles[simulated])
    return {
        "source": source,
        "profile": bundle.profile.name,
        "num_slots": num_slots,
        "policy": policy,
        "left": left,
        "plain": plain,
        "predicted": predicted,
        "simulated": simulated,
        "tried": tried,
        "gain": after / before - 1,
        "off": max((pipeline_s(bundle, squeezed, r) / cycles[r] - 1 for r in tried), key=abs),
    }
