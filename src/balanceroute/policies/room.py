"""Room for growth, and for requests that are larger than what ranks keep free."""

from __future__ import annotations

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.kernels.arrays import Int64Array

Placed = tuple[Int64Array, Int64Array]  # positions in the pool, and their ranks
NOBODY: Placed = (np.zeros(0, np.int64), np.zeros(0, np.int64))


class Room:
    """Leaves KV tokens free for what runs to grow into, and empties ranks for what fits nowhere.

    While smaller requests are admitted as fast as others end, no rank ever has the KV tokens free
    for one that needs many of them. So a rank gets nothing until it has: for overdue requests,
    half of the ranks at most.

    Parameters
    ----------
    kv_reserve : float
        Share of each rank's KV tokens that is left to the growth of what runs, in [0, 1).
    patience : float
        Mean waits after which a request is overdue.

    Raises
    ------
    ConfigError
        If `kv_reserve` is out of range.
    """

    def __init__(self, kv_reserve: float, patience: float) -> None:
        if not 0.0 <= kv_reserve < 1.0:
            raise ConfigError(f"kv_reserve must be at least 0 and below 1, got {kv_reserve}")
        self._kv_reserve, self._patience = kv_reserve, patience
        self._rank_of: dict[int, int] = {}  # by request, the rank that is being emptied for it

    def free_kv_tokens(self, view: GroupView) -> Int64Array:
        """Return the KV tokens that a plan may fill, shape (G,): on an idle rank all."""
        free_kv = view.free_kv_tokens
        if self._kv_reserve == 0.0 or view.is_immediate:
            return free_kv
        reserve = self._kv_reserve * view.kv_capacity_tokens * (view.num_inflight_reqs > 0)
        beside: Int64Array = np.maximum(free_kv - reserve.astype(np.int64), 0)
        return beside

    def make(
        self,
        view: GroupView,
        pool: PoolView,
        sends: Int64Array,
        free_kv: Int64Array,
        mean_wait_s: float,
    ) -> Placed:
        """Return requests whose rank has room now, and these ranks; keep others from such ranks.

        Parameters
        ----------
        view, pool
            As the policy gets them.
        sends : int64 array, shape (G,)
            Requests that each rank may take. Set to 0 for ranks that are being emptied or filled.
        free_kv : int64 array, shape (G,)
            As `free_kv_tokens` returns them.
        mean_wait_s : float
            Mean wait, above 0.
        """
        due_s = view.now_s - self._patience * mean_wait_s
        num_overdue = int(np.searchsorted(pool.arrival_s, due_s))
        if view.is_immediate or (num_overdue == 0 and not self._rank_of):
            return NOBODY
        placed: list[tuple[int, int]] = []
        before, self._rank_of = self._rank_of, {}
        all_kv, is_free = view.free_kv_tokens, view.num_slots > 0
        for i in self._misfits(pool, sends, free_kv, num_overdue, before):
            prompt_tokens, request = int(pool.prompt_tokens[i]), int(pool.ids[i])
            rank = before.get(request, -1)
            if rank < 0 or not is_free[rank]:
                if ((free_kv >= prompt_tokens) & (sends > 0)).any():
                    continue
                can_ever = is_free & (view.kv_capacity_tokens >= prompt_tokens)
                if not can_ever.any() or 2 * np.count_nonzero(~is_free) >= view.num_ranks:
                    continue
                rank = int(np.where(can_ever, all_kv, -1).argmax())
            if all_kv[rank] >= prompt_tokens and sends[rank] > 0:
                placed.append((i, rank))
            else:
                self._rank_of[request] = rank
            is_free[rank], sends[rank] = False, 0
        requests, places = np.array(placed, np.int64).reshape(-1, 2).T
        return requests, places

    @staticmethod
    def _misfits(
        pool: PoolView,
        sends: Int64Array,
        free_kv: Int64Array,
        num_overdue: int,
        before: dict[int, int],
    ) -> list[int]:
        """Return the overdue requests that fit nowhere now, or have a rank emptied for them."""
        most = free_kv[sends > 0].max(initial=-1)
        is_misfit = pool.prompt_tokens[:num_overdue] > most
        if before:
            is_misfit |= np.isin(pool.ids[:num_overdue], list(before))
        misfits: list[int] = np.flatnonzero(is_misfit).tolist()
        return misfits


def with_others(in_room: Placed, placed: Placed, num_waiting: int) -> Placed:
    """Return what has room together with what was placed of the pool without it.

    Examples
    --------
    Of four requests the second has room on rank 1. Of the others, the first and the third go to 0:

    >>> in_room, placed = (np.array([1]), np.array([1])), (np.array([0, 2]), np.array([0, 0]))
    >>> with_others(in_room, placed, 4)
    (array([1, 0, 3]), array([1, 0, 0]))
    """
    if len(in_room[0]) == 0:
        return placed
    others = np.delete(np.arange(num_waiting), in_room[0])
    return np.concatenate([in_room[0], others[placed[0]]]), np.concatenate([in_room[1], placed[1]])
