"""br_auto: level placement, looking ahead where it pays, with bounded waits."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.traits import NO_TRAITS
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.planning import (
    Group,
    Queue,
    Terms,
    level_ahead,
    level_present,
    spread_present,
)
from balanceroute.kernels.select import assign_in_turn
from balanceroute.kernels.yardstick import horizon_weights, moments
from balanceroute.policies.base import Binding, Plan
from balanceroute.policies.costs import CostSource
from balanceroute.policies.pace import OutputPace, WaitPace
from balanceroute.policies.projection import GRID_PARTS, Projection, trusted_classifier
from balanceroute.policies.room import Placed, Room, with_others
from balanceroute.policies.waves import Waves, WaveSettings, applies_to

NUM_HORIZONS = 6
STEP_RATIO = 0.4  # of the mean output, from one horizon to the next: the last is at two outputs
TOLERATED_RATIO = 1.25  # by which the mean output may change before the horizons follow
PLANS_PER_FUTURE = 128  # plans from one look at how far ahead it pays to look to the next
FUTURE_TURN, HORIZON_TURN = PLANS_PER_FUTURE - 3, PLANS_PER_FUTURE - 1  # of these, its two parts
PLANS_PER_LESSON = 4  # plans from one lesson for the classifier to the next
# Weight of a later horizon, against the present's, at which looking ahead starts and stops.
START_RATIO, STOP_RATIO = 0.1, 0.02
PRESENT = np.zeros(1, np.int64)
EQUAL = np.zeros(0)  # speeds of ranks


class BrAuto:
    """Keep the ranks level, now and where it pays ahead, and let nobody wait too long.

    Each free slot gets the waiting request that leaves its rank closest to the level of all ranks,
    on the assumption that the slots still free are filled with mean requests. So the pool keeps
    the mix of what arrives, and nobody has to be starved for balance. See docs/policies/br_auto.md
    for the rule.

    Parameters
    ----------
    look_ahead : bool
        Level the load ahead too, at horizons where the choice among requests decides more of it
        than of the present load. Needs requests to be followed.
    classifier : str
        Who predicts the ends of requests for that (`balanceroute.predict`).
    patience : float
        Mean waits after which the oldest request goes first, whatever the balance; above 1.
    age_weight : float
        Of one mean wait against one standard deviation of the cost of a choice; at least 0.
    exchange_passes : int
        Times that each placed request looks for the best one to change ranks with; at least 0. A
        third pass finds next to nothing.
    kv_reserve : float
        Share of each rank's KV tokens that is left to the growth of what runs, in [0, 1).
    berths : bool
        Keep ranks light for waiting requests that none has room for at the level.
    time_load : bool
        Balance the ranks' time, with the view's cost per running request and speeds; False
        balances their tokens.
    affinity : bool
        Count the prompt tokens that a preferred rank saves, while it stays below the envelope.
    waves : bool
        Where ranks prefill too, hold requests until they can prefill together, as `BrWave` does
        with its defaults.
    window : int
        Oldest waiting requests that are looked at, at least 1.
    rng, output_tokens
        Given to classifiers that need them; see `make_classifier`.
    """

    binding: ClassVar[Binding] = "pooled"
    follows_requests: ClassVar[bool] = True

    def __init__(
        self,
        *,
        look_ahead: bool = True,
        classifier: str = "survival",
        patience: float = 4.0,
        age_weight: float = 0.5,
        exchange_passes: int = 2,
        kv_reserve: float = 0.1,
        berths: bool = True,
        time_load: bool = True,
        affinity: bool = True,
        waves: bool = True,
        window: int = 2048,
        rng: np.random.Generator | None = None,
        output_tokens: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        if not patience > 1.0:
            raise ConfigError(f"patience must be above 1 mean wait, got {patience}")
        if not 0.0 <= age_weight < math.inf:
            raise ConfigError(f"age_weight must be at least 0 and finite, got {age_weight}")
        if exchange_passes < 0:
            raise ConfigError(f"exchange_passes must be at least 0, got {exchange_passes}")
        self._wait_pace, self._output_pace = WaitPace(), OutputPace()
        settings = WaveSettings(affinity=affinity, kv_reserve=kv_reserve)
        self._waves = Waves(settings, self._wait_pace) if waves else None
        self._room = Room(kv_reserve, patience)
        self.times_releases = False
        if window < 1:
            raise ConfigError(f"window must be at least 1, got {window}")
        self._patience, self._age_weight, self._window = patience, age_weight, window
        self._exchange_passes, self._has_berths = exchange_passes, berths
        self._has_time_load, self._has_affinity = time_load, affinity
        self._projection: Projection | None = None
        if look_ahead:
            ends = trusted_classifier(classifier, rng=rng, output_tokens=output_tokens)
            self._projection = Projection(ends, with_refills=True)
        self._costs = CostSource()
        self._horizons: Int64Array = np.arange(NUM_HORIZONS)
        self._has_future = self._has_new_horizons = self._looks_ahead = False
        self._num_plans = 0

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Fill the free slots so that the ranks stay level."""
        sends = view.max_sends
        pool = pool.oldest(max(self._window, sum(sends.tolist())))
        costs = self._costs.of(view) if self._waves is not None and view.num_ranks > 1 else None
        if self._waves is None or not applies_to(costs):
            self.times_releases = False
            plan = self._level(view, pool, sends)
            self._wait_pace.note(view.now_s, num_placed=len(plan), num_waiting=len(pool))
            return plan
        self.times_releases = self._waves.can_win(view.num_ranks)
        if self.times_releases:
            self._keep_up(view)
            return Plan(*self._waves.plan(view, pool, costs))
        plan = self._level(view, pool, sends)
        self._waves.note(view, pool, costs, plan.requests)
        return plan

    def _level(self, view: GroupView, pool: PoolView, sends: Int64Array) -> Plan:
        """Place requests so that the ranks stay level, all that there is room for."""
        mean_wait_s = self._wait_pace.mean_wait_s(num_waiting=len(pool), num_ranks=view.num_ranks)
        group = self._group(view, sends)
        in_room = self._room.make(view, pool, sends, group.free_kv, mean_wait_s)
        others = pool.without(in_room[0])
        placed = self._place(view, others, group, self._terms(view, mean_wait_s))
        return Plan(*with_others(in_room, placed, len(pool)))

    def _place(self, view: GroupView, pool: PoolView, group: Group, terms: Terms) -> Placed:
        gains = None
        if self._projection is not None:
            gains = self._follow(self._projection, view, pool)
        if view.num_ranks == 1:
            places = assign_in_turn(group.sends, group.free_kv, pool.prompt_tokens, 0)
            return np.arange(len(places)), places
        queue = self._queue(pool)
        if len(pool) <= int(group.sends.sum()):
            return spread_present(group, queue.prompt_tokens, queue.traits, terms.request_tokens)
        if self._projection is None or not self._looks_ahead:
            return level_present(group, queue, terms)
        if gains is None:
            gains = self._projection.gains(pool, self._projection.horizons, terms.request_tokens)
        return level_ahead(group, queue, terms, self._projection.loads(view), gains)

    def _keep_up(self, view: GroupView) -> None:
        """Miss nothing of what happens while waves plan, so as to go on when they no longer do."""
        if self._projection is None:
            return
        self._projection.note(view)
        self._num_plans += 1
        if self._num_plans % PLANS_PER_FUTURE == 0:
            self._output_pace.see(view, self._projection.teach())

    def _follow(
        self, projection: Projection, view: GroupView, pool: PoolView
    ) -> Float64Array | None:
        """Bring the projection up to date, spread over plans so that each stays short.

        Returns what the waiting requests add, if that came out on the way.
        """
        turn = self._num_plans % PLANS_PER_FUTURE
        self._num_plans += 1
        projection.note(view)
        if self._has_new_horizons:
            projection.look(view)
            self._has_new_horizons, self._looks_ahead = False, len(projection.horizons) > 1
        elif turn == FUTURE_TURN:
            self._expect_future(projection, pool)
        elif turn == HORIZON_TURN:
            return self._choose_horizons(projection, view, pool)
        elif turn % PLANS_PER_LESSON == 0:
            self._output_pace.see(view, projection.teach())
        elif self._looks_ahead or turn % PLANS_PER_LESSON == PLANS_PER_LESSON // 2:
            projection.look(view)
        return None

    def _expect_future(self, projection: Projection, pool: PoolView) -> None:
        """See what slots will hold that are refilled within the horizons."""
        mean_tokens = self._output_pace.mean_tokens
        if mean_tokens is not None and len(pool) > 0:
            self._horizons = self._horizons_for(mean_tokens)
            projection.set_future(pool, self._horizons)
            self._has_future = True

    def _choose_horizons(
        self, projection: Projection, view: GroupView, pool: PoolView
    ) -> Float64Array | None:
        """See how far ahead to look, and return what the waiting requests add until there."""
        if not self._has_future or len(pool) < 2:
            return None
        gains = projection.gains(pool, self._horizons, self._request_tokens(view))
        is_worth = self._is_ahead_worth(gains)
        chosen = self._horizons if is_worth else PRESENT
        if np.array_equal(chosen, projection.horizons):
            return gains if is_worth else None
        projection.set_horizons(chosen)
        # All requests are to be looked at again. Until the next plan has, the present counts.
        self._has_new_horizons, self._looks_ahead = True, False
        return None

    def _horizons_for(self, mean_tokens: float) -> Int64Array:
        """Return the horizons at multiples of the mean output, or those of before if they do."""
        spacing = GRID_PARTS * max(1, round(mean_tokens * STEP_RATIO / GRID_PARTS))
        low, high = sorted((spacing, int(self._horizons[1])))
        return np.arange(NUM_HORIZONS) * spacing if high > TOLERATED_RATIO * low else self._horizons

    def _is_ahead_worth(self, gains: Float64Array) -> bool:
        """Tell whether a later horizon counts, or has counted and still does a little."""
        _, spread = moments(gains)
        weights = horizon_weights(spread)
        threshold = STOP_RATIO if self._looks_ahead else START_RATIO
        return bool(weights[1:].max() > threshold * weights[0])

    def _request_tokens(self, view: GroupView) -> float:
        return view.kappa0_tokens if self._has_time_load else 0.0

    def _group(self, view: GroupView, sends: Int64Array) -> Group:
        speeds = EQUAL if view.speeds is None or not self._has_time_load else view.speeds
        num_reqs = np.ascontiguousarray(view.num_inflight_reqs)
        free_kv = self._room.free_kv_tokens(view)
        return Group(view.committed_tokens, num_reqs, speeds, sends, free_kv)

    def _queue(self, pool: PoolView) -> Queue:
        has_traits = self._has_affinity and pool.traits is not None
        return Queue(
            np.ascontiguousarray(pool.prompt_tokens),
            np.ascontiguousarray(pool.arrival_s),
            np.ascontiguousarray(pool.traits) if has_traits else NO_TRAITS,
        )

    def _terms(self, view: GroupView, mean_wait_s: float) -> Terms:
        return Terms(
            view.now_s,
            mean_wait_s,
            self._request_tokens(view),
            self._age_weight,
            self._patience,
            self._exchange_passes,
            self._has_berths,
        )
