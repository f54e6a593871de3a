from __future__ import annotations

import numpy as np
import pytest

from balanceroute.afd.cycle import Bundle, pipeline_s
from balanceroute.afd.loads import worker_load
from balanceroute.afd.optimum import Weights
from balanceroute.afd.profile import AttentionCost, FfnCost, NetworkCost
from balanceroute.afd.simulate import Loads, run_cycles, simulate_bundle, simulate_loads
from balanceroute.afd.slots import slot_load
from balanceroute.afd.sweep import simulated_best, sweep
from balanceroute.errors import ConfigError
from balanceroute.kernels import pipeline
from tests.afd.workloads import bundle, drawn, profile, requests

SECONDS = profile(
    attention=AttentionCost(s_per_token=1.0),
    ffn=FfnCost(s_per_request=0.0, constant_s=4.0),
    network=NetworkCost(constant_s=2.0),
)


def held(*rows: list[float]) -> list[Loads]:
    """Return loads of microbatches by the largest load per cycle; the mean is one token less."""
    return [Loads(max_tokens=np.array(row), mean_tokens=np.array(row) - 1) for row in rows]


def test_one_microbatch_by_hand() -> None:
    """3 + 1 + 4 + 1 s, then 5 + 1 + 4 + 1 s: 20 s, of which FFN works 8 and waits 12."""
    one = Bundle(profile=SECONDS, num_slots=2, num_microbatches=1)
    run = run_cycles(one, 3, held([3.0, 5.0]))
    assert run.end_s.tolist() == [[9.0, 20.0]]
    assert run.cycle_s == 10.0
    assert run.tokens_per_s == pytest.approx(2 * 3 * 2 / 20)
    idle = run.idle
    # Attention waits 6 s after its first cycle: 2 on the network, 4 for FFN. Its mean worker is
    # done 1 s before the slowest, each time; FFN waits for that too.
    assert idle.attention_ffn_ratio == pytest.approx(4 / 20)
    assert idle.attention_network_ratio == pytest.approx(2 / 20)
    assert idle.attention_barrier_ratio == pytest.approx(2 / 20)
    assert idle.ffn_network_ratio == pytest.approx(3 / 20)
    assert idle.ffn_barrier_ratio == pytest.approx(2 / 20)
    assert idle.ffn_attention_ratio == pytest.approx(6 / 20)


def test_two_microbatches_by_hand() -> None:
    """FFN binds: A0 0-3, out -4, F0 4-8; A1 3-6, out -7, F1 8-12; back 8-9 and 12-13."""
    two = Bundle(profile=SECONDS, num_slots=2, num_microbatches=2)
    run = run_cycles(two, 3, held([3.0], [3.0]))
    assert run.end_s.tolist() == [[9.0], [13.0]]
    assert run.tpot_s == pytest.approx(2 * run.cycle_s)


@pytest.mark.parametrize("num_microbatches", [1, 2, 3])
def test_every_second_of_ffn_is_work_or_has_a_cause(num_microbatches: int) -> None:
    """Work and the causes of idleness add up to the time until the last FFN is done."""
    rng = np.random.default_rng(0)
    times = rng.uniform(1.0, 9.0, size=(num_microbatches, 200))
    end_s, idle_s = np.zeros(times.shape), np.zeros(pipeline.NUM_CAUSES)
    pipeline.run_pipeline(times, times - 0.5, 4.0, 1.0, end_s, idle_s)
    causes = idle_s[pipeline.FFN_FOR_ATTENTION :].sum()
    assert causes + 4.0 * times.size == pytest.approx(end_s.max() - 1.0)
    assert (idle_s >= 0).all()


def test_loads_grow_by_a_token_and_end_with_their_requests() -> None:
    """One worker, one slot, one kind of request: a saw tooth from 10 to 12."""
    loads = simulate_loads(
        requests([10, 10], [3, 3]), 1, 1,
        num_cycles=7, rng=np.random.default_rng(0), start="empty",
    )  # fmt: skip
    assert loads[:, 0].tolist() == [10, 11, 12, 10, 11, 12, 10]


def test_strides_skip_rows_of_the_same_run() -> None:
    """Every third row of a run is the run with a stride of 3."""
    workload = drawn()
    plain, strided = (
        simulate_loads(
            workload, 8, 3, num_cycles=n, rng=np.random.default_rng(1), order="trace", stride=k
        )
        for n, k in ((60, 1), (20, 3))
    )
    assert (plain[::3] == strided).all()


@pytest.mark.parametrize("num_workers", [4, 16])
def test_the_simulated_bundle_agrees_with_the_prediction(num_workers: int) -> None:
    """Loads to 1 %, cycles to 1 %, from the first cycle on, since the start is stationary."""
    workload, plain = drawn(), bundle(64)
    load = worker_load(slot_load(workload), 64)
    run = simulate_bundle(workload, plain, num_workers, num_cycles=6000)
    assert run.mean_load_tokens == pytest.approx(load.mean_tokens, rel=0.01)
    assert run.max_load_tokens == pytest.approx(load.expected_max(num_workers), rel=0.01)
    assert run.cycle_s == pytest.approx(pipeline_s(plain, load, num_workers), rel=0.01)


def test_from_empty_slots_loads_start_at_the_prompts() -> None:
    """And rise towards θ over the first outputs."""
    workload = drawn()
    loads = simulate_loads(
        workload, 64, 8, num_cycles=400, rng=np.random.default_rng(0), start="empty"
    ).mean(axis=1)
    mean = worker_load(slot_load(workload), 64).mean_tokens
    assert loads[0] == pytest.approx(64 * workload.prompt_tokens.mean(), rel=0.2)
    assert loads[0] < 0.9 * mean
    assert loads[200:].mean() == pytest.approx(mean, rel=0.05)


def test_the_same_seed_gives_the_same_run() -> None:
    """And another seed another."""
    workload, plain = drawn(), bundle(16)
    runs = [
        simulate_bundle(workload, plain, 4, num_cycles=200, seed=seed).end_s for seed in (1, 1, 2)
    ]
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()


def test_sorted_requests_in_their_order_fill_workers_alike() -> None:
    """In order, neighbours have equal lengths and the total swings; shuffled it does not."""
    workload = drawn()
    by_prompt = workload.select(np.argsort(workload.prompt_tokens, kind="stable"))
    swings = [
        simulate_loads(
            by_prompt, 32, 8, num_cycles=3000, rng=np.random.default_rng(0), order=order
        ).mean(axis=1).std()
        for order in ("shuffled", "trace")
    ]  # fmt: skip
    assert swings[1] > 3 * swings[0]


def test_a_sweep_has_the_bundles_that_it_was_asked_for() -> None:
    """Each as simulated alone but for chance, and the best is the one with the most tokens."""
    workload, plain = drawn(), bundle(32)
    points = sweep(workload, plain, Weights(), [8, 2, 4, 4], num_cycles=4000)
    assert [each.r for each in points] == [2, 4, 8]
    for each in points:
        alone = simulate_bundle(workload, plain, each.r, num_cycles=4000, seed=5)
        assert each.cycle_s == pytest.approx(alone.cycle_s, rel=0.02)
        assert each.cycle_s == pytest.approx(each.pipeline_s, rel=0.02)
    assert simulated_best(points).value == max(each.value for each in points)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": 0}, "--workers must be at least 1, got 0"),
        ({"num_cycles": 0}, "--cycles must be at least 1, got 0"),
        ({"num_workers": 10**8}, "--slots must be at most 100,000,000, got 100000000 times 8"),
        ({"num_cycles": 10**8}, "--cycles must be at most 100,000,000, got 2 times 100000000"),
        ({"start": "warm"}, "--start must be one of stationary, empty, got 'warm'"),
        ({"order": "random"}, "--order must be one of shuffled, trace, got 'random'"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    """They name the option."""
    with pytest.raises(ConfigError, match=message):
        simulate_bundle(drawn(), bundle(8), **{"num_workers": 2, **settings})  # type: ignore[arg-type]


def test_bad_sweeps() -> None:
    """No bundle, or more than memory holds."""
    with pytest.raises(ConfigError, match="at least 1, got"):
        sweep(drawn(), bundle(8), Weights(), [])
    with pytest.raises(ConfigError, match="at most 100,000,000"):
        sweep(drawn(), bundle(8), Weights(), [1000], num_cycles=1_000_000)
