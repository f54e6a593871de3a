"""Baselines that look at the ranks only and take requests first come, first served."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.kernels.ledger import Int64Array
from balanceroute.kernels.select import assign_by_draw, assign_by_score, assign_in_turn
from balanceroute.policies.base import Binding, Plan


def assign_lowest(
    view: GroupView,
    pool: PoolView,
    score: NDArray[np.float64],
    growth: NDArray[np.float64],
    *,
    floor: NDArray[np.float64] | None = None,
    offset: NDArray[np.float64] | None = None,
    first_rank: int = 0,
) -> Int64Array:
    """Return ranks for the oldest requests, each where ``max(score, floor) + offset`` is lowest.

    Sending request i to a rank adds ``growth[i]`` to the rank's score.
    """
    zeros = np.zeros(view.num_ranks)
    chosen: Int64Array = assign_by_score(
        score,
        np.full(view.num_ranks, -np.inf) if floor is None else floor,
        zeros if offset is None else offset,
        growth,
        view.max_sends,
        view.free_kv_tokens,
        pool.prompt_tokens,
        first_rank,
    )
    return chosen


class RoundRobin:
    """Ranks in turn, whatever they hold."""

    binding: ClassVar[Binding] = "immediate"

    def __init__(self) -> None:
        self._turn = 0

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send each request to the next rank that can take one."""
        ranks = assign_in_turn(
            view.max_sends, view.free_kv_tokens, pool.prompt_tokens, self._turn % view.num_ranks
        )
        if len(ranks):
            self._turn = int(ranks[-1]) + 1
        return Plan.oldest(ranks)


class Random:
    """A rank drawn uniformly from those that can take a request."""

    binding: ClassVar[Binding] = "immediate"
    num_draws: ClassVar[int] = 1

    def __init__(self, *, rng: np.random.Generator) -> None:
        self._rng = rng

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Draw `num_draws` ranks for each request and take the one with the fewest requests."""
        draws = self._rng.random((len(pool), self.num_draws))
        return Plan.oldest(
            assign_by_draw(
                view.num_running_reqs + view.num_waiting_reqs,
                view.max_sends,
                view.free_kv_tokens,
                pool.prompt_tokens,
                draws,
            )
        )


class PowerOfTwo(Random):
    """The less busy, by requests, of two different ranks drawn uniformly."""

    num_draws: ClassVar[int] = 2


class LeastRequests:
    """Join the shortest queue by requests (running and queued); ties: lowest rank."""

    binding: ClassVar[Binding] = "immediate"

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send each request to the rank with the fewest requests."""
        score = (view.num_running_reqs + view.num_waiting_reqs).astype(np.float64)
        return Plan.oldest(assign_lowest(view, pool, score, np.ones(len(pool))))


class LeastTokens:
    """Join the shortest queue by KV tokens (resident and on their way); ties: lowest rank."""

    binding: ClassVar[Binding] = "immediate"

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send each request to the rank with the fewest tokens."""
        score = view.committed_tokens.astype(np.float64)
        growth = pool.prompt_tokens.astype(np.float64)
        return Plan.oldest(assign_lowest(view, pool, score, growth))


class Fcfs:
    """Fill the ranks in index order: the oldest requests go to the lowest rank with a free slot.

    Under immediate binding a rank counts as full once its requests fill its slots; when all are
    full, the rank with the fewest requests takes the next one.
    """

    binding: ClassVar[Binding] = "pooled"

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send each request to the lowest rank with a free slot."""
        num_reqs = (view.num_running_reqs + view.num_waiting_reqs).astype(np.float64)
        order = np.arange(view.num_ranks, dtype=np.float64)
        if not view.is_immediate:
            return Plan.oldest(assign_lowest(view, pool, order, np.zeros(len(pool))))
        excess = num_reqs - view.num_slots + 1.0  # above 0 once another request would queue
        ranks = assign_lowest(
            view,
            pool,
            excess * view.num_ranks,
            np.full(len(pool), float(view.num_ranks)),
            floor=np.zeros(view.num_ranks),
            offset=order / view.num_ranks,
        )
        return Plan.oldest(ranks)
