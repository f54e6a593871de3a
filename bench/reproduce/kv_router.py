"""The cost by which Dynamo's KV router chooses, to tell its rule from its simulator."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.kernels.ledger import FREE
from balanceroute.policies import Plan
from balanceroute.policies.base import Binding
from balanceroute.policies.classic import assign_lowest

BLOCK_TOKENS = 16


class KvRouter:
    """The rank with the fewest blocks of prompts in flight, those without an output yet doubly.

    What its default settings come to where no prompt shares a prefix: blocks that a rank decodes
    with, outputs left out, plus blocks that it has to prefill.
    """

    binding: ClassVar[Binding] = "immediate"
    follows_requests: ClassVar[bool] = True

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send each request to the rank of the lowest cost; ties: lowest rank."""
        assert view.entries is not None
        handles = np.flatnonzero(view.entries["state"] != FREE)
        entries = view.entries[handles]
        prompts, ranks = entries["prompt_tokens"], entries["rank"]
        to_prefill = np.where(view.ages_tokens(handles) == 0, prompts, 0)
        costs = _cost(prompts, to_prefill)
        score = np.bincount(ranks, costs, minlength=view.num_ranks).astype(np.float64)
        growth = _cost(pool.prompt_tokens, pool.prompt_tokens)
        return Plan.oldest(assign_lowest(view, pool, score, growth))


def _cost(prompts: NDArray[np.integer], to_prefill: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return what requests cost a rank, in blocks."""
    cost: NDArray[np.float64] = np.ceil(prompts / BLOCK_TOKENS) + to_prefill / BLOCK_TOKENS
    return cost
