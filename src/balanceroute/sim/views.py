"""What the simulated router sees: the ledger as it is, or as it was some time ago."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.events import join_events
from balanceroute.cluster.ledger import Ledger, add_sends
from balanceroute.cluster.view import GroupView
from balanceroute.kernels.ledger import Int64Array, RecordArray


class Observer:
    """Builds views of a group.

    With a staleness of S seconds the ranks' state is published every S seconds. Between two
    publications the router knows only what it has sent itself: those requests count as queued.

    Parameters
    ----------
    ledger : Ledger
        The group's true accounts.
    num_slots, kv_tokens : int64 array, shape (G,)
        Limits of the ranks.
    staleness_s : float
        S, seconds; 0 shows the accounts as they are.
    is_immediate : bool
        How the policy binds.
    costs : StepCosts
        What a step costs.
    speeds : float64 array, shape (G,), or None
        Relative speeds of the ranks; None: all are equal.
    """

    def __init__(
        self,
        ledger: Ledger,
        num_slots: Int64Array,
        kv_tokens: Int64Array,
        *,
        staleness_s: float,
        is_immediate: bool,
        costs: StepCosts,
        speeds: NDArray[np.float64] | None = None,
    ) -> None:
        self._ledger = ledger
        self._num_slots = num_slots
        self._kv_tokens = kv_tokens
        self._staleness_s = staleness_s
        self._is_immediate = is_immediate
        self._costs = costs
        self._speeds = speeds
        self._entries: RecordArray = ledger.accounts.entries
        self._events: list[RecordArray] = []  # published and not yet handed to the policy
        self._seen: RecordArray = ledger.ranks
        self.next_publication_s = np.inf
        if staleness_s > 0:
            self.publish(0.0)

    @property
    def shows_idle(self) -> bool:
        """Tell whether, as far as the router can know, no request is on any rank."""
        return not (self._seen["num_running"].any() or self._seen["num_waiting"].any())

    def publish(self, now_s: float, *, quiet_until_s: float = 0.0) -> None:
        """Show the accounts as they are now, until the next publication.

        Until `quiet_until_s`, when a step ends or a request reaches an idle rank, they change by
        the router's own sends only, so publications before it would show nothing new and are
        skipped.
        """
        self._seen = self._ledger.ranks.copy()
        if self._ledger.keeps_events:
            self._entries = self._ledger.accounts.entries.copy()
            self._events.append(self._ledger.take_events())
        period_s = self._staleness_s
        num_periods = max(np.floor(now_s / period_s) + 1, np.ceil(quiet_until_s / period_s))
        # Rounding must not put the next publication at or before this one.
        self.next_publication_s = max(
            float(num_periods * period_s), math.nextafter(now_s, math.inf)
        )

    def note_sends(self, ranks: Int64Array, prompt_tokens: Int64Array) -> None:
        """Add the router's own sends to a published state."""
        if self._staleness_s > 0:
            add_sends(self._seen, ranks, prompt_tokens)

    def view(self, now_s: float) -> GroupView:
        """Return what a policy sees at `now_s`."""
        return GroupView.of_accounts(
            self._seen,
            self._ledger.ranks,
            now_s=now_s,
            is_immediate=self._is_immediate,
            num_slots=self._num_slots,
            kv_capacity_tokens=self._kv_tokens,
            kappa0_tokens=self._costs.kappa0_tokens,
            speeds=self._speeds,
            costs=self._costs,
        )

    def view_of_requests(self, view: GroupView) -> GroupView:
        """Return a view with the requests, to be handed to the policy: its events go with it."""
        clocks = self._seen["clock"]
        if self._staleness_s == 0:
            entries, events = self._ledger.accounts.entries, self._ledger.take_events()
            return view.with_requests(entries, clocks, events)
        events = join_events(self._events)
        self._events.clear()
        return view.with_requests(self._entries, clocks, events)
