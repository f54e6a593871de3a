"""The rules inside today's engines and gateways (design section 8)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.kernels.ledger import Int64Array
from balanceroute.kernels.select import assign_by_score
from balanceroute.policies.base import Binding, Plan
from balanceroute.policies.classic import assign_lowest

KV_PRESSURE_KNEE = 0.5  # usage from which vLLM's rule counts KV pressure
KV_PRESSURE_GAIN = 6.0  # requests, per waiting request and unit of excess usage
KV_RESISTANCE_GAIN = 0.15  # seconds, weight of k / (1 - k) in smg's rule


def vllm_dp_score(
    num_waiting_reqs: Int64Array,
    num_running_reqs: Int64Array,
    num_inflight_reqs: Int64Array,
    kv_cache_usage: NDArray[np.float64],
    *,
    num_frontends: int = 1,
) -> NDArray[np.float64]:
    """Score each rank as vLLM's data-parallel client does.

    Implements the rule of [1]_::

        score = max(F * inflight, waiting + running) + 6 * waiting * max(0, kv - 1/2)

    Parameters
    ----------
    num_waiting_reqs, num_running_reqs : int64 array, shape (G,)
        Queue lengths in each rank's last snapshot, in requests.
    num_inflight_reqs : int64 array, shape (G,)
        Requests this router has sent and not seen finish.
    kv_cache_usage : float64 array, shape (G,)
        Fraction of KV-cache blocks in use, in [0, 1].
    num_frontends : int
        Routers sharing the ranks; `F` above.

    Returns
    -------
    float64 array, shape (G,)
        Score in requests. Lower is better.

    Raises
    ------
    ConfigError
        If `num_frontends` is less than 1.

    References
    ----------
    .. [1] vLLM 0.33.0, mid-2026 data-parallel client.

    Examples
    --------
    >>> vllm_dp_score(
    ...     np.array([4, 0]), np.array([8, 9]), np.array([3, 10]), np.array([1.0, 0.4])
    ... )
    array([24., 10.])
    """
    if num_frontends < 1:
        raise ConfigError(f"num_frontends must be at least 1, got {num_frontends}")
    load = np.maximum(
        num_frontends * num_inflight_reqs, num_waiting_reqs + num_running_reqs, dtype=np.float64
    )
    score: NDArray[np.float64] = load + _kv_penalty(num_waiting_reqs, kv_cache_usage)
    return score


def _kv_penalty(
    num_waiting_reqs: Int64Array, kv_cache_usage: NDArray[np.float64]
) -> NDArray[np.float64]:
    kv_excess = np.maximum(0.0, kv_cache_usage - KV_PRESSURE_KNEE)
    return KV_PRESSURE_GAIN * num_waiting_reqs.astype(np.float64) * kv_excess


class Snapshot:
    """The queue lengths that vLLM's coordinator published last.

    Parameters
    ----------
    snapshot_s : float
        Least time between two publications, seconds.
    """

    def __init__(self, snapshot_s: float) -> None:
        if not snapshot_s >= 0:
            raise ConfigError(f"snapshot_s must be at least 0 seconds, got {snapshot_s}")
        self._interval_s = snapshot_s
        self._taken_s = -np.inf
        self.num_waiting_reqs: Int64Array = np.zeros(0, np.int64)
        self.num_running_reqs: Int64Array = np.zeros(0, np.int64)
        self.kv_usage: NDArray[np.float64] = np.zeros(0)

    def refresh(self, view: GroupView) -> None:
        """Take a new snapshot if the last one is old enough."""
        if view.now_s - self._taken_s < self._interval_s:
            return
        self._taken_s = view.now_s
        self.num_waiting_reqs = view.num_waiting_reqs.copy()
        self.num_running_reqs = view.num_running_reqs.copy()
        self.kv_usage = view.kv_usage


class Vllm:
    """vLLM's data-parallel client, mid-2026: in-flight floor and KV penalty (`vllm_dp_score`).

    Parameters
    ----------
    snapshot_s : float
        Least time between two load snapshots, seconds.
    num_frontends : int
        API servers that share the ranks, at least 1.
    """

    binding: ClassVar[Binding] = "immediate"

    def __init__(self, *, snapshot_s: float = 0.1, num_frontends: int = 1) -> None:
        if num_frontends < 1:
            raise ConfigError(f"num_frontends must be at least 1, got {num_frontends}")
        self._snapshot = Snapshot(snapshot_s)
        self._num_frontends = num_frontends
        self._turn = 0

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send each request to the rank with the lowest score; the scan's start rotates."""
        seen = self._snapshot
        seen.refresh(view)
        ranks = assign_lowest(
            view,
            pool,
            (self._num_frontends * view.num_inflight_reqs).astype(np.float64),
            np.full(len(pool), float(self._num_frontends)),
            floor=(seen.num_waiting_reqs + seen.num_running_reqs).astype(np.float64),
            offset=_kv_penalty(seen.num_waiting_reqs, seen.kv_usage),
            first_rank=self._turn % view.num_ranks,
        )
        self._turn += 1
        return Plan.oldest(ranks)


class Vllm4wR:
    """vLLM's data-parallel client before: ``4 * waiting + running``.

    Between two snapshots the client adds its own requests to `waiting`.

    Parameters
    ----------
    snapshot_s : float
        Least time between two load snapshots, seconds.
    """

    binding: ClassVar[Binding] = "immediate"

    def __init__(self, *, snapshot_s: float = 0.1) -> None:
        self._snapshot = Snapshot(snapshot_s)

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send each request to the rank with the lowest score; ties: lowest rank."""
        seen = self._snapshot
        seen.refresh(view)
        score = (4 * seen.num_waiting_reqs + seen.num_running_reqs).astype(np.float64)
        ranks = assign_lowest(view, pool, score, np.full(len(pool), 4.0))
        np.add.at(seen.num_waiting_reqs, ranks, 1)
        return Plan.oldest(ranks)


class VllmRust:
    """vLLM's Rust front end: ``max(inflight, running + waiting) + 3 * waiting``.

    Parameters
    ----------
    snapshot_s : float
        Least time between two load snapshots, seconds.
    """

    binding: ClassVar[Binding] = "immediate"

    def __init__(self, *, snapshot_s: float = 0.1) -> None:
        self._snapshot = Snapshot(snapshot_s)

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send each request to the rank with the lowest score; ties: lowest rank."""
        seen = self._snapshot
        seen.refresh(view)
        ranks = assign_lowest(
            view,
            pool,
            view.num_inflight_reqs.astype(np.float64),
            np.ones(len(pool)),
            floor=(seen.num_waiting_reqs + seen.num_running_reqs).astype(np.float64),
            offset=3.0 * seen.num_waiting_reqs.astype(np.float64),
        )
        return Plan.oldest(ranks)


class TrtllmAdp:
    """TensorRT-LLM's attention-DP balancer: longest prompt first, onto the lightest rank.

    The oldest requests that find a slot, sorted by prompt length descending, go one by one to the
    rank with the fewest (resident prompt tokens, requests).
    """

    binding: ClassVar[Binding] = "pooled"

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Sort this step's requests by length and deal them to the lightest ranks."""
        num_sent = min(len(pool), int(view.max_sends.sum()))
        prompts = pool.prompt_tokens[:num_sent]
        order = np.argsort(-prompts, kind="stable")
        num_reqs = view.num_running_reqs + view.num_waiting_reqs
        # Requests break ties between equal token counts, so they count less than one token.
        score = (
            view.resident_prompt_tokens
            + view.due_tokens
            + num_reqs / (1 + num_reqs.sum() + num_sent)
        )
        growth = prompts[order] + 1 / (1 + num_reqs.sum() + num_sent)
        ranks = assign_by_score(
            score,
            np.full(view.num_ranks, -np.inf),
            np.zeros(view.num_ranks),
            growth,
            view.max_sends,
            view.free_kv_tokens,
            prompts[order],
            0,
        )
        return Plan(order[: len(ranks)], ranks)


class SmgLeastLoad:
    """smg's `least_load`: seconds of work queued and in flight, plus a KV-pressure term.

    ``(queued + in-flight tokens) / throughput + 0.15 * k / (1 - k)`` with k the KV usage.

    Parameters
    ----------
    window_s : float
        Seconds between two measurements of a rank's throughput, above 0.
    """

    binding: ClassVar[Binding] = "immediate"

    def __init__(self, *, window_s: float = 10.0) -> None:
        if not window_s > 0:
            raise ConfigError(f"window_s must be above 0 seconds, got {window_s}")
        self._window_s = window_s
        self._since_s = 0.0
        self._generated_tokens: Int64Array | None = None
        self._tokens_per_s: NDArray[np.float64] | None = None

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send each request to the rank that is expected to be done first."""
        self._measure(view)
        tokens = view.committed_tokens.astype(np.float64)
        usage = np.minimum(view.kv_usage, 1.0 - 1e-9)
        pressure_s = KV_RESISTANCE_GAIN * usage / (1.0 - usage)
        rate = self._tokens_per_s
        if rate is None:  # nothing measured yet: all ranks count as equally fast
            rate = np.ones(view.num_ranks)
        # In units of the mean rank's tokens, so that what a request adds is its prompt.
        scale = rate.mean()
        growth = pool.prompt_tokens.astype(np.float64)
        ranks = assign_lowest(view, pool, tokens * scale / rate, growth, offset=pressure_s * scale)
        return Plan.oldest(ranks)

    def _measure(self, view: GroupView) -> None:
        elapsed_s = view.now_s - self._since_s
        if self._generated_tokens is None:
            self._since_s, self._generated_tokens = view.now_s, view.generated_tokens.copy()
        elif elapsed_s >= self._window_s:
            made = view.generated_tokens - self._generated_tokens
            if (made > 0).all():
                self._tokens_per_s = made / elapsed_s
            self._since_s, self._generated_tokens = view.now_s, view.generated_tokens.copy()
