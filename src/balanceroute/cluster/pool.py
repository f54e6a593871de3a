"""The pool: requests the router holds back until it knows where they should go."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.traits import NO_TRAITS, request_traits
from balanceroute.cluster.view import PoolView
from balanceroute.kernels.ledger import Int64Array, RecordArray
from balanceroute.kernels.waiting import take_out, take_out_traits


class Pool:
    """Waiting requests, oldest first, as columns.

    Examples
    --------
    >>> pool = Pool()
    >>> pool.append(np.array([7, 8, 9]), np.array([100, 20, 30]), now_s=1.5)
    >>> pool.take(np.array([1]))
    array([8])
    >>> pool.view().prompt_tokens
    array([100,  30])
    """

    def __init__(self, capacity: int = 1024) -> None:
        self._ids = np.empty(capacity, np.int64)
        self._prompt_tokens = np.empty(capacity, np.int64)
        self._arrival_s = np.empty(capacity, np.float64)
        self._traits = request_traits(capacity)
        self._has_traits = False  # until then all rows of `_traits` are the same
        self._head = 0
        self._tail = 0

    def __len__(self) -> int:
        return self._tail - self._head

    def append(
        self,
        ids: Int64Array,
        prompt_tokens: NDArray[np.integer],
        now_s: float | NDArray[np.float64],
        traits: RecordArray = NO_TRAITS,
    ) -> None:
        """Add requests behind those that wait, with what `request_traits` tells of them, if any."""
        self._make_room(len(ids))
        end = self._tail + len(ids)
        self._ids[self._tail : end] = ids
        self._prompt_tokens[self._tail : end] = prompt_tokens
        self._arrival_s[self._tail : end] = now_s
        if len(traits) > 0:
            self._traits[self._tail : end] = traits
            self._has_traits = True
        self._tail = end

    def append_one(
        self, request: int, prompt_tokens: int, now_s: float, traits: tuple[int, ...]
    ) -> None:
        """Add one request as `append` does, with all fields of `REQUEST_TRAITS`, at less cost."""
        self._make_room(1)
        self._ids[self._tail] = request
        self._prompt_tokens[self._tail] = prompt_tokens
        self._arrival_s[self._tail] = now_s
        self._traits[self._tail] = traits
        self._has_traits = True
        self._tail += 1

    def view(self, limit: int | None = None) -> PoolView:
        """Return the oldest requests, at most `limit`, as a policy sees them."""
        end = self._tail if limit is None else min(self._tail, self._head + limit)
        waiting = slice(self._head, end)
        return PoolView(
            ids=self._ids[waiting],
            prompt_tokens=self._prompt_tokens[waiting],
            arrival_s=self._arrival_s[waiting],
            traits=self._traits[waiting],
        )

    def take(self, positions: Int64Array) -> Int64Array:
        """Remove the requests at `positions` of the view and return their ids in that order."""
        taken: Int64Array = self._ids[self._head + positions]
        if len(taken) == len(self):  # as most often where slots are free
            self._head = self._tail
            return taken
        ascending = np.sort(positions)
        if self._has_traits:
            take_out_traits(ascending, self._head, self._traits)
        self._head = take_out(
            ascending, self._head, self._ids, self._prompt_tokens, self._arrival_s
        )
        return taken

    def _make_room(self, num_requests: int) -> None:
        if self._tail + num_requests <= len(self._ids):
            return
        size = len(self)
        capacity = max(len(self._ids), 2 * (size + num_requests))
        for name in ("_ids", "_prompt_tokens", "_arrival_s"):
            old = getattr(self, name)
            new = np.empty(capacity, old.dtype)
            new[:size] = old[self._head : self._tail]
            setattr(self, name, new)
        if self._has_traits or capacity > len(self._traits):
            traits = request_traits(capacity)  # rows behind the tail tell nothing
            traits[:size] = self._traits[self._head : self._tail]
            self._traits = traits
        self._head, self._tail = 0, size
