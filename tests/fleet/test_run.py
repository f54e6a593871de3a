"""A simulated fleet: its groups do what they do alone, and its figures are those of the parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from balanceroute.errors import ConfigError
from balanceroute.fleet.config import FleetConfig
from balanceroute.fleet.figures import FleetFigures
from balanceroute.fleet.run import simulate_fleet
from balanceroute.policies.registry import make_policy
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.fed import FedGroup
from balanceroute.sim.group import request_log
from balanceroute.sim.run import simulate
from balanceroute.types import Workload

STEP_TIME = StepTime(name="of a test", constant_s=0.01, s_per_token=1e-6)
GROUP = SimConfig(step_time=STEP_TIME, num_ranks=4, num_slots=4, arrivals="trace")
NUM_REQUESTS = 400


def requests(rate_per_s: float = 60.0, **columns: Any) -> Workload:
    """Return requests of all lengths at random times."""
    rng = np.random.default_rng(1)
    return Workload(
        name="test",
        prompt_tokens=rng.integers(1, 2000, NUM_REQUESTS).astype(np.int32),
        output_tokens=rng.integers(1, 60, NUM_REQUESTS).astype(np.int32),
        arrival_s=np.cumsum(rng.exponential(1 / rate_per_s, NUM_REQUESTS)),
        **columns,
    )


def figures(front: str = "br_fleet", workload: Workload | None = None, **settings: Any) -> Any:
    """Return what a run of three groups comes to."""
    num_processes = settings.pop("num_processes", 1)
    few = {"num_groups": 3, "least_ranks": 2, "most_ranks": 4, "arrivals": "trace"}
    config = FleetConfig(**{"group": GROUP, **few, **settings})
    return simulate_fleet(workload or requests(), config, front, num_processes=num_processes)


def same(one: FleetFigures, other: FleetFigures) -> bool:
    """Tell whether two runs differ in what they took only."""
    names = set(FleetFigures.__struct_fields__)
    names -= {"front_us", "rank_us", "wall_s", "memory_bytes"}
    return all(getattr(one, name) == getattr(other, name) for name in names)


@pytest.mark.parametrize("spec", ["br_auto", "br_0,select_by=margin", "least_tokens"])
@pytest.mark.parametrize("report_s", [0.0213, 0.5])
def test_a_group_serves_as_it_does_alone(spec: str, report_s: float) -> None:
    """Whoever sends the requests, and in stretches of whatever length."""
    workload, policy = requests(), make_policy(spec, rng=np.random.default_rng(0))
    alone = simulate(workload, GROUP, policy)
    log = request_log(workload.num_requests)
    rng = np.random.default_rng(0)
    fresh = make_policy(spec, rng=np.random.default_rng(0))
    group = FedGroup(GROUP, workload, fresh, requests=log, rng=rng, ends=None)
    assert workload.arrival_s is not None
    first, until_s = 0, 0.0
    while np.isnan(log["finished_s"]).any():
        until_s += report_s
        end = int(np.searchsorted(workload.arrival_s, until_s))
        group.run(until_s, np.arange(first, end), workload.arrival_s[first:end])
        first = end
    assert log["rank"].tolist() == alone.requests.rank.tolist()
    assert log["finished_s"].tolist() == alone.requests.finished_s.tolist()
    assert group.steps.duration_s.tolist() == alone.steps.duration_s.tolist()


@pytest.mark.slow
def test_figures_do_not_depend_on_the_number_of_processes() -> None:
    """Nor do two runs of the same seed differ."""
    assert same(figures(), figures(num_processes=2))


def test_everybody_is_served_and_counted() -> None:
    """With a front that cannot know better, too."""
    for front in ("round_robin", "power_of_two", "br_fleet"):
        its = figures(front)
        assert NUM_REQUESTS == its.num_requests
        assert 0.5 < its.efficiency <= 1.0
        assert 0.0 < its.busy_ratio <= 1.0
        assert its.prefix_hit_ratio is None
        assert its.front_us.p50 > 0.0


def test_one_group_alone_has_the_figures_of_a_simulation() -> None:
    """Efficiency and latencies, over the same window."""
    one: dict[str, Any] = {
        "num_groups": 1,
        "least_ranks": 4,
        "most_ranks": 4,
        "policy": "least_tokens",
    }
    its = figures("round_robin", **one)
    policy = make_policy("least_tokens", rng=np.random.default_rng(0))
    records = simulate(requests(), GROUP, policy)
    ttft_s = records.requests.first_token_s - records.requests.arrival_s
    assert np.quantile(ttft_s, 0.99) == pytest.approx(its.ttft_s.p99)
    steps = records.steps
    counted = steps.start_s < its.window_s[1]
    level_s = (steps.duration_s - steps.max_work_s + steps.mean_work_s)[counted].sum()
    assert level_s / steps.duration_s[counted].sum() == pytest.approx(its.efficiency)


def test_a_saturated_fleet_keeps_all_groups_busy() -> None:
    """The pools are filled at each report, from slots that are full from the beginning."""
    workload = replace(requests(), arrival_s=None)
    its = figures(workload=workload, arrivals="saturated", group=replace(GROUP, num_slots=2))
    assert its.busy_ratio > 0.98
    assert its.group_spread_ratio < 1.5


def test_a_prefix_cache_is_worth_what_it_saves() -> None:
    """Conversations of ten turns: a front that sends them home saves most prompt tokens."""
    ids = [list(range(100 * (row % 40), 100 * (row % 40) + 2 + row // 40)) for row in range(400)]
    prompts = np.array([16 * len(blocks) for blocks in ids], np.int32)
    workload = replace(requests(), prompt_tokens=prompts, block_ids=ids, block_tokens=16)
    group = replace(GROUP, prefill_budget_tokens=64, prefill_s_per_token=1e-4, prefix_cache=True)
    cached: dict[str, Any] = {"workload": workload, "group": group, "cache_tokens": 4000}
    home, anywhere = figures("br_fleet", **cached), figures("round_robin", **cached)
    assert home.prefix_hit_ratio > 0.7
    assert anywhere.prefix_hit_ratio < home.prefix_hit_ratio - 0.1
    assert home.ttft_s.mean < anywhere.ttft_s.mean


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_groups": 0}, "--groups must be at least 1, got 0"),
        ({"least_ranks": 5, "most_ranks": 4}, "got 5-4"),
        ({"least_ranks": 0}, "--ranks must be a number of at least 1"),
        ({"report_s": 0.0}, "--report-interval must be above 0 seconds, got 0.0"),
        ({"report_s": float("nan")}, "--report-interval"),
        ({"warmup_s": -1.0}, "--warmup-time must be at least 0 seconds, got -1.0"),
        ({"warmup_s": 1e9}, "nothing is left to measure"),
        ({"pool_size": 5}, "--pool is for --arrivals saturated"),
        ({"pool_size": 0, "arrivals": "saturated"}, "--pool must be at least 1, got 0"),
        ({"cache_tokens": -1}, "--cache-tokens must be at least 0, got -1"),
        ({"cache_tokens": 5}, "go together"),
        ({"num_groups": 3_000_000}, "must be at most"),
        ({"num_processes": 0}, "--processes must be at least 1, got 0"),
        ({"group": replace(GROUP, arrivals="saturated")}, "its arrivals are a trace"),
        ({"workload": replace(requests(), arrival_s=None)}, "no arrival times"),
        ({"group": replace(GROUP, kv_tokens=100)}, "but a rank has 100"),
        (
            {
                "group": replace(GROUP, prefill_budget_tokens=64, prefix_cache=True),
                "cache_tokens": 5,
            },
            "does not name the blocks",
        ),
    ],
)
def test_what_cannot_be_run(settings: dict[str, Any], message: str) -> None:
    """It is refused, with the setting, the value and what is allowed."""
    with pytest.raises(ConfigError, match=message):
        figures(**settings)
