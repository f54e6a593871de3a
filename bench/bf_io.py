"""How long `bf_io` takes for a plan: ``python -m bench.bf_io`` prints the table of its page.

Processor time, which other work on the machine hardly changes, since the solver has one thread.
"""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.policies import Plan, make_policy
from balanceroute.policies.base import Binding
from balanceroute.policies.bf_io import BfIo
from balanceroute.sim.run import simulate
from bench.reproduce.runs import saturated

# Ranks, slots and waiting; trace, setting, requests.
CASES = (
    ((8, 24, 32), "azure2023_conv", "", 700),
    ((8, 24, 32), "azure2023_conv", "horizon=8", 700),
    ((8, 24, 32), "azure2023_conv", "horizon=8,classifier=oracle", 700),
    ((16, 72, 128), "azure2023_conv", "", 3000),
    ((16, 72, 128), "lengths_burstgpt_8000", "", 2000),
    ((16, 72, 128), "lengths_burstgpt_8000", "time_limit_s=60", 2000),
)


class Timed:
    """`bf_io`, with the processor time of each plan."""

    binding: ClassVar[Binding] = "pooled"

    def __init__(self, policy: BfIo) -> None:
        self.policy = policy
        self.follows_requests = policy.follows_requests
        self.plan_s: list[float] = []

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Plan as it does."""
        began_s = time.process_time()
        plan = self.policy.plan(view, pool)
        self.plan_s.append(time.process_time() - began_s)
        return plan


def main() -> None:
    """Print a row for each case."""
    for size, trace, setting, num_requests in CASES:
        experiment = saturated(trace, ("bf_io",), size, num_requests)
        _, workload = experiment.requests(0)
        spec = ",".join(part for part in ("bf_io", setting) if part)
        policy = make_policy(
            spec, rng=np.random.default_rng(0), output_tokens=workload.output_tokens
        )
        assert isinstance(policy, BfIo)
        timed = Timed(policy)
        simulate(workload, experiment.config, timed, label=spec, seed=0)
        times = [f"{value:.2g}" for value in np.percentile(timed.plan_s, [50, 90, 99, 100])]
        proven = f"{policy.num_solved} of {policy.num_solved + policy.num_unproven}"
        group = "{} × {}, {}".format(*size)
        setting = f"`{setting}`" if setting else ""
        print("| " + " | ".join((group, trace, setting, *times, proven)) + " |", flush=True)


if __name__ == "__main__":
    main()
