"""Steps of the emulated engine, worked by hand. C = 1 s."""

from __future__ import annotations

from typing import Any

import pytest

from balanceroute.cluster.costs import StepCosts
from balanceroute.emulator.config import EngineConfig
from balanceroute.emulator.engine import Engine, Trouble
from balanceroute.emulator.request import Request, State
from balanceroute.errors import ConfigError
from tests.emulator.driving import EIGHTH_S, drive, engine_config


def ask(prompt_tokens: int, output_tokens: int, rank: int | None = 0, **what: Any) -> Request:
    return Request(prompt_tokens=prompt_tokens, output_tokens=output_tokens, rank=rank, **what)


def used_blocks_by_step(engine: Engine) -> list[int]:
    """Run until nothing is to be done; return rank 0's blocks in use in each step."""
    used: list[int] = []
    while engine.begin_step(float(len(used))) is not None:
        used.append(engine.ranks[0].used_blocks)
        engine.end_step()
    return used


def test_blocks_are_taken_as_tokens_come_and_preemption_frees_them() -> None:
    """A rank short of blocks throws out the request admitted last, which recomputes its tokens."""
    # 4 blocks of 4 tokens, 2 slots. a: prompt 7, output 6;  b: prompt 6, output 3; both at 0.
    engine = Engine(engine_config(num_slots=2, num_blocks=4, block_size=4))
    a, b = ask(7, 6), ask(6, 3)
    engine.submit(a)
    engine.submit(b)
    # step  a's tokens  b's  blocks
    #  0     7           6   2 + 2
    #  1     8           7   2 + 2
    #  2     9           -   3       with b's 2 it would be 5: b goes, with 6 + 2 to recompute
    #  3    10           -   3       b's 2 do not fit
    #  4    11           -   3
    #  5    12           -   3       a's sixth token: it ends
    #  6     -           8   2       b's third token: it ends
    assert [4, 4, 3, 3, 3, 3, 2] == used_blocks_by_step(engine)
    assert (0, 1) == (a.num_preemptions, b.num_preemptions)
    assert (6, 3) == (a.generated_tokens, b.generated_tokens)
    assert 9 == engine.ranks[0].total_generated_tokens
    assert 13 == engine.ranks[0].total_prompt_tokens  # what is recomputed is no prompt


def test_a_step_lasts_as_long_as_its_slowest_rank() -> None:
    """The step costs C, t_l per token, t_p per prompt token and the mixed step's extra."""
    # rank 0: prompt 4, output 2; rank 1 at half speed: prompt 8, output 1.
    engine = Engine(
        engine_config(
            num_ranks=2,
            rank_speeds=(1.0, 0.5),
            s_per_token=EIGHTH_S,
            kappa0_tokens=2.0,
            budget_tokens=64,
            prefill_s_per_token=EIGHTH_S,
            prefill_shared=0.5,
            mixed_step_s=0.25,
        )
    )
    lives = drive(engine, [ask(4, 2, 0), ask(8, 1, 1)])
    # step 0: rank 0: 1 + (2 + 4) / 8 + 4 / 16 + 1/4 = 2.25
    #         rank 1: 2 * (1 + (2 + 8) / 8 + 8 / 16 + 1/4) = 6
    #         and what both share of the prefill, 1/2 of (4 + 8) / 2 / 8: 0.375 more
    # step 1: rank 0: 1 + (2 + 5) / 8 = 1.875; rank 1 is empty: 2 * 1 = 2
    assert [6.375, 8.375] == [lives.first_token_s[1], lives.finished_s[0]]
    assert (2, 8.375, 6.375) == (
        engine.totals.num_steps,
        engine.totals.step_s,
        engine.totals.max_work_s,
    )


def test_prefill_goes_by_the_token_budget() -> None:
    """Decodes take a token each, the first prefill goes on, and the queue gets what is left."""
    # Budget 8, 3 slots. a: prompt 6, output 3;  b: 9, 2;  c: 2, 1.
    config = engine_config(num_slots=3, budget_tokens=8, prefill_s_per_token=EIGHTH_S)
    lives = drive(Engine(config), [ask(6, 3), ask(9, 2), ask(2, 1)])
    # step 0 computes 6 + 2 tokens and lasts 2; step 1: 7 more of b, 1.875; step 2: c's 2, 1.25
    assert [2.0, 3.875, 5.125] == lives.first_token_s
    assert [5.125, 5.125, 5.125] == lives.finished_s


def test_a_prefilled_prompt_is_resident_at_once() -> None:
    """A prompt whose KV comes from elsewhere costs no prefill, but has to be held."""
    config = engine_config(
        num_blocks=10, block_size=16, budget_tokens=8, prefill_s_per_token=EIGHTH_S
    )
    engine = Engine(config)
    engine.submit(ask(100, 2, is_prefilled=True))
    assert 1.0 == engine.begin_step(0.0)
    assert (7, 100, 0) == (
        engine.ranks[0].used_blocks,
        engine.ranks[0].load_tokens,
        engine.ranks[0].prefill_tokens,
    )
    assert [1] == [request.generated_tokens for request in engine.end_step()]


def test_a_prefilled_prompt_takes_no_budget_but_for_its_token() -> None:
    """Who comes behind it prefills with all of the budget but one."""
    config = engine_config(num_slots=2, budget_tokens=8, prefill_s_per_token=EIGHTH_S)
    engine = Engine(config)
    engine.submit(ask(100, 2, is_prefilled=True))
    engine.submit(ask(100, 2))
    assert 1.875 == engine.begin_step(0.0)  # 7 tokens


def test_a_prefilled_prompt_that_is_thrown_out_is_computed_here() -> None:
    """What was fetched is gone with the blocks."""
    # 4 blocks of 4. a: prompt 8, output 3;  b: 8, prefilled, output 2. After a step each has 9.
    engine = Engine(engine_config(num_slots=2, num_blocks=4, block_size=4, budget_tokens=16))
    a, b = ask(8, 3), ask(8, 2, is_prefilled=True)
    engine.submit(a)
    engine.submit(b)
    prefilled: list[int] = []
    while engine.begin_step(0.0) is not None:
        prefilled.append(engine.ranks[0].prefill_tokens)
        engine.end_step()
    assert [8, 0, 0, 9] == prefilled
    assert (0, 1) == (a.num_preemptions, b.num_preemptions)


def test_held_blocks_keep_others_out_until_they_are_released() -> None:
    """A finished request that holds its KV has no slot and no load, but its blocks."""
    engine = Engine(engine_config(num_blocks=3, block_size=16))
    first, second = ask(20, 1, holds_kv=True), ask(20, 1)
    engine.submit(first)
    engine.submit(second)
    assert [2] == used_blocks_by_step(engine)
    assert State.HELD is first.state
    assert (2, 0, 0, 1) == (
        engine.ranks[0].used_blocks,
        engine.ranks[0].load_tokens,
        engine.ranks[0].num_running,
        engine.ranks[0].num_waiting,
    )
    assert [1] == engine.num_inflight  # the one that waits
    engine.release(first)
    engine.release(first)  # once is enough
    assert [2] == used_blocks_by_step(engine)
    assert second.is_finished
    assert 0 == engine.ranks[0].used_blocks


@pytest.mark.parametrize("num_steps", [0, 1, 2], ids=["waiting", "prefilling", "decoding"])
def test_abort_frees_a_request_wherever_it_is(num_steps: int) -> None:
    """Slot, blocks, load and count are given back at once, also while a step is under way."""
    engine = Engine(engine_config(block_size=4, budget_tokens=8))
    request = ask(12, 50)
    engine.submit(request)
    for _ in range(num_steps):
        engine.begin_step(0.0)
        engine.end_step()
    if num_steps == 2:
        engine.begin_step(0.0)
    engine.abort(request)
    engine.abort(request)  # once is enough
    rank = engine.ranks[0]
    assert (0, 0, 0, 0) == (
        rank.used_blocks,
        rank.load_tokens,
        rank.num_running,
        rank.num_waiting,
    )
    assert [0] == engine.num_inflight
    if num_steps == 2:
        assert [] == engine.end_step()
    assert engine.begin_step(9.0) is None


def test_a_slow_rank_slows_the_group() -> None:
    """A rank that takes three times as long for its work makes the step three times as long."""
    engine = Engine(engine_config(num_ranks=2, s_per_token=EIGHTH_S))
    engine.submit(ask(8, 3, 0))
    assert 2.0 == engine.begin_step(0.0)
    engine.end_step()
    engine.troubles[1] = Trouble(slowdown=3.0)
    assert 3.0 == engine.begin_step(2.0)  # of the empty rank 1; rank 0 is done after 1 + 9 / 8


def test_a_dead_rank_stalls_the_group_unless_it_is_told_otherwise() -> None:
    """Others wait for a dead rank at the barrier; without that, only its own requests hang."""
    engine = Engine(engine_config(num_ranks=2))
    dead, live = ask(8, 1, 0), ask(8, 1, 1)
    engine.submit(dead)
    engine.submit(live)
    engine.troubles[0] = Trouble(is_dead=True)
    assert engine.begin_step(0.0) is None
    engine.troubles[0] = Trouble(is_dead=True, blocks_barrier=False)
    assert 1.0 == engine.begin_step(0.0)
    assert [live] == engine.end_step()
    assert engine.begin_step(1.0) is None
    engine.troubles[0] = Trouble()
    assert 1.0 == engine.begin_step(2.0)
    assert [dead] == engine.end_step()


def test_requests_without_a_rank_go_where_vllm_sends_them() -> None:
    """Equal ranks take turns; what is in flight counts at once, queues as of the last step."""
    engine = Engine(engine_config(num_ranks=3, num_slots=4))
    requests = [ask(8, 2, None) for _ in range(4)]
    for request in requests:
        engine.submit(request)
    assert [0, 1, 2, 0] == [request.rank for request in requests]
    pinned = [ask(8, 2, 1) for _ in range(3)]
    for request in pinned:
        engine.submit(request)
    free = ask(8, 2, None)
    engine.submit(free)  # in flight: 2, 4, 1
    assert 2 == free.rank


def test_idle_ranks_take_turns() -> None:
    """Of equals it is the one behind the last that was chosen."""
    engine = Engine(engine_config(num_ranks=3))
    chosen: list[int | None] = []
    for _ in range(4):
        request = ask(8, 1, None)
        engine.submit(request)
        engine.begin_step(0.0)
        engine.end_step()
        chosen.append(request.rank)
    assert [0, 1, 2, 0] == chosen


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ask(8, 1, 2), r"rank 2 is not in \[0, 2\)"),
        (ask(8, 1, -1), r"rank -1 is not in \[0, 2\)"),
        (ask(0, 1), "at least 1 prompt"),
        (ask(60, 5), "does not fit the 64 KV tokens"),
    ],
)
def test_requests_that_could_never_run_are_refused(request_: Request, message: str) -> None:
    """The engine says so at once instead of keeping them for ever."""
    engine = Engine(engine_config(num_ranks=2, num_blocks=4, block_size=16))
    with pytest.raises(ConfigError, match=message):
        engine.submit(request_)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_ranks": 0}, "--ranks"),
        ({"num_slots": 0}, "--slots"),
        ({"num_blocks": 0}, "--kv-blocks"),
        ({"block_size": 0}, "--block-size"),
        ({"max_records": 1}, "max_records"),
        ({"num_slots": 2_000_000}, "--ranks times --slots"),
        ({"rank_speeds": (1.0, 1.0)}, "--rank-speeds names 2 ranks"),
        ({"rank_speeds": (2.0,)}, "--rank-speeds are relative"),
        ({"constant_s": 0.0}, "--step-time needs a constant"),
        ({"prefill_shared": 2.0}, "--prefill-shared"),
        ({"prefill_s_per_token": 1.0}, "needs --prefill-budget"),
        ({"num_slots": 9, "budget_tokens": 8}, "--prefill-budget must be at least --slots"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    """The message names the option."""
    with pytest.raises(ConfigError, match=message):
        engine_config(**settings)


def test_an_emulated_group_has_a_barrier() -> None:
    """Costs of ranks that step by themselves are refused."""
    with pytest.raises(ConfigError, match="has a barrier"):
        EngineConfig(costs=StepCosts(constant_s=1.0, s_per_token=0.0, has_barrier=False))


def test_old_records_are_dropped() -> None:
    """The log keeps the newest steps and says which they are."""
    engine = Engine(engine_config(max_records=4))
    engine.submit(ask(1, 7))
    used_blocks_by_step(engine)
    first, records = engine.log.since(0)
    assert (4, [4.0, 5.0, 6.0]) == (first, records.start_s.tolist())
    first, records = engine.log.since(5, limit=1)
    assert (5, [5.0]) == (first, records.start_s.tolist())
    assert 7 == engine.num_steps_ended
