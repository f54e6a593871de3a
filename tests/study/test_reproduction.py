"""The harness around the authors' simulator, and the fit of plan times."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from balanceroute.types import Workload
from bench.reproduce.authors import Authors
from bench.reproduce.speed import fit

SCHEDULER = """
class SchedulerSim:
    last_assign_step = 7

    def __init__(self, **settings):
        self.settings = settings

    def run(self):
        return {
            "avg_gpu_imbalance": self.settings["policy_fn"](self),
            "avg_gpu_idle_rate": 0.5,
            "throughput_tokens_per_sec": float(sum(self.settings["o_list"])),
            "total_energy": 1000.0 * self.settings["reveal_target"],
        }
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder laid out as theirs is, with stand-ins for what the harness calls."""
    strategies = tmp_path / "simlib" / "strategies"
    strategies.mkdir(parents=True)
    (tmp_path / "simlib" / "scheduler.py").write_text(SCHEDULER)
    (tmp_path / "simlib" / "__init__.py").write_text("from .scheduler import SchedulerSim\n")
    ahead = "HORIZON_MAX = 72\ndef policy(sim):\n    return float(HORIZON_MAX)\n"
    (strategies / "strategy_balance_future.py").write_text(ahead)
    (strategies / "__init__.py").write_text("from .strategy_balance_future import policy\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "simlib"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_their_simulator_gets_our_requests_and_the_horizon(checkout: Path) -> None:
    """Outputs of 3 + 4 tokens, horizon 20, pool of 8: all three arrive, and energy is in kJ."""
    lengths = np.array([3, 4], np.int32)
    workload = Workload(name="two", prompt_tokens=lengths, output_tokens=lengths)
    figures = Authors(checkout).run("policy", 20, workload, ranks=2, slots=3, pool=8)
    assert (20.0, 0.5, 7.0, 8.0, 7.0) == tuple(
        figures[name]
        for name in (
            "imbalance_before_refill",
            "idle_before_refill",
            "throughput",
            "energy_kj",
            "num_steps",
        )
    )


def test_another_folder_is_no_checkout(tmp_path: Path) -> None:
    """The message names the folder and what is missing."""
    with pytest.raises(SystemExit, match="holds no simlib/scheduler"):
        Authors(tmp_path)


def test_the_fit_finds_the_exponents_that_made_the_times() -> None:
    """Of 3 G^0.5 waiting^0.25 (1 + H)^1, with nothing to explain by the running requests."""
    rows = [
        {
            "ranks": ranks,
            "waiting": waiting,
            "active": active,
            "horizon": horizon,
            "plan_us": 3.0 * ranks**0.5 * waiting**0.25 * (1 + horizon),
        }
        for ranks in (4, 16)
        for waiting in (8, 64)
        for active in (100, 1000)
        for horizon in (0, 20)
    ]
    found = fit(rows)
    expected = {"t0_us": 3.0, "ranks": 0.5, "waiting": 0.25, "active": 0.0, "horizon": 1.0}
    assert {**expected, "largest_factor_off": 1.0} == pytest.approx(found, abs=1e-9)
