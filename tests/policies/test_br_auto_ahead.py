"""br_auto: when it looks ahead, and how the work of that is spread over plans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.policies import Plan
from balanceroute.policies.auto import BrAuto
from balanceroute.policies.projection import Projection
from balanceroute.types import RunRecords, Workload
from tests.policies.test_br_auto import mixed_workload, saturated


def two_kinds() -> Workload:
    """Return requests of which half have a slightly longer prompt and a tenfold output."""
    is_long = np.random.default_rng(3).random(6000) < 0.5
    return Workload(
        name="two kinds",
        prompt_tokens=np.where(is_long, 150, 100).astype(np.int32),
        output_tokens=np.where(is_long, 400, 40).astype(np.int32),
    )


def test_long_outputs_that_prompts_foretell_are_levelled_ahead() -> None:
    """Looking ahead pays where a small difference of prompts foretells a large one of outputs."""
    workload = two_kinds()
    now = _efficiency(saturated(workload, "br_auto,look_ahead=false", num_ranks=8, pool=64))
    ahead = _efficiency(saturated(workload, "br_auto", num_ranks=8, pool=64))
    assert ahead > now + 0.005


@pytest.mark.parametrize("is_ahead", [False, True])
def test_no_plan_does_two_parts_of_the_upkeep(
    is_ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lessons, looks and both parts of choosing horizons each have plans of their own."""
    done: list[str] = []
    per_plan: list[list[str]] = []

    def count(name: str) -> None:
        part = getattr(Projection, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            return part(*args, **kwargs)

        monkeypatch.setattr(Projection, name, counted)

    def plan(self: BrAuto, view: GroupView, pool: PoolView) -> Plan:
        done.clear()
        made = unwatched(self, view, pool)
        per_plan.append([name for name in done if name != "gains" or not is_ahead])
        return made

    for name in ("teach", "look", "set_future", "gains"):
        count(name)
    unwatched = BrAuto.plan
    monkeypatch.setattr(BrAuto, "plan", plan)
    saturated(two_kinds() if is_ahead else mixed_workload(), "br_auto", num_ranks=8, pool=64)
    assert max(len(parts) for parts in per_plan) == 1
    expected = (
        ["look", "set_future", "teach"] if is_ahead else ["gains", "look", "set_future", "teach"]
    )
    assert expected == sorted({name for parts in per_plan for name in parts})


def _efficiency(records: RunRecords) -> float:
    steps, (begin, end) = records.steps, records.window_s
    is_counted = (steps.start_s >= begin) & (steps.start_s < end)
    spent = steps.duration_s[is_counted].sum()
    wasted = (steps.max_work_s - steps.mean_work_s)[is_counted].sum()
    return float(1.0 - wasted / spent)
