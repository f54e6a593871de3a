"""What a router sees of its group at one moment, read off the accounts in one pass."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.view import GroupView
from balanceroute.kernels.arrays import BoolArray, Int64Array, RecordArray
from balanceroute.kernels.sight import NUM_ROWS, SENDS, pass_over, see


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
    passed_over : int64 array, shape (3, G), or None
        As `GroupView.passed_over`.
    """

    seen: Int64Array
    num_able: int
    is_immediate: bool
    passed_over: Int64Array | None = None

    @property
    def max_sends(self) -> Int64Array:
        """Return how many requests a plan may send to each rank, shape (G,), as `GroupView`."""
        sends: Int64Array = self.seen[SENDS]
        return sends

    def without_leaving(self, entries: RecordArray, num_steps: int) -> Sight:
        """Return it as it will be in a few steps, as far as the requests' own limits tell.

        For late binding. `entries` are the ledger's of the same moment.

        Examples
        --------
        A request that may give two tokens has given one:

        >>> from balanceroute.cluster.ledger import Ledger
        >>> ledger, nothing = Ledger(num_ranks=1), np.zeros(1, np.int64)
        >>> handle = ledger.send(rank=0, prompt_tokens=100, max_tokens=2)
        >>> ledger.start(handle)
        >>> ledger.prefill(handle, 100)
        >>> ledger.step(0)
        >>> sight = look(ledger.ranks, np.array([1]), np.ones(1, np.bool_), nothing, nothing,
        ...              is_immediate=False)
        >>> sight.num_able, sight.without_leaving(ledger.accounts.entries, 1).num_able
        (0, 1)
        """
        seen, passed_over = self.seen.copy(), np.zeros((3, self.seen.shape[1]), np.int64)
        num_able = pass_over(seen, entries, num_steps, passed_over)
        return Sight(seen, num_able, self.is_immediate, passed_over)

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
            passed_over=self.passed_over,
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


def with_all(view: GroupView) -> GroupView:
    """Return the group as it is now, with those counted that a view passes over."""
    if view.passed_over is None:
        return view
    num_reqs, load_tokens, prompt_tokens = view.passed_over
    return replace(
        view,
        num_running_reqs=view.num_running_reqs + num_reqs,
        num_inflight_reqs=view.num_inflight_reqs + num_reqs,
        load_tokens=view.load_tokens + load_tokens,
        resident_prompt_tokens=view.resident_prompt_tokens + prompt_tokens,
        passed_over=None,
    )
