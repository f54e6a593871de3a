"""Room for requests that are larger than what ranks keep free."""

from __future__ import annotations

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.kernels.arrays import Int64Array
from balanceroute.kernels.placing import Ranks, Waiting, any_misfit

NOBODY: Int64Array = np.zeros(0, np.int64)


class Room:
    """Empties ranks for overdue requests that fit nowhere, half of the ranks at most.

    While smaller requests are admitted as fast as others end, no rank ever has the KV tokens free
    for one that needs many of them. So a rank gets nothing until it has.
    """

    def __init__(self) -> None:
        self._rank_of: dict[int, int] = {}  # by request, the rank that is being emptied for it

    @property
    def is_wanted(self) -> bool:
        """Tell whether a rank is being emptied."""
        return len(self._rank_of) > 0

    def make(
        self, view: GroupView, pool: PoolView, ranks: Ranks, waiting: Waiting, patience: float
    ) -> tuple[Int64Array, Int64Array]:
        """Return requests whose rank has room now, and these ranks; keep others from such ranks.

        Parameters
        ----------
        view, pool
            As the policy gets them.
        ranks : Ranks
            Before the plan. ``sends`` is set to 0 for ranks that are being emptied or filled.
        waiting : Waiting
            The same requests as `pool`; those returned are marked as taken.
        patience : float
            Mean waits after which a request is overdue.
        """
        placed: list[tuple[int, int]] = []
        before, self._rank_of = self._rank_of, {}
        if not before and not any_misfit(ranks, waiting, patience):
            return NOBODY, NOBODY
        num_overdue = int(np.searchsorted(-waiting.waits, -patience))
        misfits = self._misfits(pool, ranks, num_overdue, before)
        if misfits and not view.is_immediate:
            free_kv, is_free = view.free_kv_tokens, view.num_slots > 0
            for i in misfits:
                prompt_tokens, request = int(pool.prompt_tokens[i]), int(pool.ids[i])
                rank = before.get(request, -1)
                if rank < 0 or not is_free[rank]:
                    if ((ranks.free_kv >= prompt_tokens) & (ranks.sends > 0)).any():
                        continue
                    can_ever = is_free & (view.kv_capacity_tokens >= prompt_tokens)
                    if not can_ever.any() or 2 * np.count_nonzero(~is_free) >= view.num_ranks:
                        continue
                    rank = int(np.where(can_ever, free_kv, -1).argmax())
                if free_kv[rank] >= prompt_tokens and ranks.sends[rank] > 0:
                    placed.append((i, rank))
                    waiting.is_taken[i] = 1
                else:
                    self._rank_of[request] = rank
                is_free[rank], ranks.sends[rank] = False, 0
        requests, places = np.array(placed, np.int64).reshape(-1, 2).T
        return requests, places

    @staticmethod
    def _misfits(
        pool: PoolView, ranks: Ranks, num_overdue: int, before: dict[int, int]
    ) -> list[int]:
        """Return the overdue requests that fit nowhere now, or have a rank emptied for them."""
        most = ranks.free_kv[ranks.sends > 0].max(initial=-1)
        is_misfit = pool.prompt_tokens[:num_overdue] > most
        if before:
            is_misfit |= np.isin(pool.ids[:num_overdue], list(before))
        misfits: list[int] = np.flatnonzero(is_misfit).tolist()
        return misfits
