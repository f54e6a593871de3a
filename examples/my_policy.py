r"""A policy of your own in one file: round robin with a turn for long prompts and one for short.

Plain round robin evens out how many requests a rank gets, but chance decides how many of them are
long. With a turn of their own, long prompts are spread evenly too. On the command line:

    balanceroute simulate azure-2024-conv --ranks 8 --policy round_robin \
        --policy examples/my_policy.py:TwoTurns,long_tokens=2000

`python examples/my_policy.py` checks the policy's contract and compares it. Prints:

    TwoTurns keeps the contract
    round_robin: efficiency 0.903
    TwoTurns:    efficiency 0.932
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.metrics import summarize
from balanceroute.policies import Plan, Policy, check_policy, make_policy
from balanceroute.policies.base import Binding
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.workload import load


class TwoTurns:
    """Ranks in turn, with one turn for long prompts and another for short ones.

    Parameters
    ----------
    long_tokens : int
        Prompts of at least so many tokens are long.
    """

    binding: ClassVar[Binding] = "immediate"

    def __init__(self, *, long_tokens: int = 2000) -> None:
        self._long_tokens = long_tokens
        self._turns = [0, 0]

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send the oldest requests, each to the next rank of its turn that can take it."""
        sends, free_kv = view.max_sends, view.free_kv_tokens
        ranks: list[int] = []
        for prompt_tokens in pool.prompt_tokens:
            is_long = int(prompt_tokens >= self._long_tokens)
            able = np.flatnonzero((sends > 0) & (free_kv >= prompt_tokens))
            if len(able) == 0:
                break  # the others wait, so that nobody is overtaken
            ahead = (able - self._turns[is_long]) % view.num_ranks
            rank = int(able[ahead.argmin()])
            self._turns[is_long] = rank + 1
            sends[rank] -= 1
            free_kv[rank] -= prompt_tokens
            ranks.append(rank)
        return Plan.oldest(np.array(ranks, np.int64))


def efficiency(policy: Policy) -> float:
    """Return what a policy achieves on eight ranks with a saturated pool."""
    workload = load("azure-2024-conv", num_requests=6000, seed=0)
    config = SimConfig(step_time=StepTime.parse("paper", num_slots=72), num_ranks=8, num_slots=72)
    return summarize(simulate(workload, config, policy)).efficiency


def main() -> None:
    """Check the policy, then compare it with plain round robin."""
    check_policy(TwoTurns)
    print("TwoTurns keeps the contract")
    baseline = make_policy("round_robin", rng=np.random.default_rng(0))
    print(f"round_robin: efficiency {efficiency(baseline):.3f}")
    print(f"TwoTurns:    efficiency {efficiency(TwoTurns()):.3f}")


if __name__ == "__main__":
    main()
