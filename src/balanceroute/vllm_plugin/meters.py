"""What the plug-in tells on vLLM's own `/metrics`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from prometheus_client import Counter, Gauge

from balanceroute import __version__
from balanceroute.policies.base import times_releases
from balanceroute.vllm_plugin.balancer import Balancer

Mode = Literal["livesum", "livemax"]
COST_PARTS = (
    "constant_s",
    "s_per_token",
    "kappa0_tokens",
    "prefill_s_per_token",
    "prefill_shared",
    "mixed_step_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meters:
    """The metrics, registered where vLLM's are."""

    info: Gauge
    load: Gauge
    due: Gauge
    inflight: Gauge
    disagreement: Gauge
    pool: Gauge
    slots: Gauge
    times_prefills: Gauge
    step_cost: Gauge
    decisions: Counter
    decision_seconds: Counter
    preemptions: Counter
    repairs: Counter
    held_token_seconds: Counter
    barrier_token_seconds: Counter
    spread_token_seconds: Counter
    busy_seconds: Counter


@functools.cache  # a metric can be registered only once in a process
def meters() -> Meters:
    """Return the metrics of this process."""

    # Several API servers write to files that vLLM merges: what each has adds up, or all have it.
    def gauge(name: str, text: str, *labels: str, mode: Mode = "livesum") -> Gauge:
        return Gauge(f"balanceroute_{name}", text, labels, multiprocess_mode=mode)

    def counter(name: str, text: str, *labels: str) -> Counter:
        return Counter(f"balanceroute_{name}", text, labels)

    return Meters(
        info=gauge(
            "plugin_info", "API servers in which the plug-in works.", "policy", "mode", "version"
        ),
        load=gauge("rank_load_tokens", "Resident tokens.", "rank"),
        due=gauge("rank_due_tokens", "Tokens sent and not yet resident.", "rank"),
        inflight=gauge("rank_inflight_requests", "Requests sent and not ended.", "rank"),
        disagreement=gauge(
            "rank_disagreement_tokens", "KV tokens that the engine counts more.", "rank"
        ),
        pool=gauge("pool_requests", "Requests that are held."),
        slots=gauge(
            "rank_slots",
            "Requests that may be there, those ahead included.",
            "rank",
            mode="livemax",
        ),
        times_prefills=gauge(
            "times_prefills", "Whether the policy times prefills at present.", mode="livemax"
        ),
        step_cost=gauge(
            "step_cost", "What a step costs, as set or learned.", "part", mode="livemax"
        ),
        decisions=counter("decisions", "Requests, by who chose their rank.", "by"),
        decision_seconds=counter("decision_seconds", "Time spent choosing on arrival."),
        preemptions=counter("preemptions", "Requests that were seen to be preempted."),
        repairs=counter("ledger_repairs", "Requests that were in the ledger but not in vLLM."),
        held_token_seconds=counter("held_token_seconds", "Resident tokens of all ranks, by time."),
        barrier_token_seconds=counter(
            "barrier_token_seconds", "Ranks times the tokens of the fullest one, by time."
        ),
        spread_token_seconds=counter(
            "spread_token_seconds", "Tokens between the fullest and the emptiest rank, by time."
        ),
        busy_seconds=counter("busy_seconds", "Time with a request in flight."),
    )


class Reporter:
    """Brings the metrics up to date with a balancer, now and then.

    Parameters
    ----------
    balancer : Balancer
        Whose accounts are shown.
    policy, mode : str
        As the operator wrote them.
    """

    def __init__(self, balancer: Balancer, *, policy: str, mode: str) -> None:
        self._balancer, self._meters = balancer, meters()
        self._info = self._meters.info.labels(policy, mode, __version__)
        self._info.set(1)
        self._token_seconds = balancer.token_seconds.copy()
        self._busy_s, self._num_preemptions = balancer.busy_s, balancer.num_preemptions
        self.num_decisions: dict[str, int] = {}
        self.decision_s = 0.0

    def update(self) -> None:
        """Show what there is now."""
        meters, group = self._meters, self._balancer.group
        ranks = group.ledger.ranks
        for rank in range(group.num_ranks):
            there, label = ranks[rank], str(rank)
            meters.load.labels(label).set(int(there["load_tokens"]))
            meters.due.labels(label).set(int(there["due_tokens"]))
            meters.inflight.labels(label).set(int(there["num_running"] + there["num_waiting"]))
            meters.disagreement.labels(label).set(int(group.disagreement_tokens[rank]))
            meters.slots.labels(label).set(int(group.num_slots[rank]))
        meters.pool.set(group.num_waiting)
        meters.times_prefills.set(times_releases(group.policy))
        for part in COST_PARTS if group.costs is not None else ():
            meters.step_cost.labels(part).set(getattr(group.costs, part))
        for name, number in self.num_decisions.items():
            meters.decisions.labels(name).inc(number)
        self.num_decisions.clear()
        meters.decision_seconds.inc(self.decision_s)
        self.decision_s = 0.0
        self._add_time()

    def _add_time(self) -> None:
        meters, balancer = self._meters, self._balancer
        added = (balancer.token_seconds - self._token_seconds).tolist()
        meters.held_token_seconds.inc(added[0])
        meters.barrier_token_seconds.inc(added[1])
        meters.spread_token_seconds.inc(added[2])
        meters.busy_seconds.inc(balancer.busy_s - self._busy_s)
        meters.preemptions.inc(balancer.num_preemptions - self._num_preemptions)
        self._token_seconds = balancer.token_seconds.copy()
        self._busy_s, self._num_preemptions = balancer.busy_s, balancer.num_preemptions

    def repair(self, num_requests: int) -> None:
        """Count requests that were taken out of the ledger."""
        self._meters.repairs.inc(num_requests)

    def end(self) -> None:
        """Show that the plug-in does nothing any more."""
        self._info.set(0)
