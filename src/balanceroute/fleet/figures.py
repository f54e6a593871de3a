"""What a run of a fleet comes to."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from operator import attrgetter
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from balanceroute.fleet.config import FleetConfig
from balanceroute.fleet.front import Front
from balanceroute.fleet.shard import TO_BYTES, GroupSums, Outcome
from balanceroute.kernels.ledger import Int64Array, RecordArray
from balanceroute.metrics.figures import DecisionTimes, Distribution
from balanceroute.metrics.requests import describe
from balanceroute.metrics.summary import decision_times
from balanceroute.types import Workload


class FleetFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a front over one window.

    Attributes
    ----------
    front : str
        Policy that has chosen the groups.
    seed : int
        Of the run.
    throughput_tok_per_s : float
        Output tokens per second of all groups; higher is better.
    efficiency : float
        η over all ranks: Σ ranks · Σ (C + mean work) / Σ ranks · Σ (C + largest work), in (0, 1];
        higher is better. What ranks lose at their barriers.
    busy_ratio : float
        Part of the ranks' time in which their group made steps, in [0, 1]; what groups lose for
        want of requests is beyond it.
    ttft_s, tpot_s : Distribution
        Of requests that came in the window, or, where a saturated run ends with requests under way,
        whose first token, or end, came in it; lower is better.
    prefix_hit_ratio : float or None
        Part of the prompt tokens that came in the window which their group had cached, in [0, 1];
        higher is better. None without a prefix cache.
    group_spread_ratio : float
        Most over mean requests in flight per slot at the end; 1 is perfectly even.
    front_us, rank_us : DecisionTimes
        Processor time of one choice of groups (up to 16 requests that have come at once), and of
        one plan of a group's brain; lower is better.
    num_requests, num_steps : int
        Requests whose ends are counted, and steps of all groups in the window.
    window_s : tuple of float
        Of simulated time.
    wall_s, memory_bytes
        What the simulation took: seconds, and the largest memory of its processes together.
    """

    front: str
    seed: int
    throughput_tok_per_s: float
    efficiency: float
    busy_ratio: float
    ttft_s: Distribution
    tpot_s: Distribution
    prefix_hit_ratio: float | None
    group_spread_ratio: float
    front_us: DecisionTimes
    rank_us: DecisionTimes
    num_requests: int
    num_steps: int
    window_s: tuple[float, float]
    wall_s: float
    memory_bytes: int


class FleetResult(msgspec.Struct, frozen=True, kw_only=True):
    """The document of one comparison of fronts.

    Attributes
    ----------
    schema : str
        Name and version of this form.
    workload : str
        Preset or file.
    num_requests : int
        Of the workload.
    groups, ranks, slots : int
        Groups, ranks of all of them, and slots of each rank.
    policy : str
        That has chosen the ranks.
    arrivals : str
        ``"saturated"``, ``"trace"`` or ``"poisson"``.
    runs : tuple of FleetFigures
        One for each front.
    """

    schema: Literal["balanceroute.fleet.v1"] = "balanceroute.fleet.v1"
    workload: str
    num_requests: int
    groups: int
    ranks: int
    slots: int
    policy: str
    arrivals: str
    runs: tuple[FleetFigures, ...]


def efficiency_of(sums: Sequence[GroupSums]) -> float:
    """Return η over the ranks of all groups; see `FleetFigures`.

    Examples
    --------
    One group of two ranks that loses a tenth, and one of six that loses nothing:

    >>> lossy = GroupSums(group=0, num_ranks=2, num_steps=1, num_tokens=1, level_s=0.9, spent_s=1.0)
    >>> level = GroupSums(group=1, num_ranks=6, num_steps=1, num_tokens=1, level_s=1.0, spent_s=1.0)
    >>> efficiency_of([lossy, level])
    0.975
    """
    level_s = sum(each.num_ranks * each.level_s for each in sums)
    return level_s / sum(each.num_ranks * each.spent_s for each in sums)


def figures_of(
    outcomes: Sequence[Outcome],
    front: Front,
    workload: Workload,
    config: FleetConfig,
    *,
    spec: str,
    seed: int,
    arrival_s: NDArray[np.float64],
    window_s: tuple[float, float],
    wall_s: float,
) -> FleetFigures:
    """Gather what the shards have left behind."""
    begin_s, end_s = window_s
    # In the order of groups and rows: sums must not depend on who has simulated which group.
    sums = sorted((each for its in outcomes for each in its.sums), key=attrgetter("group"))
    rows = np.concatenate([outcome.rows for outcome in outcomes])
    order = np.argsort(rows)
    rows = rows[order]
    log: RecordArray = np.concatenate([outcome.requests for outcome in outcomes])[order]
    came_s, first_s, last_s = arrival_s[rows], log["first_token_s"], log["finished_s"]
    is_first = has_ended = (came_s >= begin_s) & (came_s < end_s)
    if config.is_saturated:
        is_first = (first_s > begin_s) & (first_s <= end_s)
        has_ended = (last_s > begin_s) & (last_s <= end_s)
    outputs = workload.output_tokens[rows]
    has_rate = has_ended & (outputs >= 2)
    rank_s = float(config.ranks_of.sum()) * (end_s - begin_s)
    busy_s = sum(each.num_ranks * each.spent_s for each in sums)
    decision_ns = np.concatenate([outcome.decision_ns for outcome in outcomes])
    return FleetFigures(
        front=spec,
        seed=seed,
        throughput_tok_per_s=sum(each.num_tokens for each in sums) / (end_s - begin_s),
        efficiency=efficiency_of(sums),
        busy_ratio=min(1.0, busy_s / rank_s),  # the last steps end after the window
        ttft_s=describe((first_s - came_s)[is_first]),
        tpot_s=describe(((last_s - first_s) / np.maximum(outputs - 1, 1))[has_rate]),
        prefix_hit_ratio=_hit_ratio(front, workload, came_s, rows, config, window_s),
        group_spread_ratio=_spread(front.reports, config),
        front_us=decision_times(np.array(front.decision_ns, np.int64)),
        rank_us=decision_times(decision_ns),
        num_requests=int(np.count_nonzero(has_ended)),
        num_steps=sum(each.num_steps for each in sums),
        window_s=window_s,
        wall_s=wall_s,
        memory_bytes=_memory_bytes(outcomes),
    )


def _hit_ratio(
    front: Front,
    workload: Workload,
    came_s: NDArray[np.float64],
    rows: Int64Array,
    config: FleetConfig,
    window_s: tuple[float, float],
) -> float | None:
    if config.cache_tokens == 0:
        return None
    came = rows[(came_s >= window_s[0]) & (came_s < window_s[1])]
    num_tokens = int(workload.prompt_tokens[came].sum(dtype=np.int64))
    return int(front.cached_tokens[came].sum(dtype=np.int64)) / max(num_tokens, 1)


def _spread(reports: RecordArray, config: FleetConfig) -> float:
    per_slot = (reports["num_running"] + reports["num_waiting"]) / config.ranks_of
    mean = float(per_slot.mean())
    return float(per_slot.max()) / mean if mean > 0 else 1.0


def _memory_bytes(outcomes: Sequence[Outcome]) -> int:
    # The first shard is in this process, which has grown since it was asked.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * TO_BYTES
    return own + sum(outcome.memory_bytes for outcome in outcomes[1:])
