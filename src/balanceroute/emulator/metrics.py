"""``/metrics`` of an emulated group, by vLLM's names and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from balanceroute.emulator.group import EmulatedGroup
from balanceroute.emulator.meters import Histogram, Meters

LABELS = ("engine", "model_name")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class GroupMetrics:
    """The metrics that one port of a group shows.

    Parameters
    ----------
    group : EmulatedGroup
        The group.
    ranks : sequence of int
        Those of its ranks that the port is for.
    """

    def __init__(self, group: EmulatedGroup, ranks: Sequence[int]) -> None:
        self._group = group
        self._ranks = ranks
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """Return the metrics as text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric but the one that a fault makes missing."""
        missing = self._group.faults.now.missing_metric
        for metric in (*self._gauges(), *self._counters(), *self._histograms(), *self._own()):
            if missing not in (metric.name, f"{metric.name}_total"):
                yield metric

    def _labels(self, rank: int) -> tuple[str, str]:
        return str(rank), self._group.config.model

    def _gauges(self) -> Iterator[Metric]:
        ranks = self._group.engine.ranks
        values: dict[str, tuple[str, list[float]]] = {
            "vllm:num_requests_running": (
                "Number of requests in model execution batches.",
                [rank.num_running for rank in ranks],
            ),
            "vllm:num_requests_waiting": (
                "Number of requests waiting to be processed.",
                [rank.num_waiting for rank in ranks],
            ),
            "vllm:kv_cache_usage_perc": (
                "KV-cache usage. 1 means 100 percent usage.",
                [rank.kv_usage for rank in ranks],
            ),
        }
        for name, (text, figures) in values.items():
            gauge = GaugeMetricFamily(name, text, labels=LABELS)
            for rank in self._ranks:
                gauge.add_metric(self._labels(rank), figures[rank])
            yield gauge
        config = self._group.config.engine
        cache = GaugeMetricFamily(
            "vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig",
            labels=("block_size", "engine", "num_gpu_blocks"),
        )
        for rank in self._ranks:
            cache.add_metric((str(config.block_size), str(rank), str(config.num_blocks)), 1)
        yield cache

    def _counters(self) -> Iterator[Metric]:
        ranks = self._group.engine.ranks
        values = {
            "vllm:num_preemptions": (
                "Cumulative number of preemption from the engine.",
                [rank.num_preemptions for rank in ranks],
            ),
            "vllm:prompt_tokens": (
                "Number of prefill tokens processed.",
                [rank.total_prompt_tokens for rank in ranks],
            ),
            "vllm:generation_tokens": (
                "Number of generation tokens processed.",
                [rank.total_generated_tokens for rank in ranks],
            ),
        }
        for name, (text, figures) in values.items():
            counter = CounterMetricFamily(name, text, labels=LABELS)
            for rank in self._ranks:
                counter.add_metric(self._labels(rank), figures[rank])
            yield counter
        ended = CounterMetricFamily(
            "vllm:request_success",
            "Count of successfully processed requests.",
            labels=(*LABELS, "finished_reason"),
        )
        for rank in self._ranks:
            for reason, count in self._group.meters[rank].num_ended.items():
                ended.add_metric((*self._labels(rank), reason), count)
        yield ended

    def _histograms(self) -> Iterator[Metric]:
        def first_token(meters: Meters) -> Histogram:
            return meters.first_token

        def inter_token(meters: Meters) -> Histogram:
            return meters.inter_token

        def request(meters: Meters) -> Histogram:
            return meters.request

        for name, text, histogram_of in (
            ("time_to_first_token", "time to first token", first_token),
            ("inter_token_latency", "inter-token latency", inter_token),
            ("e2e_request_latency", "e2e request latency", request),
        ):
            family = HistogramMetricFamily(
                f"vllm:{name}_seconds", f"Histogram of {text} in seconds.", labels=LABELS
            )
            for rank in self._ranks:
                histogram = histogram_of(self._group.meters[rank])
                family.add_metric(self._labels(rank), histogram.cumulative(), histogram.total)
            yield family

    def _own(self) -> Iterator[Metric]:
        clockwork, totals = self._group.clockwork, self._group.engine.totals
        gauges = {
            "emulator_lag_seconds": ("How late the last step ended.", clockwork.lag_s),
            "emulator_max_lag_seconds": ("The latest that any step ended.", clockwork.max_lag_s),
            "emulator_speedup_ratio": ("Emulated over real time.", self._group.config.speedup),
        }
        for name, (text, figure) in gauges.items():
            yield GaugeMetricFamily(name, text, value=figure)
        counters = {
            "emulator_slipped_seconds": ("Delay that was not made up for.", clockwork.slipped_s),
            "emulator_steps": ("Steps of the group.", totals.num_steps),
            "emulator_step_seconds": ("Emulated time of the steps.", totals.step_s),
        }
        for name, (text, figure) in counters.items():
            yield CounterMetricFamily(name, text, value=figure)
