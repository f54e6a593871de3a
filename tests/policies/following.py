"""A policy that follows requests and checks what it is told of them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.kernels.ledger import (
    DECODING,
    ENDED,
    FREE,
    PREEMPTED,
    REQUEST_EVENT,
    SENT,
    WAITING,
    RecordArray,
)
from balanceroute.policies.base import Binding, Plan, Policy
from balanceroute.policies.classic import LeastTokens

COPIED = ("request", "rank", "prompt_tokens", "client", "max_tokens", "prompt_hash")


class Following:
    """Plans as another policy does, replays all events, and sees that the entries agree.

    Parameters
    ----------
    policy : Policy
        Who plans.
    """

    binding: ClassVar[Binding] = "pooled"
    follows_requests: ClassVar[bool] = True

    def __init__(self, policy: Policy | None = None) -> None:
        self._policy = policy or LeastTokens()
        self.live: dict[int, RecordArray] = {}  # by handle, the last event of each
        self.now_s: list[float] = []  # of each call
        self.events: list[RecordArray] = []  # of each call
        self.ages_tokens: list[dict[int, int]] = []  # of each call, by request

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Take in what happened, check it, and let the other policy choose."""
        self.now_s.append(view.now_s)
        self.events.append(view.events.copy())
        for event in view.events:
            self._replay(event)
        self._compare(view)
        return self._policy.plan(view, pool)

    @property
    def told(self) -> RecordArray:
        """Return all events so far."""
        return np.concatenate([np.zeros(0, REQUEST_EVENT), *self.events])

    def _replay(self, event: RecordArray) -> None:
        """Apply one event; nothing happens to a request that is not in flight."""
        handle, kind = int(event["handle"]), event["kind"]
        if kind == SENT:
            assert handle not in self.live
            assert event["generated_tokens"] == 0
            self.live[handle] = event
            return
        assert kind in (ENDED, PREEMPTED)
        before = self.live.pop(handle)
        assert all(before[name] == event[name] for name in COPIED)
        assert before["generated_tokens"] <= event["generated_tokens"]
        if kind == PREEMPTED:
            self.live[handle] = event

    def _compare(self, view: GroupView) -> None:
        """See that the entries show the requests that the events tell of, and the ranks' sums."""
        entries, clocks = view.entries, view.clocks
        assert entries is not None
        assert clocks is not None
        handles = np.flatnonzero(entries["state"] != FREE)
        assert sorted(self.live) == handles.tolist()
        ages = view.ages_tokens(handles)
        for handle, age in zip(handles.tolist(), ages.tolist(), strict=True):
            event = self.live[handle]
            assert all(event[name] == entries[handle][name] for name in COPIED)
            assert event["generated_tokens"] <= age
        self.ages_tokens.append(dict(zip(entries["request"][handles], ages, strict=True)))
        here = entries[handles]
        is_running = here["state"] != WAITING
        running = np.bincount(here["rank"][is_running], minlength=view.num_ranks)
        assert running.tolist() == view.num_running_reqs.tolist()
        resident = here["base_tokens"] + np.where(
            here["state"] == DECODING, clocks[here["rank"]], 0
        )
        load = np.zeros(view.num_ranks, np.int64)
        np.add.at(load, here["rank"], resident)
        assert load.tolist() == view.load_tokens.tolist()
