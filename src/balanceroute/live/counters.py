"""What is counted where requests are carried."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class Counters:
    """Counts what becomes of requests.

    Parameters
    ----------
    registry : CollectorRegistry
        Where they are shown.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "balanceroute_requests", "Answers, by HTTP status.", ["code"], registry=registry
        )
        self.dropped = Counter(
            "balanceroute_dropped_requests",
            "Requests that got no answer from an engine.",
            ["reason"],
            registry=registry,
        )
        self.retries = Counter("balanceroute_retries", "Sends after the first.", registry=registry)
        self.cut = Counter(
            "balanceroute_cut_streams", "Streams that ended in an error.", registry=registry
        )
        self.slow_clients = Counter(
            "balanceroute_slow_clients",
            "Clients given up for taking too long with headers, body, or reading the answer.",
            ["what"],
            registry=registry,
        )
        self.estimated = Counter(
            "balanceroute_count_fallbacks",
            "Prompts that were estimated because no engine has counted them in time.",
            registry=registry,
        )
        self._answers: dict[int, Counter] = {}  # of each status, for want of looking it up
        self._told: dict[tuple[str, tuple[str, ...]], float] = {}

    def count_answer(self, status: int) -> None:
        """Count an answer that is given."""
        answers = self._answers.get(status)
        if answers is None:
            answers = self._answers[status] = self.requests.labels(str(status))
        answers.inc()

    def take(self) -> list[tuple[str, list[str], float]]:
        """Return what has been counted since the last call: name, labels, and how many.

        Examples
        --------
        >>> counters = Counters(CollectorRegistry())
        >>> counters.requests.labels("200").inc(2)
        >>> counters.take(), counters.take()
        ([('requests', ['200'], 2.0)], [])
        """
        taken = []
        for name, counter in vars(self).items():
            metrics = counter.collect() if isinstance(counter, Counter) else ()
            for sample in (sample for metric in metrics for sample in metric.samples):
                labels = tuple(sample.labels.values())
                more = sample.value - self._told.get((name, labels), 0.0)
                if sample.name.endswith("_total") and more > 0.0:
                    self._told[name, labels] = sample.value
                    taken.append((name, list(labels), more))
        return taken

    def add(self, taken: list[tuple[str, list[str], float]]) -> None:
        """Count what another process has counted."""
        for name, labels, more in taken:
            counter: Counter = getattr(self, name)
            (counter.labels(*labels) if labels else counter).inc(more)
