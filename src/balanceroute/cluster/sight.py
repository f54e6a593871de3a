"""What a router sees of its group at one moment, read off the accounts in one pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.view import GroupView
from balanceroute.kernels.arrays import BoolArray, Int64Array, RecordArray
from balanceroute.kernels.sight import NUM_ROWS, SENDS, see


class Sight(NamedTuple):
    """The ranks at one moment.

    Attributes
    ----------
    seen : int64 array, shape (NUM_ROWS, G)
        As of `kernels.sight`.
    num_able : int
        Ranks that may get something.
    is_immediate : bool
        Whether ranks queue what they have no slot for.
    """

    seen: Int64Array
    num_able: int
    is_immediate: bool

    @property
    def max_sends(self) -> Int64Array:
        """Return how many requests a plan may send to each rank, shape (G,), as `GroupView`."""
        sends: Int64Array = self.seen[SENDS]
        return sends

    def view(
        self,
        *,
        now_s: float,
        kv_capacity_tokens: Int64Array,
        costs: StepCosts | None,
        entries: RecordArray | None,
        events: RecordArray,
    ) -> GroupView:
        """Return the view that a policy is handed, with what else it shows."""
        slots, loads, due, prompts, generated, running, waiting, inflight, clocks, _ = self.seen
        return GroupView(
            now_s=now_s,
            is_immediate=self.is_immediate,
            num_slots=slots,
            kv_capacity_tokens=kv_capacity_tokens,
            load_tokens=loads,
            due_tokens=due,
            resident_prompt_tokens=prompts,
            generated_tokens=generated,
            num_running_reqs=running,
            num_waiting_reqs=waiting,
            num_inflight_reqs=inflight,
            kappa0_tokens=costs.kappa0_tokens if costs is not None else 0.0,
            costs=costs,
            entries=entries,
            clocks=None if entries is None else clocks,
            events=events,
        )


def look(
    ranks: RecordArray,
    num_slots: Int64Array,
    is_open: BoolArray,
    foreign_reqs: Int64Array,
    foreign_tokens: Int64Array,
    *,
    is_immediate: bool,
) -> Sight:
    """Look at a group: a ledger's `ranks`, and the rest as of `kernels.sight.see`.

    Examples
    --------
    >>> from balanceroute.cluster.ledger import Ledger
    >>> ledger, nothing = Ledger(num_ranks=2), np.zeros(2, np.int64)
    >>> handle = ledger.send(rank=1, prompt_tokens=100)
    >>> sight = look(ledger.ranks, np.array([3, 1]), np.ones(2, np.bool_), nothing, nothing,
    ...              is_immediate=False)
    >>> sight.num_able, sight.max_sends
    (1, array([3, 0]))
    """
    seen = np.empty((NUM_ROWS, len(ranks)), np.int64)
    immediate = 1 if is_immediate else 0
    num_able = see(seen, ranks, num_slots, is_open, foreign_reqs, foreign_tokens, immediate)
    return Sight(seen, num_able, is_immediate)
