"""The parts of a running router, which everybody shares, and what may change while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec
import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.live.addresses import RankAddress, rank_addresses
from balanceroute.live.affinity import Affinity, affinity_of
from balanceroute.live.answers import Refusal
from balanceroute.live.barrier import Barrier
from balanceroute.live.carrying import Counting, Processes
from balanceroute.live.collectors import BarrierState, HealthState
from balanceroute.live.config import ServeConfig
from balanceroute.live.counters import Counters
from balanceroute.live.counting import NoCounting, counting_of
from balanceroute.live.decision_log import DecisionLog, open_log
from balanceroute.live.decisions import POLICY_STREAM
from balanceroute.live.fair import FairQueue
from balanceroute.live.fixed import FIXED, expect_same
from balanceroute.live.fleet import is_fleet
from balanceroute.live.group import LiveGroup
from balanceroute.live.health import Health
from balanceroute.live.meters import Meters
from balanceroute.live.planner import Planner
from balanceroute.live.prefill import PrefillTier
from balanceroute.live.prompts import PromptCounter
from balanceroute.live.shadow import Shadow, shadow_of
from balanceroute.live.tenants import weight_of
from balanceroute.live.unanswered import Unanswered
from balanceroute.policies.base import Policy
from balanceroute.policies.registry import make_policy

FALLBACK = "least_tokens"  # as the planner does
FIRST_SLOTS = 256  # vLLM's usual --max-num-seqs, until a queue is seen
OF_POLICY = ("policy", "seed", "binding")


@dataclass(eq=False, slots=True, kw_only=True)
class Parts:
    """What a router is made of.

    Attributes
    ----------
    config : ServeConfig
        The settings in force.
    addresses : list of RankAddress
        Of the ranks by number; one that is taken away keeps its number and stays drained.
    group, queue, planner, health, meters, session, prefill, and the others
        See their classes.
    processes : Processes or None
        The processes that carry requests, if it is not this one that does.
    is_stopping, has_fallen_back : bool
        Whether requests are told to end; whether the policy has raised, and another chooses.
    """

    config: ServeConfig
    addresses: list[RankAddress]
    group: LiveGroup
    queue: FairQueue
    planner: Planner
    health: Health
    meters: Meters
    session: aiohttp.ClientSession
    barrier: Barrier
    prefill: PrefillTier | None = None
    prompts: PromptCounter = field(default_factory=PromptCounter)
    counting: Counting = field(default_factory=NoCounting)
    decisions: DecisionLog | None = None
    shadow: Shadow | None = None
    affinity: Affinity | None = None
    unanswered: Unanswered | None = None
    processes: Processes | None = None
    is_stopping: bool = False
    has_fallen_back: bool = False

    @staticmethod
    def of(
        config: ServeConfig,
        costs: StepCosts | None,
        session: aiohttp.ClientSession,
        addresses: Sequence[RankAddress] | None = None,
    ) -> Parts:
        """Return the parts that settings ask for, with other ranks than they name if there are."""
        addresses = list(addresses or config.addresses)
        names = [address.name for address in addresses]
        group = LiveGroup(
            num_ranks=len(addresses),
            policy=_policy(config),
            num_slots=config.slots or FIRST_SLOTS,
            kv_tokens=config.kv_tokens,
            costs=costs,
            is_immediate=_is_immediate(config),
        )
        meters = Meters(group, names, config.policy)
        planner = Planner(
            group,
            settle_s=config.settle_secs,
            on_plan=meters.plan.observe,
            on_fallback=lambda: parts.note_failure(),
        )
        queue = FairQueue(
            group,
            weight_of=lambda tenant: weight_of(tenant, parts.config),
            on_shown=planner.arrive,
        )
        health = Health(
            names,
            failure_threshold=config.health_failure_threshold,
            success_threshold=config.health_success_threshold,
            hold_s=config.health_check_interval_secs,
            shares_fate=config.barrier,
        )
        parts = Parts(
            config=config,
            addresses=addresses,
            group=group,
            queue=queue,
            planner=planner,
            health=health,
            meters=meters,
            session=session,
            prefill=_prefill(config, session),
            barrier=Barrier(group, costs),
            affinity=affinity_of(config),
            unanswered=Unanswered() if is_fleet(config.policy) else None,
        )
        parts.shadow = shadow_of(parts.config, group, costs, parts.note_shadow)
        if parts.shadow is not None:
            meters.show(parts.shadow)
        parts.decisions = open_log(config, group, costs, meters.log_failures.inc)
        group.on_step, group.on_rest = parts.barrier.step, parts.barrier.rest
        parts.counting = counting_of(parts)
        meters.show_tenants(queue, lambda: parts.config.tenants)
        meters.show(HealthState(health, names))
        meters.show(BarrierState(parts.barrier, lambda: parts.config.barrier))
        health.on_change = parts.open_ranks
        return parts

    @property
    def counters(self) -> Counters:
        """Return what is counted where requests are carried."""
        return self.meters.counters

    @property
    def num_waiting(self) -> int:
        """Return how many requests wait for a rank, or for their prompt to be computed before."""
        num_before = self.prefill.num_requests if self.prefill is not None else 0
        return self.group.num_waiting + self.queue.num_staged + num_before

    def expect_room(self, tenant: str | None) -> None:
        """Refuse a request if no more may wait, or no more of its tenant."""
        refusal = self._refusal(tenant, self.config.queue_size)
        if refusal is not None and self.prefill is None:
            # Those that free slots will take with the next plan do not count; who waits for a
            # prefill server is not among them.
            num_free = int(self.group.view().max_sends.sum())
            refusal = self._refusal(tenant, self.config.queue_size + num_free)
        if refusal is not None:
            raise refusal

    def _refusal(self, tenant: str | None, num_places: int) -> Refusal | None:
        num_waiting = self.num_waiting
        if num_waiting >= num_places:
            message = f"{num_waiting} requests are waiting; try again later"
            return Refusal(429, message, "queue_full")
        if tenant is not None and not self.queue.has_room(tenant, num_places):
            num_own = self.queue.num_waiting(tenant)
            message = f"{num_own} requests of yours are waiting; try again later"
            return Refusal(429, message, "tenant_queue_full")
        return None

    @property
    def policy_now(self) -> str:
        """Return who chooses."""
        return FALLBACK if self.has_fallen_back else self.config.policy

    def change_policy(self, spec: str) -> None:
        """Let another policy choose from now on, until settings are reread that name another.

        Raises
        ------
        ConfigError
            If there is no such policy, or it cannot be had like this; the present one goes on then.
        """
        config = msgspec.structs.replace(self.config, policy=spec)
        policy, self.config = _policy(config), config
        self._put_in_charge(policy)

    def _put_in_charge(self, policy: Policy) -> None:
        config, self.has_fallen_back = self.config, False
        self.group.replace_policy(policy, is_immediate=_is_immediate(config))
        self.meters.show_policy(config.policy)
        self._note_policy()

    def _note_policy(self) -> None:
        if self.decisions is not None:
            self.decisions.note_policy(self.policy_now, self.config.seed)
        if self.shadow is not None:
            self.shadow.follow(self.policy_now)

    def note_shadow(self, spec: str, placed: list[tuple[int, int]]) -> None:
        """Write down where another policy would have sent requests, if anything is written."""
        if self.decisions is not None:
            self.decisions.note_shadow(spec, placed)

    def note_failure(self) -> None:
        """Say that the policy has raised, and who chooses now."""
        self.has_fallen_back = True
        self.meters.policy_failures.inc()
        self.meters.show_policy(FALLBACK)
        self._note_policy()

    def open_ranks(self) -> None:
        """Let those ranks have requests that are fit for them."""
        for rank, is_open in enumerate(self.health.is_open):
            self.group.set_open(rank, is_open=is_open)
            if not self.health.is_well[rank]:
                self._leave_group(rank)
        self.planner.arrive()

    def _leave_group(self, rank: int) -> None:
        """Expect nothing more of a group that is away, if the ranks are groups."""
        if self.affinity is not None:
            self.affinity.forget(rank)
        if self.unanswered is not None:
            self.unanswered.give_up(rank)

    def add_rank(self, address: RankAddress) -> None:
        """Take a rank in; it gets requests once it has proved to be well."""
        self.addresses.append(address)
        config = self.config
        self.group.add_rank(num_slots=config.slots or FIRST_SLOTS, kv_tokens=config.kv_tokens)
        self.health.add(address.name)
        if self.affinity is not None:
            self.affinity.add_group()

    def reload(self, config: ServeConfig) -> None:
        """Put new settings in force; no request is lost or moved by that.

        Ranks that are new are taken in, and those that are not named any more are drained; what
        administrators have added or drained stays so. A policy that is new begins with what is in
        flight.

        Raises
        ------
        ConfigError
            If something has changed that a running router cannot change; nothing is done then.
        """
        expect_same(self.config, config, FIXED)
        policy = _policy(config)
        is_other = any(getattr(config, name) != getattr(self.config, name) for name in OF_POLICY)
        before, self.config = self.config, config
        if is_other or self.has_fallen_back:
            self._put_in_charge(policy)
        if config.slots is not None and config.slots != before.slots:
            self.group.num_slots[:] = config.slots
        if config.kv_tokens is not None and config.kv_tokens != before.kv_tokens:
            self.group.kv_tokens[:] = config.kv_tokens
        was_named, named = before.addresses, config.addresses
        for address in named:
            if address not in self.addresses:
                self.add_rank(address)
        self.health.set_terms(
            failure_threshold=config.health_failure_threshold,
            success_threshold=config.health_success_threshold,
            hold_s=config.health_check_interval_secs,
            shares_fate=config.barrier,
        )
        for rank, address in enumerate(self.addresses):
            if (address in named) != (address in was_named):
                self.health.drain(rank, is_draining=address not in named)
        self.open_ranks()


def _policy(config: ServeConfig) -> Policy:
    return make_policy(config.policy, rng=np.random.default_rng((config.seed, POLICY_STREAM)))


def _is_immediate(config: ServeConfig) -> bool | None:
    return None if config.binding is None else config.binding == "immediate"


def _prefill(config: ServeConfig, session: aiohttp.ClientSession) -> PrefillTier | None:
    if not config.prefill_urls:
        return None
    return PrefillTier(
        rank_addresses(config.prefill_urls),
        rank_field=config.rank_field,
        max_kv_usage=config.prefill_max_kv_usage,
        session=session,
    )
