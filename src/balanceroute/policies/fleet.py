"""BR-FLEET: which group, where each of the ranks in the view is a whole group."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.kernels.grouping import Groups, Waiting, assign_groups
from balanceroute.kernels.ledger import Int64Array
from balanceroute.kernels.ring import POINTS, make_ring, mixed
from balanceroute.policies.base import Binding, Plan

MEMORY_S = 10.0  # completions of about so many seconds say how fast a group is
PRIOR_S = 1.0  # and so many of the whole fleet's stand in where a group has said little
LEAST_PER_S = 1e-9  # per slot: nothing has ended anywhere yet
PREFILL_S_PER_TOKEN = 2e-5  # where it is not known: DeepSeek-V3-sized on one device, about


class BrFleet:
    """The group with the shortest predicted wait, unless a prefix or session is worth another.

    Each rank of the view stands for a group, with the slots and KV tokens of all of its ranks; the
    group's own policy chooses the rank.

    Parameters
    ----------
    excess : float
        ε: a request goes to the group of its prefix or session only while that has at most 1 + ε
        times its share of the requests in flight; above 0.
    prefill_s_per_token : float or None
        Seconds that a prompt token takes, at least 0; None: as the view's costs say, else 2e-5.
    affinity : bool
        Whether prefixes and sessions are looked at.
    """

    binding: ClassVar[Binding] = "immediate"

    def __init__(
        self,
        *,
        excess: float = 0.25,
        prefill_s_per_token: float | None = None,
        affinity: bool = True,
    ) -> None:
        if not 0.0 < excess < np.inf:
            raise ConfigError(f"excess must be a number above 0, got {excess}")
        if prefill_s_per_token is not None and not 0.0 <= prefill_s_per_token < np.inf:
            raise ConfigError(
                f"prefill_s_per_token must be a number of at least 0, got {prefill_s_per_token}"
            )
        self._excess, self._s_per_token, self._affinity = excess, prefill_s_per_token, affinity
        self._ring = make_ring(0)
        self._pace = Pace()

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Place requests one by one, oldest first."""
        if len(self._ring[0]) != POINTS * view.num_ranks:
            self._ring = make_ring(view.num_ranks)
        num_reqs = view.num_inflight_reqs
        groups = Groups(
            num_reqs.copy(),
            np.ascontiguousarray(view.num_slots),
            view.committed_tokens.astype(np.float64),
            view.kv_capacity_tokens.astype(np.float64),
            self._pace.ends_per_s(view.now_s, num_reqs, view.num_slots),
            view.max_sends,
            view.free_kv_tokens,
        )
        chosen: Int64Array = assign_groups(
            groups,
            self._waiting(pool),
            *self._ring,
            self._excess,
            self._prefill_s_per_token(view),
            view.kappa0_tokens,
        )
        self._pace.note(groups.num_reqs)
        return Plan.oldest(chosen)

    def _prefill_s_per_token(self, view: GroupView) -> float:
        if self._s_per_token is not None:
            return self._s_per_token
        known = view.costs.prefill_s_per_token if view.costs is not None else 0.0
        return known or PREFILL_S_PER_TOKEN

    def _waiting(self, pool: PoolView) -> Waiting:
        prompts = np.ascontiguousarray(pool.prompt_tokens)
        nobody = np.full(len(pool), -1, np.int64)
        if not self._affinity or pool.traits is None:
            return Waiting(prompts, nobody, nobody, np.zeros(len(pool), np.uint64))
        return Waiting(
            prompts,
            np.ascontiguousarray(pool.preferred_ranks),
            np.ascontiguousarray(pool.saved_tokens),
            np.where(pool.sessions == 0, np.uint64(0), mixed(pool.sessions)),
        )


class Pace:
    """How many requests end at each group in a second, by how those in flight become fewer.

    Examples
    --------
    Ten in flight at each of two groups, of which one has three fewer a second later:

    >>> pace, slots = Pace(), np.array([10, 10])
    >>> _ = pace.ends_per_s(0.0, np.array([10, 10]), slots)
    >>> pace.note(np.array([10, 10]))
    >>> pace.ends_per_s(1.0, np.array([7, 10]), slots)
    array([2.25, 0.75])
    """

    def __init__(self) -> None:
        self._ends = np.zeros(0)  # of the last seconds, older ones by less
        self._in_flight: Int64Array = np.zeros(0, np.int64)
        self._span_s, self._last_s = 0.0, 0.0

    def ends_per_s(
        self, now_s: float, num_reqs: Int64Array, num_slots: Int64Array
    ) -> NDArray[np.float64]:
        """Return requests per second of each group, above 0, given those in flight now."""
        if len(self._ends) != len(num_reqs):
            self._grow(num_reqs, now_s)
        kept = math.exp(-(now_s - self._last_s) / MEMORY_S)
        self._ends *= kept
        self._ends += np.maximum(self._in_flight - num_reqs, 0)
        self._span_s = kept * self._span_s + now_s - self._last_s
        self._last_s, self._in_flight = now_s, num_reqs.copy()
        sum_slots = max(int(num_slots.sum()), 1)
        per_slot = self._ends.sum() / sum_slots / self._span_s if self._span_s > 0.0 else 0.0
        share_per_s = np.maximum(num_slots, 1) * max(float(per_slot), LEAST_PER_S)
        own: NDArray[np.float64] = self._ends + PRIOR_S * share_per_s
        return own / (self._span_s + PRIOR_S)

    def note(self, num_reqs: Int64Array) -> None:
        """Note how many are in flight once a plan is carried out."""
        self._in_flight = num_reqs

    def _grow(self, num_reqs: Int64Array, now_s: float) -> None:
        """Begin anew, or with groups that have come later."""
        num_before = len(self._ends)
        if num_before == 0:
            self._last_s = now_s
        self._ends = np.append(self._ends, np.zeros(len(num_reqs) - num_before))
        self._in_flight = np.append(self._in_flight, num_reqs[num_before:])
