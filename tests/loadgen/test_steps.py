"""The steps of an emulated group become the steps of the run."""

from __future__ import annotations

import numpy as np
import pytest

from balanceroute.cluster.costs import StepCosts
from balanceroute.emulator.config import EngineConfig, ServerConfig
from balanceroute.emulator.serve import emulated_group
from balanceroute.loadgen import LoadConfig, Measurement, replay
from balanceroute.metrics import summarize
from balanceroute.types import Workload
from tests.loadgen.servers import finish, requests

RANKS, SLOTS, STEP_S = 2, 2, 0.02


def measure_group(
    workload: Workload,
    *,
    speedup: float = 1.0,
    budget_tokens: int | None = None,
    max_records: int = 1000,
    **settings: object,
) -> Measurement:
    """Replay requests against an emulated group, and read its steps."""
    costs = StepCosts(constant_s=STEP_S, s_per_token=1e-5, budget_tokens=budget_tokens)
    engine = EngineConfig(costs=costs, num_ranks=RANKS, num_slots=SLOTS, max_records=max_records)

    async def run() -> Measurement:
        async with emulated_group(ServerConfig(engine=engine, port=0, speedup=speedup)) as group:
            url = group.urls[0]
            config = LoadConfig(url=url, steps_url=url, **settings)  # type: ignore[arg-type]
            for _ in range(2):  # the second run must not see the steps of the first
                measured = await replay(workload, config)
            return measured

    return finish(run())


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_every_token_is_in_a_step(api: str) -> None:
    """The group's steps hold the tokens that the client has seen, in both forms of the API."""
    outputs = [3, 5, 9, 1, 4, 6] * 2
    found = measure_group(requests(outputs, prompts=[50] * 12), pool=2, api=api)
    steps = found.records.steps
    assert sum(outputs) == int(steps.num_tokens.sum()) == found.records.requests.output_tokens.sum()
    assert (0, 0, RANKS) == (
        found.num_wrong_lengths,
        found.num_preemptions,
        found.records.num_ranks,
    )
    assert [50] * 12 == found.records.requests.prompt_tokens.tolist()
    assert RANKS * SLOTS + 2 == found.concurrency


def test_clocks_of_group_and_client_agree() -> None:
    """A first token is seen just after the end of a step, and its request was admitted in it."""
    found = measure_group(requests([2] * 20), pool=4)
    run = found.records
    ends_s = run.steps.start_s + run.steps.duration_s
    since_s = run.requests.first_token_s[:, None] - ends_s[None, :]
    delay_s = np.min(np.where(since_s > -STEP_S / 4, since_s, np.inf), axis=1)
    assert np.median(delay_s) < STEP_S / 2
    assert np.isfinite(run.requests.admitted_s).all()
    assert np.isin(run.requests.admitted_s, run.steps.start_s).all()
    waits_s = run.requests.admitted_s - run.requests.arrival_s
    assert waits_s.min() > -STEP_S / 4


def test_figures_are_those_of_a_simulation() -> None:
    """`summarize` works on the records: efficiency, idle share, waits, throughput."""
    metrics = summarize(measure_group(requests([4] * 24, prompts=[10, 1000] * 12), pool=4).records)
    assert 0.5 < metrics.efficiency < 1.0
    assert metrics.idle_ratio > 0.0
    assert metrics.longest_wait_ratio is not None
    assert metrics.mean_step_s == pytest.approx(STEP_S + 0.01, rel=0.5)


def test_a_faster_group_is_measured_in_its_own_seconds() -> None:
    """At five times the speed a step still lasts 20 emulated ms, for steps and tokens alike."""
    found = measure_group(requests([10] * 4), speedup=5.0, concurrency=4)
    run = found.records
    assert 5.0 == found.speedup
    assert pytest.approx(STEP_S, rel=0.1) == np.median(run.steps.duration_s)
    tpot_s = (run.requests.finished_s - run.requests.first_token_s) / 9
    assert pytest.approx(STEP_S, rel=0.5) == np.median(tpot_s)
    assert any("emulated seconds" in note for note in found.notes)


def test_ranks_that_prefill_do_not_tell_when_requests_were_admitted() -> None:
    """A first token may come many steps after admission, so no wait is made up."""
    found = measure_group(requests([2] * 4), budget_tokens=64, concurrency=4)
    assert np.isnan(found.records.requests.admitted_s).all()


def test_loads_are_sampled() -> None:
    """Twice a second, a row of all ranks."""
    found = measure_group(requests([40] * 4, prompts=[100] * 4), concurrency=4)
    samples = found.records.samples
    assert samples.load_tokens.shape == (len(samples.time_s), RANKS)
    assert samples.load_tokens.max() >= 200


def test_a_run_is_not_lost_with_its_steps() -> None:
    """A group that has dropped the steps leaves what the client has seen, and a note."""
    found = measure_group(requests([20] * 4), max_records=4, concurrency=4)
    assert (4, 0) == (found.num_answered, len(found.records.steps.start_s))
    assert any("has dropped steps" in note for note in found.notes)
