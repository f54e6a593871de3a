"""Compare policies from Python: what placement is worth as the request rate grows.

Chat requests come to eight ranks as a Poisson process, the same requests at three rates. Policies
are compared by the mean time per output token, by the time to first token, and by the share of
their time that the ranks wait at the barrier. At 180 a second requests queue for a slot under round
robin alone. `python examples/compare_policies.py` prints:

    requests/s  policy        TPOT ms  TTFT p99 ms  barrier wait
            60  round_robin     14.68         31.1         0.111
            60  vllm            13.83         28.6         0.076
            60  br_0            13.42         27.1         0.057
           120  round_robin     21.05         45.2         0.118
           120  vllm            20.23         44.8         0.101
           120  br_0            17.83         36.9         0.049
           180  round_robin     28.51        890.4         0.127
           180  vllm            25.96         57.8         0.104
           180  br_0            23.42         51.5         0.082
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from balanceroute.metrics import Metrics, summarize
from balanceroute.policies import make_policy
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.types import Workload
from balanceroute.workload import load, poisson_arrivals

RATES_PER_S = (60, 120, 180)
POLICIES = ("round_robin", "vllm", "br_0")
CONFIG = SimConfig(
    step_time=StepTime.parse("paper", num_slots=72),
    num_ranks=8,
    num_slots=72,
    arrivals="trace",
    warmup_steps=500,  # the group starts empty
)


def measure(workload: Workload, name: str) -> Metrics:
    """Simulate one policy."""
    policy = make_policy(name, rng=np.random.default_rng(1))
    return summarize(simulate(workload, CONFIG, policy))


def main() -> None:
    """Print a row per rate and policy."""
    requests = load("azure-2024-conv", num_requests=4000, seed=0)
    print("requests/s  policy        TPOT ms  TTFT p99 ms  barrier wait")
    for rate_per_s in RATES_PER_S:
        arrival_s = poisson_arrivals(4000, rate_per_s, np.random.default_rng(2))
        workload = replace(requests, arrival_s=arrival_s)
        for name in POLICIES:
            found = measure(workload, name)
            tpot_ms, ttft_ms = 1000 * (found.tpot_s.mean or 0), 1000 * (found.ttft_s.p99 or 0)
            print(
                f"{rate_per_s:10}  {name:12} {tpot_ms:8.2f} {ttft_ms:12.1f} "
                f"{1 - found.efficiency:13.3f}"
            )


if __name__ == "__main__":
    main()
