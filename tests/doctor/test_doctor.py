"""What `doctor` says of groups of which is known what they lose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from aiohttp import web
from numpy.typing import NDArray
from typer.testing import CliRunner

from balanceroute.cli import app
from balanceroute.cluster.costs import StepCosts
from balanceroute.doctor.diagnosis import Diagnosis, diagnose
from balanceroute.doctor.samples import Samples, read_look, take_samples
from balanceroute.emulator.config import EngineConfig
from balanceroute.errors import ConfigError
from balanceroute.sim.config import StepTime
from tests.live.virtual import Virtual

COSTS = StepCosts(constant_s=0.01, s_per_token=1e-6)
RANKS, SLOTS = 4, 16
STEPS_PER_LOOK = 10


def served(policy: str) -> tuple[Samples, float, float]:
    """Return looks at a group in virtual time, its efficiency, and its tokens per second."""
    rng = np.random.default_rng(2)
    lengths = np.column_stack([rng.geometric(1 / 500, 2500), rng.geometric(1 / 80, 2500)])
    config = EngineConfig(costs=COSTS, num_ranks=RANKS, num_slots=SLOTS, block_size=1)
    virtual = Virtual(config, lengths, policy=policy, num_waiting=16)
    looks, times_s, before_s, gap_s, num_gaps = [], [], 0.0, np.zeros(RANKS), np.zeros(RANKS)
    for step in virtual.steps():
        ranks = virtual.group.ledger.ranks
        gap_s += (virtual.now_s - before_s) * ranks["num_decoding"]
        num_gaps += ranks["num_decoding"]
        before_s = virtual.now_s
        if step % STEPS_PER_LOOK == 0 and step > 90:
            load = np.array([rank.load_tokens for rank in virtual.engine.ranks], float)
            counters = (gap_s.copy(), num_gaps.copy(), ranks["generated_tokens"].astype(float))
            looks.append(
                (
                    load,
                    ranks["num_running"].astype(float),
                    ranks["num_waiting"].astype(float),
                    *counters,
                )
            )
            times_s.append(virtual.now_s)
    columns = [np.array(column) for column in zip(*looks, strict=True)]
    load, running, waiting, gaps, counts, generated = columns
    num_ended = generated / lengths[:, 1].mean()
    samples = Samples(
        time_s=np.array(times_s),
        load_tokens=load,
        num_running=running,
        num_waiting=waiting,
        gap_s=gaps,
        num_gaps=counts,
        generated_tokens=generated,
        prompt_tokens=num_ended * lengths[:, 0].mean(),
        num_ended=num_ended,
    )
    totals = virtual.engine.totals
    efficiency = 1.0 - (totals.max_work_s - totals.mean_work_s) / totals.step_s
    return (
        samples,
        efficiency,
        float(generated[-1].sum() - generated[0].sum()) / (times_s[-1] - times_s[0]),
    )


def test_the_gain_told_is_the_gain_that_a_replay_shows() -> None:
    """Costs, barrier and loss are found in the metrics; the gain is within 15 % of the replay's."""
    samples, efficiency, before = served("round_robin")
    _, _, after = served("br_auto")
    found = diagnose(samples)
    assert "yes" == found.has_barrier
    assert "gain" == found.verdict
    assert found.s_per_token == pytest.approx(1e-6, rel=0.15)
    assert found.idle_ratio == pytest.approx(1.0 - efficiency, rel=0.15)
    assert found.gain_ratio == pytest.approx(after / before - 1.0, rel=0.15)
    assert found.lost_tokens_per_s == pytest.approx(before * (1.0 / efficiency - 1.0), rel=0.15)


def looks_of(
    step_s: Callable[[NDArray[np.float64]], NDArray[np.float64]], *, spread: float = 0.5
) -> Samples:
    """Return a minute of looks at ranks whose steps take what a function of their loads says."""
    rng = np.random.default_rng(4)
    loads = 50_000.0 * (1.0 + spread * rng.uniform(-1.0, 1.0, (61, RANKS)))
    counts = np.cumsum(np.full((61, RANKS), 1000.0), axis=0)
    mean = np.vstack([loads[:1], (loads[1:] + loads[:-1]) / 2.0])
    tokens = counts.copy()
    return Samples(
        time_s=np.arange(61.0),
        load_tokens=loads,
        num_running=np.full((61, RANKS), 20.0),
        num_waiting=np.zeros((61, RANKS)),
        gap_s=np.cumsum(1000.0 * np.stack([step_s(row) for row in mean]), axis=0),
        num_gaps=counts,
        generated_tokens=tokens,
        prompt_tokens=10.0 * tokens,
        num_ended=tokens / 100.0,
    )


def test_independent_ranks_are_told_not_to_expect_anything() -> None:
    """Their steps follow their own loads."""
    found = diagnose(looks_of(lambda loads: 0.01 + 1e-6 * loads))
    assert ("no", "no_gain") == (found.has_barrier, found.verdict)
    assert found.summary.startswith("No barrier, expect no gain")
    assert (None, None) == (found.idle_ratio, found.gain_ratio)


def test_level_ranks_have_no_problem() -> None:
    """Whether or not there is a barrier; it cannot be seen there."""
    found = diagnose(looks_of(lambda loads: np.full(RANKS, 0.03), spread=0.01))
    assert "no_gain" == found.verdict
    assert "unknown" == found.has_barrier


def test_steps_that_tell_nothing_give_no_figure() -> None:
    """Loads differ, but their cost drowns in noise: a bound, and what to do."""
    rng = np.random.default_rng(0)
    found = diagnose(looks_of(lambda loads: np.full(RANKS, rng.uniform(0.02, 0.04))))
    assert "unknown" == found.verdict
    assert "at most" in found.summary
    assert found.gain_ratio is None
    stated = StepTime.parse("0.01,1e-6", num_slots=1)
    assert diagnose(
        looks_of(lambda loads: 0.01 + 0 * loads), step_time=stated, has_barrier=True
    ).idle_ratio


def test_a_group_at_rest_says_nothing() -> None:
    """Not that it loses nothing."""
    samples = looks_of(lambda loads: loads)
    still = at_rest(samples)
    with pytest.raises(ConfigError, match="tokens came in 0 of 60 intervals"):
        diagnose(still)


def at_rest(samples: Samples) -> Samples:
    """Return the same looks with counters that stand still."""
    still = {
        name: np.zeros_like(samples.num_gaps)
        for name in ("gap_s", "num_gaps", "generated_tokens", "prompt_tokens", "num_ended")
    }
    return Samples(
        time_s=samples.time_s,
        load_tokens=samples.load_tokens,
        num_running=samples.num_running,
        num_waiting=samples.num_waiting,
        **still,
    )


PAGE = """vllm:num_requests_running{engine="0"} 3.0
vllm:num_requests_waiting{engine="0"} 1.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
vllm:inter_token_latency_seconds_sum{engine="0"} 2.5
vllm:inter_token_latency_seconds_count{engine="0"} 100
vllm:generation_tokens_total{engine="0"} 120
vllm:prompt_tokens_total{engine="0"} 900
vllm:request_success_total{engine="0",finished_reason="stop"} 3
vllm:request_success_total{engine="0",finished_reason="length"} 4
"""


def test_a_page_of_vllm_is_read() -> None:
    """By hand: 0.25 of 1,600 KV tokens, and the counters."""
    assert [[400.0, 3.0, 1.0, 2.5, 100.0, 120.0, 900.0, 7.0]] == read_look(PAGE, "x")


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("hello 1\n", "shows no metrics of an engine's ranks; vLLM shows"),
        ("balanceroute_pool_requests 0\n", "that is the router itself"),
        (PAGE.replace("inter_token", "inter_tok"), "lacks inter_token_latency_seconds_sum, inter"),
        (PAGE.replace("num_gpu_blocks", "blocks"), "how many KV tokens"),
    ],
)
def test_pages_that_lack_something_are_refused(page: str, words: str) -> None:
    """By name, with the cure; nothing is taken for zero."""
    with pytest.raises(ConfigError, match=words):
        read_look(page, "http://a:1")


def test_servers_that_are_no_engines() -> None:
    """One that answers 404, and one that is not there."""

    async def test() -> None:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        with pytest.raises(ConfigError, match="/metrics answers HTTP 404; name an engine"):
            await take_samples([url], duration_s=1.0, interval_s=0.1)
        await runner.cleanup()
        with pytest.raises(ConfigError, match=r"cannot read .*/metrics"):
            await take_samples([url], duration_s=1.0, interval_s=0.1)

    asyncio.run(test())


def test_a_trace_gives_an_exit_code_and_json() -> None:
    """1 where something is to be gained, 0 without a barrier."""
    size = ["azure-2024-conv", "--ranks", "4", "--slots", "8", "--requests", "600", "--json"]
    result = CliRunner().invoke(app, ["doctor", *size, "--step-time", "0.001,1e-6"])
    found = msgspec.json.decode(result.stdout, type=Diagnosis)
    assert (1, "gain", 4) == (result.exit_code, found.verdict, found.num_ranks)
    result = CliRunner().invoke(app, ["doctor", *size, "--no-barrier"])
    assert 0 == result.exit_code
    assert "No barrier, expect no gain" in result.stdout


@pytest.mark.parametrize(
    "words", [["a.jsonl", "b.jsonl"], ["http://a:1", "b.jsonl"], ["http://a:1", "--seconds", "0"]]
)
def test_bad_input_is_refused(words: list[str]) -> None:
    """Mixed sources, several traces, no time."""
    with pytest.raises(ConfigError):
        CliRunner().invoke(app, ["doctor", *words], catch_exceptions=False)
