from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from balanceroute.afd.hours import cheapest_path, schedule
from balanceroute.afd.optimum import Weights
from balanceroute.afd.slots import Float64Array
from balanceroute.errors import ConfigError
from balanceroute.types import Workload
from tests.afd.workloads import bundle, drawn


def day(num_windows: int = 4, per_window: int = 600) -> Workload:
    """Return windows of 100 s; in every second one prompts are ten times as long."""
    parts = [drawn(seed=w, num_requests=per_window) for w in range(num_windows)]
    prompts = [part.prompt_tokens * (10 if w % 2 else 1) for w, part in enumerate(parts)]
    arrivals = np.linspace(0, 100 * num_windows, num_windows * per_window)
    return replace(
        parts[0],
        prompt_tokens=np.concatenate(prompts),
        output_tokens=np.concatenate([part.output_tokens for part in parts]),
        arrival_s=arrivals,
    )


def total(path: tuple[int, ...], costs: Float64Array, changes: Float64Array) -> float:
    """Return what a sequence of choices costs, its changes included."""
    changed = [float(changes[w, k]) for w, k in enumerate(path) if w and path[w - 1] != k]
    return sum(float(costs[w, k]) for w, k in enumerate(path)) + sum(changed)


def test_the_path_is_the_cheapest_of_all() -> None:
    """Against trying every sequence of three choices over five windows."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        costs, changes = rng.uniform(0, 1, (5, 3)), rng.uniform(0, 0.5, (5, 3))
        paths = list(itertools.product(range(3), repeat=5))
        best = min(paths, key=partial(total, costs=costs, changes=changes))
        assert tuple(cheapest_path(costs, changes).tolist()) == best


def test_sizes_follow_the_load_if_changing_is_cheap() -> None:
    """Long prompts want more attention workers; the schedule changes each time, or never."""
    cheap, dear = (
        schedule(day(), bundle(64), Weights(), window_s=100.0, resize_s=resize_s)
        for resize_s in (0.0, 1e5)
    )
    best = [each.r_best for each in cheap.windows]
    assert best[1] > best[0]
    assert [each.r for each in cheap.windows] == best
    assert cheap.num_resizes == 3
    assert dear.num_resizes == 0
    assert {each.r for each in dear.windows} == {dear.r_fixed}
    assert cheap.free_cost == pytest.approx(cheap.scheduled_cost)
    assert cheap.scheduled_cost < cheap.fixed_cost
    assert dear.scheduled_cost == pytest.approx(dear.fixed_cost)


def test_bundles_follow_the_demand() -> None:
    """Twice the requests in a window take twice the bundles."""
    plan = schedule(day(2), bundle(64), Weights(), window_s=100.0)
    twice = replace(day(2), arrival_s=np.linspace(0, 100, 1200))
    faster = schedule(twice, bundle(64), Weights(), window_s=50.0)
    for one, two in zip(plan.windows, faster.windows, strict=True):
        assert two.num_bundles == pytest.approx(2 * one.num_bundles, rel=0.05)


def test_routing_saves_bundles() -> None:
    """Without a barrier the same demand takes fewer of them, where attention binds."""
    plain, level = (
        schedule(day(2), bundle(8), Weights(), window_s=100.0, barrier_ratio=ratio)
        for ratio in (1.0, 0.0)
    )
    assert level.windows[1].num_bundles * (level.windows[1].r + 1) < 0.99 * (
        plain.windows[1].num_bundles * (plain.windows[1].r + 1)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_s": 0.0}, "--window-s must be a number above 0, got 0"),
        ({"resize_s": -1.0}, "--resize-s must be a number of at least 0, got -1"),
        ({"window_s": 1000.0}, "into 0 whole windows; choose one of at most 400 s"),
        ({"window_s": 1.0}, "leaves a window with 5 requests; .*at least 100"),
    ],
)
def test_windows_that_cannot_be(settings: dict[str, float], message: str) -> None:
    """They name the option and what would do."""
    with pytest.raises(ConfigError, match=message):
        schedule(day(), bundle(64), Weights(), **{"window_s": 100.0, **settings})  # type: ignore[arg-type]


def test_a_trace_without_times_has_no_hours() -> None:
    """That is said."""
    with pytest.raises(ConfigError, match="no arrival times"):
        schedule(drawn(), bundle(64), Weights())
