"""Figures that are read off the router's state at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from balanceroute.live.barrier import BASES, Barrier
from balanceroute.live.group import LiveGroup
from balanceroute.live.health import Health


class LevelState(Collector):
    """How level the ranks are, from the ledger as it is."""

    def __init__(self, group: LiveGroup, names: list[str]) -> None:
        self._group, self._names = group, names

    def collect(self) -> Iterator[Metric]:
        """Return the gauges; the ratio is left out while nothing is resident anywhere."""
        loads = self._group.ledger.ranks["load_tokens"]
        envelope, mean = int(loads.max()), float(loads.mean())
        text = "Envelope: the largest load of a rank."
        yield GaugeMetricFamily("balanceroute_envelope_tokens", text, value=envelope)
        text = "Imbalance: ranks times envelope, less all loads."
        imbalance = len(loads) * envelope - int(loads.sum())
        yield GaugeMetricFamily("balanceroute_imbalance_tokens", text, value=imbalance)
        if envelope > 0:
            text = "Mean load over the largest."
            yield GaugeMetricFamily("balanceroute_balance_ratio", text, value=mean / envelope)
        text = "Envelope less the rank's load."
        margins = GaugeMetricFamily(
            "balanceroute_rank_margin_tokens", text, labels=["worker", "rank"]
        )
        for rank, margin in enumerate((envelope - loads).tolist()):
            margins.add_metric([self._names[rank], str(rank)], margin)
        yield margins
        text = "How long the request at the head of the pool has waited."
        wait_s = self._group.oldest_wait_s
        yield GaugeMetricFamily("balanceroute_pool_oldest_wait_seconds", text, value=wait_s)


class BarrierState(Collector):
    """What the barrier has cost so far, if there is one."""

    def __init__(self, barrier: Barrier, has_barrier: Callable[[], bool]) -> None:
        self._barrier, self._has_barrier = barrier, has_barrier

    def collect(self) -> Iterator[Metric]:
        """Return the sums; a basis that nothing rests on is left out."""
        if not self._has_barrier():
            return
        sums = self._barrier.sums
        text = "Steps of the group, and their imbalance; measured by streams and ledger."
        name = "balanceroute_step_imbalance_tokens"
        yield SummaryMetricFamily(
            name, text, count_value=sums.num_steps, sum_value=sums.imbalance_tokens
        )
        text = "Seconds between steps, times ranks; measured. The label is that of what is below."
        whole = CounterMetricFamily("balanceroute_rank_seconds", text, labels=["basis"])
        text = "Rank-seconds waited at the barrier; estimated, by the label's means."
        idle = CounterMetricFamily("balanceroute_barrier_idle_seconds", text, labels=["basis"])
        text = "Output tokens that level ranks would have given besides; estimated likewise."
        lost = CounterMetricFamily("balanceroute_barrier_lost_tokens", text, labels=["basis"])
        text = "1 for what the estimate rests on at present."
        present = GaugeMetricFamily("balanceroute_barrier_basis", text, labels=["basis"])
        for basis in BASES:
            present.add_metric([basis], float(basis == self._barrier.basis))
            if basis in sums.idle_s:
                whole.add_metric([basis], sums.rank_s[basis])
                idle.add_metric([basis], sums.idle_s[basis])
                lost.add_metric([basis], sums.lost_tokens[basis])
        yield from (whole, idle, lost, present)


class HealthState(Collector):
    """Which ranks are fit, and why one may not have requests."""

    def __init__(self, health: Health, names: list[str]) -> None:
        self._health, self._names = health, names

    def collect(self) -> Iterator[Metric]:
        """Return the gauges."""
        labels = ["worker", "rank"]
        text = "1 while the rank's circuit is closed: it answers health checks and requests."
        well = GaugeMetricFamily("balanceroute_rank_well", text, labels=labels)
        text = "1 while the rank is to get nothing new."
        draining = GaugeMetricFamily("balanceroute_rank_draining", text, labels=labels)
        for rank, name in enumerate(self._names):
            well.add_metric([name, str(rank)], float(self._health.is_well[rank]))
            draining.add_metric([name, str(rank)], float(self._health.is_draining[rank]))
        yield from (well, draining)
        text = "1 while any rank may have requests."
        is_open = float(any(self._health.is_open))
        yield GaugeMetricFamily("balanceroute_group_open", text, value=is_open)
