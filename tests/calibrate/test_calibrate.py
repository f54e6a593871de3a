"""A calibration against an emulated group, whose step time is known."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from balanceroute.calibrate.fit import StepLaw, fit_step_law
from balanceroute.calibrate.run import calibrate
from balanceroute.cli import main
from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.step_time_file import StepTimeFile, read_step_time, write_step_time
from balanceroute.emulator.config import EngineConfig, ServerConfig
from balanceroute.emulator.serve import emulated_group
from balanceroute.errors import ConfigError
from balanceroute.sim.config import StepTime

COSTS = StepCosts(constant_s=0.008, s_per_token=1e-6, kappa0_tokens=500.0)


async def measure(costs: StepCosts) -> tuple[StepTimeFile, StepLaw]:
    engine = EngineConfig(costs=costs, num_ranks=2, num_slots=32)
    async with emulated_group(ServerConfig(engine=engine, port=0)) as group:
        return await calibrate(
            group.url, num_reqs=(1, 8), prompt_tokens=(64, 2000), output_tokens=24, repeats=2
        )


def test_the_law_of_an_emulated_group_is_found() -> None:
    """Step times that the law says, within a fifth of those that the group was told to take.

    The group keeps real time on a machine that does other things too, so the constants themselves
    may trade places; what a simulation makes of them may not.
    """
    found, _ = asyncio.run(measure(COSTS))
    for num_reqs, tokens in ((1, 500), (4, 4000), (8, 16_000)):
        told_s = COSTS.constant_s + COSTS.s_per_token * (500.0 * num_reqs + tokens)
        said_s = found.constant_s + found.s_per_token * (found.kappa0_tokens * num_reqs + tokens)
        assert 0.8 < said_s / told_s < 1.2
    assert 8 == found.num_samples
    assert found.median_error_ratio <= found.largest_error_ratio


@pytest.mark.parametrize(("shared", "mixed_step_s"), [(0.0, 0.0), (0.6, 0.03)])
def test_what_prompts_add_to_a_step_is_found(shared: float, mixed_step_s: float) -> None:
    """By length, on one rank against on each in the same step, and for being there at all.

    Far enough from each other that a busy machine does not make one of the other.
    """
    costs = StepCosts(
        constant_s=0.02,
        s_per_token=1e-6,
        prefill_s_per_token=5e-5,
        prefill_shared=shared,
        mixed_step_s=mixed_step_s,
        budget_tokens=4096,
    )
    found, _ = asyncio.run(measure(costs))
    assert found.prefill_s_per_token == pytest.approx(5e-5, rel=0.3)
    assert found.prefill_shared == pytest.approx(shared, abs=0.2)
    assert found.mixed_step_s == pytest.approx(mixed_step_s, abs=0.01)


def test_a_file_is_what_simulate_takes(tmp_path: Path) -> None:
    """Written, read and used."""
    found = StepTimeFile(
        source="a test",
        date="2026-01-01",
        constant_s=0.01,
        s_per_token=2e-8,
        kappa0_tokens=1900.0,
        prefill_s_per_token=1e-5,
        median_error_ratio=0.01,
        largest_error_ratio=0.05,
        num_samples=18,
    )
    path = tmp_path / "step-time.json"
    write_step_time(path, found)
    assert found == read_step_time(path)
    wanted = StepTime(name="measured", constant_s=0.01, s_per_token=2e-8, kappa0_tokens=1900.0)
    assert wanted == StepTime.parse(str(path), num_slots=72)


@pytest.mark.parametrize(
    ("content", "word"),
    [("{}", "missing required field"), ("nothing", "is no step-time file"), ('{"x": 1}', "x")],
)
def test_another_file_is_refused(tmp_path: Path, content: str, word: str) -> None:
    """With its name."""
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=word):
        StepTime.parse(str(path), num_slots=1)


def test_no_effect_of_tokens_is_refused_with_a_cure() -> None:
    """A step law without them would say that balance is worth nothing."""
    numbers = np.array([1.0, 1, 4, 4, 16, 16])
    with pytest.raises(ConfigError, match="longer prompts"):
        fit_step_law(numbers, numbers * 100, np.full(6, 0.01))


def test_a_request_costs_nothing_where_only_tokens_do() -> None:
    """No constant is negative, and none is made up."""
    numbers = np.array([1.0, 1, 4, 4, 16, 16])
    tokens = numbers * np.array([100, 1000, 100, 1000, 100, 1000])
    law = fit_step_law(numbers, tokens, 0.01 + 1e-6 * tokens)
    assert law.kappa0_tokens == pytest.approx(0.0, abs=1e-6)
    assert law.constant_s == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["http://127.0.0.1:9", "--requests", "0"], "--requests must be numbers of at least 1"),
        (["http://127.0.0.1:9", "--prompt-tokens", "x"], "--prompt-tokens must be numbers"),
        (["http://127.0.0.1:9", "--prompt-tokens", "64"], "needs two lengths or more, as 64,512"),
        (["http://127.0.0.1:9"], "does not answer as an OpenAI server"),
        (["deepseek-v4.h200_sxm"], "unknown model 'deepseek-v4'; did you mean 'deepseek-v3'"),
        (["127.0.0.1:9"], "A server is named by its URL, as http://127.0.0.1:8000"),
        (["llama-3-8b.h300"], "unknown device 'h300'"),
        (["llama-3-8b.h100_sxm", "--repeats", "3"], "are for a server's URL"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str],
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And says what is allowed."""
    monkeypatch.setattr("sys.argv", ["balanceroute", "calibrate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert 2 == ended.value.code
    message = capsys.readouterr().err
    assert word in message
    assert 1 == message.count("\n")
