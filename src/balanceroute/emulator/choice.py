"""Which rank an engine picks for a request that names none: vLLM's own rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

KV_PRESSURE_KNEE = 0.5  # usage from which the rule counts KV pressure
KV_PRESSURE_GAIN = 6.0  # requests, per waiting request and unit of excess usage


class Snapshot(NamedTuple):
    """What a rank published when its last step ended."""

    num_waiting: int
    num_running: int
    kv_usage: float


def choose_rank(
    snapshots: Sequence[Snapshot], num_inflight: Sequence[int], *, first_rank: int
) -> int:
    """Return the rank with the lowest score, the first of equals from `first_rank` on.

    Implements the rule of [1]_, which `balanceroute.policies.engines` has as a policy::

        score = max(inflight, waiting + running) + 6 * waiting * max(0, kv - 1/2)

    Parameters
    ----------
    snapshots : sequence of Snapshot, length G
        Queue lengths and KV usage in [0, 1] as of the last step.
    num_inflight : sequence of int, length G
        Requests sent to each rank and not finished.
    first_rank : int
        Where the scan begins, in [0, G).

    Returns
    -------
    int
        In [0, G).

    References
    ----------
    .. [1] vLLM 0.33.0, mid-2026 data-parallel client.

    Examples
    --------
    Scores 24, 10 and 10; the scan begins behind rank 1:

    >>> snapshots = [Snapshot(4, 8, 1.0), Snapshot(0, 9, 0.4), Snapshot(0, 10, 0.9)]
    >>> choose_rank(snapshots, [3, 10, 1], first_rank=2)
    2
    """
    num_ranks = len(snapshots)
    best, best_score = first_rank, float("inf")
    for turn in range(num_ranks):
        rank = (first_rank + turn) % num_ranks
        seen = snapshots[rank]
        excess = max(0.0, seen.kv_usage - KV_PRESSURE_KNEE)
        score = max(num_inflight[rank], seen.num_waiting + seen.num_running)
        score_with_kv = score + KV_PRESSURE_GAIN * seen.num_waiting * excess
        if score_with_kv < best_score:
            best, best_score = rank, score_with_kv
    return best
