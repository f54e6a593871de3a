"""What the router tells Prometheus about itself and its group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from balanceroute.live.collectors import LevelState
from balanceroute.live.counters import Counters
from balanceroute.live.fair import FairQueue
from balanceroute.live.group import LiveGroup

WAIT_BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0)
PLAN_BUCKETS_S = (50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 20e-3)


class Meters:
    """The router's metrics, in a registry of their own.

    Parameters
    ----------
    group : LiveGroup
        Whose state is read at each scrape.
    names : list of str
        Of its ranks.
    policy : str
        As the operator wrote it.
    """

    def __init__(self, group: LiveGroup, names: list[str], policy: str) -> None:
        registry = self.registry = CollectorRegistry()
        self.counters = Counters(registry)
        self.tokens = Counter("balanceroute_output_tokens", "Tokens passed on.", registry=registry)
        self.wait = Histogram(
            "balanceroute_pool_wait_seconds",
            "Time from arrival to a rank.",
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self.plan = Histogram(
            "balanceroute_plan_seconds",
            "Time that a plan takes.",
            buckets=PLAN_BUCKETS_S,
            registry=registry,
        )
        self.policy_failures = Counter(
            "balanceroute_policy_failures",
            "Plans that raised; least_tokens chooses after the first.",
            registry=registry,
        )
        self.log_failures = Counter(
            "balanceroute_decision_log_failures",
            "Times that the decision log could not be written; it ends there.",
            registry=registry,
        )
        self.signals = Gauge(
            "balanceroute_load_signals_up",
            "1 while the engines' metrics can be read.",
            registry=registry,
        )
        self.signals.set(0)
        self._info = Gauge(
            "balanceroute_policy_info", "Who chooses.", ["policy"], registry=registry
        )
        self.show_policy(policy)
        registry.register(_GroupState(group, names))
        registry.register(LevelState(group, names))

    def show(self, state: Collector) -> None:
        """Tell of something else, too."""
        self.registry.register(state)

    def show_tenants(self, queue: FairQueue, names: Callable[[], Iterable[str]]) -> None:
        """Tell of those tenants from now on that `names` returns; others may be without number."""
        self.registry.register(_TenantState(queue, names))

    @property
    def has_signals(self) -> bool:
        """Tell whether the engines' metrics could be read when they were last."""
        return self.registry.get_sample_value("balanceroute_load_signals_up") == 1.0

    def show_policy(self, policy: str) -> None:
        """Say who chooses from now on."""
        self._info.clear()
        self._info.labels(policy).set(1)

    def text(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        return generate_latest(self.registry)


class _TenantState(Collector):
    """What tenants have waiting, and what they have got."""

    def __init__(self, queue: FairQueue, names: Callable[[], Iterable[str]]) -> None:
        self._queue, self._names = queue, names

    def collect(self) -> Iterator[Metric]:
        """Return the figures."""
        text = "Requests that wait, also in the pool."
        waiting = GaugeMetricFamily("balanceroute_tenant_waiting_requests", text, labels=["tenant"])
        text = "Prompts that were sent and outputs that have ended."
        tokens = CounterMetricFamily("balanceroute_tenant_tokens", text, labels=["tenant"])
        for name in self._names():
            waiting.add_metric([name], self._queue.num_waiting(name))
            tokens.add_metric([name], self._queue.num_tokens(name))
        yield waiting
        yield tokens
        text = "Requests that wait for their tenant's turn, outside of the pool."
        yield GaugeMetricFamily("balanceroute_staged_requests", text, value=self._queue.num_staged)


class _GroupState(Collector):
    """Gauges per rank, from the ledger as it is."""

    def __init__(self, group: LiveGroup, names: list[str]) -> None:
        self._group, self._names = group, names

    def collect(self) -> Iterator[Metric]:
        """Return the gauges."""
        ranks, group = self._group.ledger.ranks, self._group
        per_rank = {
            "load_tokens": ("Resident tokens.", ranks["load_tokens"]),
            "due_tokens": ("Prompt tokens sent and not yet resident.", ranks["due_tokens"]),
            "inflight_requests": (
                "Requests sent and not ended.",
                ranks["num_running"] + ranks["num_waiting"],
            ),
            "slots": ("Requests that may run together.", group.num_slots),
            "kv_tokens": ("KV tokens that it can hold; 2**62: unknown.", group.kv_tokens),
            "open": ("1 if it may have requests.", group.is_open),
            "foreign_requests": ("Requests there that are not this router's.", group.foreign_reqs),
            "foreign_tokens": ("Tokens there that are not this router's.", group.foreign_tokens),
            "disagreement_tokens": (
                "Tokens that the engine counts more than the ledger.",
                group.disagreement_tokens,
            ),
        }
        for name, (text, values) in per_rank.items():
            gauge = GaugeMetricFamily(f"balanceroute_rank_{name}", text, labels=["worker", "rank"])
            for rank, value in enumerate(values):
                gauge.add_metric([self._names[rank], str(rank)], float(value))
            yield gauge
        waiting = float(group.num_waiting)
        yield GaugeMetricFamily("balanceroute_pool_requests", "Requests that wait.", value=waiting)
