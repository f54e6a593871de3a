"""Waves: when to release requests to ranks that prefill and decode in the same steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.kernels.level import plan_below_envelope
from balanceroute.kernels.placing import NONE, Ranks, Waiting, keep_reserve
from balanceroute.kernels.release import Dealt, Terms, Work, now_and_later, release, work_of
from balanceroute.kernels.spread import plan_spread
from balanceroute.policies.holding import FreeSlots, Held, ReleasePace, StepPace
from balanceroute.policies.pace import WaitPace
from balanceroute.policies.room import Room

# Strength of holding while slots are short, and the least otherwise.
SHORT_STRENGTH, LEAST_STRENGTH = 1.0, 0.035
SHORT_FACTOR = 2.0  # of `hold_prefills` while slots are short
PLANS_PER_CORRECTION, CORRECTION = 32, 1.15  # of the strength, towards a target
WEAKEST, STRONGEST = 0.01, 10.0
# Free slots for which requests are chosen, and pairs of a slot and a request that are looked at.
MAX_CHOICES, MAX_PAIRS = 256, 32_768

NOTHING: Int64Array = np.zeros(0, np.int64)
NO_TIMES: Float64Array = np.zeros(0)

Placed = tuple[Int64Array, Int64Array]  # positions in the pool, and their ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveSettings:
    """How waves hold and deal; see `BrWave`, which checks them."""

    strength: float | None = None
    hold_s: float = 0.3
    hold_prefills: float = 3.0
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    patience: float = 1.5
    age_weight: float = 0.5
    exchange_passes: int = 2
    kv_reserve: float = 0.1
    latency_steps: int = 0
    affinity: bool = True

    def __post_init__(self) -> None:
        for name in ("hold_s", "hold_prefills", "age_weight", "exchange_passes", "latency_steps"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ConfigError(f"{name} must be at least 0 and finite, got {value}")
        for name in ("strength", "ttft_target_s", "tpot_target_s"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, got {value}")
        if not self.patience > 1.0:
            raise ConfigError(f"patience must be above 1 mean wait, got {self.patience}")
        if not 0.0 <= self.kv_reserve < 1.0:
            raise ConfigError(f"kv_reserve must be at least 0 and below 1, got {self.kv_reserve}")
        if sum(v is not None for v in (self.strength, self.ttft_target_s, self.tpot_target_s)) > 1:
            raise ConfigError(
                "strength, ttft_target_s and tpot_target_s each say how strongly to hold requests; "
                "give one of them"
            )


class Waves:
    """Deal waiting requests to ranks, and say which of them go now."""

    def __init__(self, settings: WaveSettings) -> None:
        self._settings = settings
        self._strength = 1.0  # where a target sets it
        self._held, self._free_slots = Held(), FreeSlots()
        self._waits, self._steps, self._releases = WaitPace(), StepPace(), ReleasePace()
        self._room = Room()
        self._num_plans = 0

    def plan(self, view: GroupView, pool: PoolView, costs: StepCosts) -> Placed:
        """Return what to send now; under immediate binding everything.

        Parameters
        ----------
        view, pool
            As a policy gets them.
        costs : StepCosts
            With a token budget and a prefill time of the ranks' own, see `applies_to`.
        """
        self._steps.see(view)
        num_wanted = min(int(view.max_sends.sum()), len(pool))
        if num_wanted == 0:
            return _nobody()
        num_waiting = len(pool)
        is_short = num_waiting > num_wanted
        # To choose, every free slot looks at every request. In a large wave nothing is to be won by
        # that: what is oldest has all lengths, and dealt longest first it comes out level.
        chooses = is_short and num_wanted <= MAX_CHOICES
        pool = pool.oldest(max(num_wanted, MAX_PAIRS // num_wanted) if chooses else num_wanted)
        work = self._work(view, pool, costs)
        mean_wait_s = self._waits.mean_wait_s(num_waiting=num_waiting, num_ranks=view.num_ranks)
        waits = (view.now_s - pool.arrival_s) / mean_wait_s
        placed, in_room = self._deal(view, pool, work, waits, costs, chooses=chooses)
        if len(placed[0]) > 0 and not view.is_immediate:
            num_short = num_wanted if is_short else 0
            is_now = self._released(view, pool, costs, work, placed, num_short)
            placed = placed[0][is_now], placed[1][is_now]
        requests = np.concatenate([in_room[0], placed[0]])
        self._note(view, num_waiting, work, requests)
        return requests, np.concatenate([in_room[1], placed[1]])

    def _work(self, view: GroupView, pool: PoolView, costs: StepCosts) -> Work:
        pending_tokens = self._pending_tokens(view, costs)
        cached_tokens = NOTHING if pool.traits is None else pool.cached_tokens.copy()
        return work_of(
            pending_tokens,
            view.committed_tokens,
            view.num_inflight_reqs,
            np.ascontiguousarray(pool.prompt_tokens),
            cached_tokens,
            costs.own_prefill_s_per_token,
            costs.s_per_token,
            costs.kappa0_tokens,
        )

    def _pending_tokens(self, view: GroupView, costs: StepCosts) -> Float64Array:
        """Return the prompt tokens still to be computed when the plan lands."""
        steps = self._settings.latency_steps + self._steps.unseen_steps(view.now_s)
        pending = view.due_tokens.astype(np.float64)
        if steps == 0 or costs.budget_tokens is None:
            return pending
        per_step = np.maximum(costs.budget_tokens - view.num_running_reqs, 0)
        left: Float64Array = np.maximum(pending - steps * per_step, 0.0)
        return left

    def _deal(
        self,
        view: GroupView,
        pool: PoolView,
        work: Work,
        waits: Float64Array,
        costs: StepCosts,
        *,
        chooses: bool,
    ) -> tuple[Placed, Placed]:
        """Give requests ranks so that prefill now and decode later are level.

        Both count in the time of one prompt token. A prefill is over soon, while what a request
        adds to each step stays until its rank gets the next one and can be levelled again.

        Also returns those for which a rank has been emptied: they are not dealt, and are not held.
        """
        settings, unit_s = self._settings, costs.own_prefill_s_per_token
        num_steps = self._releases.steps_per_refill(view.num_ranks)
        loads, gains = now_and_later(work, unit_s, num_steps, chooses)
        ranks, waiting = self._ranks(view, loads), self._waiting(pool, gains, waits)
        in_room = self._room.make(view, pool, ranks, waiting, settings.patience)
        if chooses:
            placed = plan_below_envelope(
                ranks, waiting, settings.age_weight, settings.patience, settings.exchange_passes
            )
            return placed, in_room
        order = np.argsort(-gains[:, 0], kind="stable")
        requests, places = plan_spread(ranks, waiting, order[waiting.is_taken[order] == 0])
        by_age = np.argsort(requests)
        return (requests[by_age], places[by_age]), in_room

    def _ranks(self, view: GroupView, loads: Float64Array) -> Ranks:
        free_kv = view.free_kv_tokens
        if not view.is_immediate and view.num_running_reqs.any():
            keep_reserve(free_kv, view.kv_capacity_tokens, self._settings.kv_reserve)
        speeds = _speeds(view)
        return Ranks(loads, loads[:, 0] / speeds, speeds, view.max_sends.copy(), free_kv)

    def _waiting(self, pool: PoolView, gains: Float64Array, waits: Float64Array) -> Waiting:
        is_taken = np.zeros(len(pool), np.int64)
        preferred, saved_tokens = np.full(len(pool), NONE), is_taken
        if self._settings.affinity and pool.traits is not None:
            preferred, saved_tokens = pool.preferred_ranks.copy(), pool.saved_tokens.copy()
        prompt_tokens = np.ascontiguousarray(pool.prompt_tokens)
        return Waiting(prompt_tokens, gains, waits, preferred, saved_tokens, is_taken)

    def _released(
        self,
        view: GroupView,
        pool: PoolView,
        costs: StepCosts,
        work: Work,
        placed: Placed,
        num_short: int,
    ) -> BoolArray:
        """Return which of the requests dealt go now; `num_short` slots are free, if too few are."""
        requests, ranks = placed
        is_short, target_s = num_short > 0, self._settings.ttft_target_s
        age_s = NO_TIMES if target_s is None else view.now_s - pool.arrival_s[requests]
        dealt = Dealt(
            requests,
            ranks,
            self._held.seconds(pool.ids[requests], view.now_s),
            np.zeros_like(requests) if pool.traits is None else pool.priorities[requests],
            NO_TIMES if target_s is None else target_s - age_s,
            self._free_slots.seconds(num_short, view.now_s),
        )
        terms = Terms(
            _speeds(view),
            costs.own_prefill_s_per_token * (costs.budget_tokens or 1),
            costs.mixed_step_s,
            costs.constant_s,
            self._steps.step_s,
            int(view.num_running_reqs.sum()),
            self._strength_now(is_short=is_short),
            self._settings.hold_s,
            self._hold_prefills(view.num_ranks, is_short=is_short),
        )
        is_now = release(work, dealt, terms)
        self._free_slots.fill(int(is_now.sum()))
        return is_now

    def _hold_prefills(self, num_ranks: int, *, is_short: bool) -> float:
        """Return for how many times its prefill a request may be held: more if it may share a wave.

        And more while slots are short, for its slot does not stay empty: others are dealt to it.
        """
        company = min(1.0, num_ranks * self._releases.prefill_share)
        return self._settings.hold_prefills * (SHORT_FACTOR if is_short else 1.0) * company

    def _strength_now(self, *, is_short: bool) -> float:
        settings = self._settings
        if settings.strength is not None:
            return settings.strength
        if settings.tpot_target_s is not None:
            return self._towards(settings.tpot_target_s)
        if is_short or settings.ttft_target_s is not None:
            return SHORT_STRENGTH
        # Where ranks prefill more, requests wait longer with or without being held.
        return max(LEAST_STRENGTH, self._releases.prefill_share**2)

    def _towards(self, tpot_target_s: float) -> float:
        """Return the strength, corrected now and then so that steps take as long as wanted."""
        self._num_plans += 1
        if self._num_plans % PLANS_PER_CORRECTION == 0 and self._steps.step_s < math.inf:
            is_slow = self._steps.step_s > tpot_target_s
            strength = self._strength * (CORRECTION if is_slow else 1.0 / CORRECTION)
            self._strength = min(max(strength, WEAKEST), STRONGEST)
        return self._strength

    def _note(self, view: GroupView, num_waiting: int, work: Work, requests: Int64Array) -> None:
        self._waits.note(view.now_s, num_placed=len(requests), num_waiting=num_waiting)
        prefill_s = float(work.request_prefill_s[requests].sum()) / view.num_ranks
        self._releases.note(
            view.now_s, self._steps.step, num_requests=len(requests), prefill_s=prefill_s
        )


def applies_to(costs: StepCosts | None) -> TypeGuard[StepCosts]:
    """Tell whether ranks prefill, and one's prompt makes the others wait."""
    if costs is None or costs.budget_tokens is None or not costs.has_barrier:
        return False
    return costs.prefill_s_per_token > 0.0 and costs.prefill_shared < 1.0


def _speeds(view: GroupView) -> Float64Array:
    return np.ones(view.num_ranks) if view.speeds is None else view.speeds


def _nobody() -> Placed:
    return np.zeros(0, np.int64), np.zeros(0, np.int64)
