"""What a step costs: each rank's own work, the work they share, and how busy both keep them."""

from __future__ import annotations

from typing import NamedTuple

from balanceroute.kernels.jit import bare_kernel
from balanceroute.kernels.ledger import RecordArray
from balanceroute.kernels.load import USAGE_EXPONENT, rank_work_s
from balanceroute.kernels.scheduler import Group


class StepCost(NamedTuple):
    """What a step costs; `balanceroute.cluster.costs.StepCosts` says what each figure means."""

    constant_s: float
    s_per_token: float
    kappa0_tokens: float
    prefill_s_per_token: float
    prefill_shared: float
    mixed_step_s: float
    budget_tokens: int


@bare_kernel
def own_work_s(group: Group, cost: StepCost, rank: int) -> float:
    """Return what a rank's own requests add to the step that begins."""
    there, engine = group.accounts.ranks[rank], group.engines[rank]
    return rank_work_s(
        there.load_tokens,
        there.num_running,
        engine.prefilled_tokens,
        cost.constant_s,
        cost.s_per_token,
        cost.kappa0_tokens,
        cost.prefill_s_per_token,
        cost.prefill_shared,
        cost.mixed_step_s,
        engine.speed,
    )


@bare_kernel
def share_prefill(engines: RecordArray, cost: StepCost, first_rank: int, num_ranks: int) -> float:
    """Give each rank its part of the prefill work that the ranks do together, and return it."""
    if cost.prefill_shared == 0.0:
        return 0.0
    num_tokens = 0
    for g in range(first_rank, first_rank + num_ranks):
        num_tokens += engines[g].prefilled_tokens
    shared_s = cost.prefill_shared * cost.prefill_s_per_token * num_tokens / num_ranks
    for g in range(first_rank, first_rank + num_ranks):
        engines[g].work_s += shared_s
    return shared_s


@bare_kernel
def sum_usage_pow(engines: RecordArray, first_rank: int, num_ranks: int, slowest_s: float) -> float:
    """Return the sum over ranks of (work / slowest rank's work) ** 0.7, for the energy model."""
    total = 0.0
    if slowest_s > 0.0:
        for g in range(first_rank, first_rank + num_ranks):
            total += max(0.0, engines[g].work_s / slowest_s) ** USAGE_EXPONENT
    return total
