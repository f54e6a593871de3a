"""A plan over the hours of a day: which r when, and whether changing it pays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from balanceroute.afd.cycle import Bundle, pipeline_s
from balanceroute.afd.loads import WorkerLoad, worker_load
from balanceroute.afd.optimum import Weights, best_real
from balanceroute.afd.slots import Float64Array, slot_load
from balanceroute.errors import ConfigError
from balanceroute.types import Workload

LEAST_REQUESTS = 100  # of a window, to estimate its θ
MAX_WINDOWS = 10_000
S_PER_HOUR = 3600.0
REAL_TOLERANCE = 0.1  # of a real r


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One window of time.

    Attributes
    ----------
    start_s : float
        When it begins.
    num_requests : int
        Requests that arrive in it.
    theta_tokens : float
        θ of its requests.
    tokens_per_s : float
        Output tokens that they ask for, per second.
    r_best : int
        The r with which its demand costs least.
    r : int
        The r of the cheapest schedule.
    num_bundles : float
        Bundles of that r that serve the demand, not rounded.
    cost : float
        Device-hours (or money) that they cost in the window.
    """

    start_s: float
    num_requests: int
    theta_tokens: float
    tokens_per_s: float
    r_best: int
    r: int
    num_bundles: float
    cost: float


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """The windows, and what three ways to size the bundles cost.

    Attributes
    ----------
    windows : tuple of Window
        In order of time.
    window_s, resize_s : float
        Length of a window, and how long a bundle is lost when it changes its r.
    r_fixed : int
        The one r for all windows that costs least.
    fixed_cost, scheduled_cost, free_cost : float
        With that r; with the cheapest schedule, re-sizing included; and with each window's own best
        r if re-sizing cost nothing. The number of bundles follows the demand in all three.
    num_resizes : int
        Changes of r in the schedule.
    """

    windows: tuple[Window, ...]
    window_s: float
    resize_s: float
    r_fixed: int
    fixed_cost: float
    scheduled_cost: float
    free_cost: float
    num_resizes: int


def schedule(
    workload: Workload,
    bundle: Bundle,
    weights: Weights,
    *,
    window_s: float = 3600.0,
    resize_s: float = 300.0,
    max_workers: int = 128,
    barrier_ratio: float = 1.0,
) -> Schedule:
    """Plan each window of a trace, and find the cheapest way through them (ours).

    Demand is served by as many bundles as it takes, also fractions of one. Changing r from one
    window to the next costs every bundle of the new size `resize_s`; the sequence of least cost
    comes from dynamic programming over the values of r that are best in some window.

    Parameters
    ----------
    workload : Workload
        With arrival times.
    bundle, weights
        As of `balanceroute.afd.plan.Planner`.
    window_s, resize_s : float
        Above 0; at least 0.
    max_workers : int
        Largest r.
    barrier_ratio : float
        Part of the barrier's cost that routing leaves, as of `balanceroute.afd.answer.Plan`.

    Raises
    ------
    ConfigError
        If there are no arrival times, a number is out of range, or a window has too few requests.
    """
    starts, parts = _windows(workload, window_s, resize_s)
    slots = [slot_load(part) for part in parts]
    loads = [worker_load(slot, bundle.num_slots).squeezed(barrier_ratio) for slot in slots]
    best = [_best(bundle, weights, load, max_workers) for load in loads]
    near = {r + step for r in best for step in (-1, 0, 1)}
    choices = sorted(r for r in near if 1 <= r <= max_workers)
    demand = np.array([part.output_tokens.sum() / window_s for part in parts])
    counts = demand[:, None] / _rates(bundle, loads, choices)
    per_second = counts * [weights.of(r, bundle.num_ffn_workers) for r in choices] / S_PER_HOUR
    costs, changes = per_second * window_s, per_second * resize_s
    path = cheapest_path(costs, changes)
    rows = list(range(len(parts)))
    resized = np.flatnonzero(np.diff(path)) + 1
    fixed = int(costs.sum(axis=0).argmin())
    own = costs.argmin(axis=1)
    windows = tuple(
        Window(
            start_s=float(starts[i]),
            num_requests=parts[i].num_requests,
            theta_tokens=slots[i].theta_tokens.value,
            tokens_per_s=float(demand[i]),
            r_best=choices[own[i]],
            r=choices[path[i]],
            num_bundles=float(counts[i, path[i]]),
            cost=float(costs[i, path[i]]),
        )
        for i in rows
    )
    return Schedule(
        windows=windows,
        window_s=window_s,
        resize_s=resize_s,
        r_fixed=choices[fixed],
        fixed_cost=float(costs[:, fixed].sum()),
        scheduled_cost=float(costs[rows, path].sum() + changes[resized, path[resized]].sum()),
        free_cost=float(costs[rows, own].sum()),
        num_resizes=len(resized),
    )


def cheapest_path(
    costs: Float64Array,
    changes: Float64Array,
) -> NDArray[np.int64]:
    """Return the choice per window with the least sum of costs and changes.

    Parameters
    ----------
    costs, changes : float64 array, shape (W, K)
        Cost of choice k in window w, and of changing to it there from any other.

    Examples
    --------
    >>> costs = np.array([[1.0, 5.0], [5.0, 1.0], [1.0, 5.0]])
    >>> cheapest_path(costs, np.full((3, 2), 1.0)), cheapest_path(costs, np.full((3, 2), 9.0))
    (array([0, 1, 0]), array([0, 0, 0]))
    """
    num_windows, num_choices = costs.shape
    total, came_from = costs[0].copy(), np.zeros((num_windows, num_choices), np.int64)
    for w in range(1, num_windows):
        cheapest = int(total.argmin())
        by_change = total[cheapest] + changes[w]
        came_from[w] = np.where(by_change < total, cheapest, np.arange(num_choices))
        total = np.minimum(total, by_change) + costs[w]
    path = np.zeros(num_windows, np.int64)
    path[-1] = int(total.argmin())
    for w in range(num_windows - 1, 0, -1):
        path[w - 1] = came_from[w, path[w]]
    return path


def _rates(bundle: Bundle, loads: list[WorkerLoad], choices: list[int]) -> Float64Array:
    """Return output tokens per second of one bundle, by window and choice of r."""
    return np.array(
        [[r * bundle.num_slots / pipeline_s(bundle, load, r) for r in choices] for load in loads]
    )


def _best(bundle: Bundle, weights: Weights, load: WorkerLoad, max_workers: int) -> int:
    def cycle_s(num_workers: float) -> float:
        return pipeline_s(bundle, load, num_workers)

    return round(best_real(bundle, weights, cycle_s, 1, max_workers, tolerance=REAL_TOLERANCE))


def _windows(
    workload: Workload, window_s: float, resize_s: float
) -> tuple[Sequence[float], list[Workload]]:
    """Cut a trace into whole windows; what comes after the last whole one is left out."""
    if workload.arrival_s is None:
        raise ConfigError(
            f"{workload.name} has no arrival times, so there are no hours to plan for; use a trace "
            "that has them, or leave --window-s out"
        )
    if not (math.isfinite(window_s) and window_s > 0):
        raise ConfigError(f"--window-s must be a number above 0, got {window_s:g}")
    if not (math.isfinite(resize_s) and resize_s >= 0):
        raise ConfigError(f"--resize-s must be a number of at least 0, got {resize_s:g}")
    span_s = float(workload.arrival_s[-1])
    num_windows = int(span_s / window_s + 1e-3)
    if not 1 <= num_windows <= MAX_WINDOWS:
        raise ConfigError(
            f"--window-s {window_s:g} cuts {span_s:.0f} s into {num_windows} whole windows; choose "
            f"one of at most {span_s:.0f} s that gives at most {MAX_WINDOWS:,}"
        )
    starts = np.arange(num_windows) * window_s
    bounds = np.searchsorted(workload.arrival_s, np.append(starts, num_windows * window_s))
    least = int(np.diff(bounds).min())
    if least < LEAST_REQUESTS:
        raise ConfigError(
            f"--window-s {window_s:g} leaves a window with {least} requests; θ needs at least "
            f"{LEAST_REQUESTS}, so take longer windows"
        )
    parts = [workload.select(slice(int(a), int(b))) for a, b in itertools.pairwise(bounds)]
    return starts.tolist(), parts
