"""Waves: when to release requests to ranks that prefill and decode in the same steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.traits import NO_TRAITS
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.dealing import Deal, Load, deal_out, release_from
from balanceroute.kernels.planning import Group, Queue
from balanceroute.kernels.release import Dealt, Terms
from balanceroute.policies.holding import FreeSlots, Held, ReleasePace, StepPace
from balanceroute.policies.pace import WaitPace
from balanceroute.policies.room import NOBODY, Placed, Room, with_others

# Strength of holding while slots are short, and the least otherwise.
SHORT_STRENGTH, LEAST_STRENGTH = 1.0, 0.035
SHORT_FACTOR = 2.0  # of `hold_prefills` while slots are short
PLANS_PER_CORRECTION, CORRECTION = 32, 1.15  # of the strength, towards a target
WEAKEST, STRONGEST = 0.01, 10.0
LEAST_WIN = 0.1  # of a step's time; below, waves give next to nothing and hold all the same
# Free slots for which requests are chosen, and pairs of a slot and a request that are looked at.
MAX_CHOICES, MAX_PAIRS = 256, 32_768

# Steps that costs have to be learned from, until they are trusted to tell whether ranks wait for
# each other's prompts: of noisy steps, the first hundreds tell it wrong now and then.
TRUSTED_SAMPLES = 384

NO_TIMES: Float64Array = np.zeros(0)


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
        if sum(v is not None for v in (self.strength, self.ttft_target_s, self.tpot_target_s)) > 1:
            raise ConfigError(
                "strength, ttft_target_s and tpot_target_s each say how strongly to hold requests; "
                "give one of them"
            )


class Waves:
    """Deal waiting requests to ranks, and say which of them go now; `waits` is kept up to date."""

    def __init__(self, settings: WaveSettings, waits: WaitPace) -> None:
        self._settings = settings
        self._strength = 1.0  # where a target sets it
        self._held, self._free_slots = Held(), FreeSlots()
        self._waits, self._steps, self._releases = waits, StepPace(), ReleasePace()
        self._room = Room(settings.kv_reserve, settings.patience)
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
        sends = view.max_sends
        if len(pool) == 0 or not sends.any():
            return NOBODY
        free_kv = self._room.free_kv_tokens(view)
        mean_wait_s = self._waits.mean_wait_s(num_waiting=len(pool), num_ranks=view.num_ranks)
        in_room = self._room.make(view, pool, sends, free_kv, mean_wait_s)
        placed = self._wave(
            view, pool.without(in_room[0]), costs, _group(view, sends, free_kv), mean_wait_s
        )
        placed = with_others(in_room, placed, len(pool))
        self.note(view, pool, costs, placed[0])
        return placed

    def _wave(
        self, view: GroupView, pool: PoolView, costs: StepCosts, group: Group, mean_wait_s: float
    ) -> Placed:
        num_wanted = min(int(group.sends.sum()), len(pool))
        if num_wanted == 0:
            return NOBODY
        is_short = len(pool) > num_wanted
        # To choose, every free slot looks at every request. In a large wave nothing is to be won by
        # that: what is oldest has all lengths, and dealt longest first it comes out level.
        chooses = is_short and num_wanted <= MAX_CHOICES
        pool = pool.oldest(max(num_wanted, MAX_PAIRS // num_wanted) if chooses else num_wanted)
        queue, load = _queue(pool), self._load(view, costs)
        deal = self._deal(view, mean_wait_s, chooses=chooses)
        placed = deal_out(group, queue, load, deal, self._settings.affinity)
        if len(placed[0]) == 0 or view.is_immediate:
            return placed
        dealt = self._dealt(view, pool, placed, num_wanted if is_short else 0)
        terms = self._release_terms(view, costs, group.speeds, is_short=is_short)
        is_now = release_from(group, queue, load, dealt, terms)
        return placed[0][is_now], placed[1][is_now]

    def note(self, view: GroupView, pool: PoolView, costs: StepCosts, requests: Int64Array) -> None:
        """Take in what is sent, by this rule or by another that plans while waves cannot win."""
        self._steps.see(view)
        self._free_slots.fill(len(requests))
        self._waits.note(view.now_s, num_placed=len(requests), num_waiting=len(pool))
        tokens = pool.prompt_tokens[requests]
        if pool.traits is not None:
            tokens = tokens - pool.cached_tokens[requests]
        per_rank, own_s = float(tokens.sum()) / view.num_ranks, costs.own_prefill_s_per_token
        self._releases.note(view.now_s, self._steps.step, len(requests), per_rank, own_s)

    def can_win(self, num_ranks: int) -> bool:
        """Tell whether steps could get noticeably shorter by ranks that prefill together.

        At most by what the others wait for: all prefill but a rank's own, if no two coincided.
        """
        return self._releases.prefill_share * (num_ranks - 1) > LEAST_WIN

    def _load(self, view: GroupView, costs: StepCosts) -> Load:
        return Load(
            self._pending_tokens(view, costs),
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

    def _deal(self, view: GroupView, mean_wait_s: float, *, chooses: bool) -> Deal:
        """Return on which terms requests get ranks: so that prefill now and decode later are level.

        Both count in the time of one prompt token. A prefill is over soon, while what a request
        adds to each step stays until its rank gets the next one and can be levelled again.
        """
        return Deal(
            view.now_s,
            mean_wait_s,
            self._releases.steps_per_refill(view.num_ranks),
            chooses,
            self._settings.age_weight,
            self._settings.patience,
            self._settings.exchange_passes,
        )

    def _dealt(self, view: GroupView, pool: PoolView, placed: Placed, num_short: int) -> Dealt:
        """Return what was dealt, and how long for; `num_short` slots are free, if too few are."""
        (requests, ranks), target_s = placed, self._settings.ttft_target_s
        age_s = NO_TIMES if target_s is None else view.now_s - pool.arrival_s[requests]
        return Dealt(
            requests,
            ranks,
            self._held.seconds(pool.ids[requests], view.now_s),
            np.zeros_like(requests) if pool.traits is None else pool.priorities[requests],
            NO_TIMES if target_s is None else target_s - age_s,
            self._free_slots.seconds(num_short, view.now_s),
        )

    def _release_terms(
        self,
        view: GroupView,
        costs: StepCosts,
        speeds: Float64Array,
        *,
        is_short: bool,
    ) -> Terms:
        return Terms(
            speeds,
            costs.own_prefill_s_per_token * (costs.budget_tokens or 1),
            costs.mixed_step_s,
            costs.constant_s,
            self._steps.step_s,
            int(view.num_running_reqs.sum()),
            self._strength_now(is_short=is_short),
            self._settings.hold_s,
            self._hold_prefills(view.num_ranks, is_short=is_short),
        )

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


def applies_to(costs: StepCosts | None) -> TypeGuard[StepCosts]:
    """Tell whether ranks prefill, and one's prompt makes the others wait, as far as is certain."""
    if costs is None or costs.budget_tokens is None or not costs.has_barrier:
        return False
    if costs.num_samples is not None and costs.num_samples < TRUSTED_SAMPLES:
        return False
    return costs.prefill_s_per_token > 0.0 and costs.prefill_shared < 1.0


def _group(view: GroupView, sends: Int64Array, free_kv: Int64Array) -> Group:
    speeds = np.ones(view.num_ranks) if view.speeds is None else view.speeds
    num_reqs = np.ascontiguousarray(view.num_inflight_reqs)
    return Group(view.committed_tokens, num_reqs, speeds, sends, free_kv)


def _queue(pool: PoolView) -> Queue:
    return Queue(
        np.ascontiguousarray(pool.prompt_tokens),
        np.ascontiguousarray(pool.arrival_s),
        NO_TRAITS if pool.traits is None else np.ascontiguousarray(pool.traits),
    )
