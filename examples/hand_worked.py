"""Two ranks, four requests, every step worked by hand.

A step costs 10 ms and 1 ms per 100 tokens of the fuller rank, so 10 ms + 0.01 ms * max load.
Each rank has two slots. All requests are there from the start, and round robin deals them out:

    request   prompt   output   rank
       a        1000        3      0
       b         200        1      1
       c         600        2      0
       d         300        2      1

The router sends a and c to rank 0 and b and d to rank 1. A request holds its prompt while its first
token is computed, and one token more in each step after that.

    step   rank 0               rank 1             lasts
      0    a 1000 + c 600       b 200 + d 300      10 + 16.00 ms    b ends
      1    a 1001 + c 601       d 301              10 + 16.02 ms    c and d end
      2    a 1002               -                  10 + 10.02 ms    a ends

Rank 1 waits at the barrier for (1600 - 500), (1602 - 301) and (1002 - 0) tokens' worth of time:
11.00 + 13.01 + 10.02 = 34.03 ms. The two ranks have 2 * 72.04 ms between them, so the efficiency is
1 - 34.03 / 144.08 = 0.7638. Perfectly even loads would have taken 10 + 10.5, 10 + 9.515 and
10 + 5.01 ms: 55.025 ms, and 55.025 / 72.04 is the same 0.7638.

Run it with `python examples/hand_worked.py`. Prints:

    step 0 at  0.00 ms: 26.00 ms, loads [1600, 500], tokens 4
    step 1 at 26.00 ms: 26.02 ms, loads [1602, 301], tokens 3
    step 2 at 52.02 ms: 20.02 ms, loads [1002, 0], tokens 1
    a on rank 0: first token at 26.00 ms, finished at 72.04 ms
    b on rank 1: first token at 26.00 ms, finished at 26.00 ms
    c on rank 0: first token at 26.00 ms, finished at 52.02 ms
    d on rank 1: first token at 26.00 ms, finished at 52.02 ms
    efficiency 0.7638
"""

from __future__ import annotations

import numpy as np

from balanceroute.metrics import summarize
from balanceroute.policies import make_policy
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.types import Workload


def main() -> None:
    """Simulate the four requests and print what became of them."""
    workload = Workload(
        name="four requests",
        prompt_tokens=np.array([1000, 200, 600, 300], np.int32),
        output_tokens=np.array([3, 1, 2, 2], np.int32),
        arrival_s=np.zeros(4),
    )
    config = SimConfig(
        step_time=StepTime(name="by hand", constant_s=0.010, s_per_token=1e-5),
        num_ranks=2,
        num_slots=2,
        arrivals="trace",
    )
    records = simulate(workload, config, make_policy("round_robin", rng=np.random.default_rng(0)))
    steps, requests = records.steps, records.requests
    for step, (start_s, lasts_s, num_tokens) in enumerate(
        zip(steps.start_s, steps.duration_s, steps.num_tokens, strict=True)
    ):
        loads = records.samples.load_tokens[step].tolist()
        print(
            f"step {step} at {1000 * start_s:5.2f} ms: {1000 * lasts_s:.2f} ms, "
            f"loads {loads}, tokens {num_tokens}"
        )
    for row, name in enumerate("abcd"):
        first_ms, finished_ms = 1000 * requests.first_token_s[row], 1000 * requests.finished_s[row]
        print(
            f"{name} on rank {requests.rank[row]}: first token at {first_ms:.2f} ms, "
            f"finished at {finished_ms:.2f} ms"
        )
    print(f"efficiency {summarize(records).efficiency:.4f}")


if __name__ == "__main__":
    main()
