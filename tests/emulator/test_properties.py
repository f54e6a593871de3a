"""What holds for any requests on any ranks."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from balanceroute.emulator.config import EngineConfig
from balanceroute.emulator.engine import Engine
from balanceroute.emulator.request import Request, State
from tests.emulator.driving import engine_config

MAX_STEPS = 5000


class Case(NamedTuple):
    """An engine, and requests: lengths, rank, arrival and abortion by step, whether it holds."""

    config: EngineConfig
    requests: list[tuple[int, int, int | None, int, int | None, bool, bool]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    num_ranks = draw(st.integers(1, 3))
    num_slots = draw(st.integers(1, 4))
    block_size = draw(st.sampled_from([1, 3, 16]))
    prompt, output = st.integers(1, 40), st.integers(1, 12)
    most_blocks = -(-52 // block_size)
    config = engine_config(
        num_ranks=num_ranks,
        num_slots=num_slots,
        block_size=block_size,
        num_blocks=draw(st.integers(most_blocks, 2 * most_blocks)),
        budget_tokens=draw(st.none() | st.integers(num_slots, 24)),
        s_per_token=1e-3,
    )
    rank = st.none() | st.integers(0, num_ranks - 1)
    abort = st.none() | st.integers(0, 30)
    row = st.tuples(prompt, output, rank, st.integers(0, 8), abort, st.booleans(), st.booleans())
    return Case(config, draw(st.lists(row, min_size=1, max_size=12)))


def run(case: Case) -> tuple[Engine, list[Request]]:
    """Run a case, looking at the accounts in every step."""
    engine = Engine(case.config)
    requests = [
        Request(
            prompt_tokens=prompt,
            output_tokens=output,
            rank=rank,
            is_prefilled=is_prefilled,
            holds_kv=holds,
        )
        for prompt, output, rank, _, _, holds, is_prefilled in case.requests
    ]
    arrivals = [row[3] for row in case.requests]
    aborts = [row[4] for row in case.requests]
    for turn in range(MAX_STEPS):
        for request, arrival, abort in zip(requests, arrivals, aborts, strict=True):
            if arrival == turn:
                engine.submit(request)
            if abort == turn and not request.is_finished:
                engine.abort(request)
        began = engine.begin_step(float(turn)) is not None
        check_accounts(engine, requests)
        if began:
            for request in engine.end_step():
                assert request.state in (State.DECODING, State.ENDED, State.HELD)
            for request in requests:
                if request.state is State.HELD:
                    engine.release(request)
        elif turn > 30:
            return engine, requests
    raise AssertionError("requests do not come to an end")


def check_accounts(engine: Engine, requests: list[Request]) -> None:
    for i, rank in enumerate(engine.ranks):
        here = [request for request in requests if request.rank == i]
        running = [r for r in here if r.state in (State.PREFILLING, State.DECODING)]
        held = [r for r in here if r.state is State.HELD]
        assert rank.used_blocks <= engine.config.num_blocks
        assert sum(request.num_blocks for request in running + held) == rank.used_blocks
        assert sum(request.resident_tokens for request in running) == rank.load_tokens
        assert len(running) == rank.num_running <= engine.config.num_slots
        assert [r for r in here if r.state is State.WAITING].__len__() == rank.num_waiting
        for request in running:
            fits = request.num_blocks * engine.config.block_size
            assert request.resident_tokens <= fits


@given(case=cases())
@settings(max_examples=150)
def test_requests_tokens_and_blocks_are_conserved(case: Case) -> None:
    """KV never exceeds its limit, everybody who stays finishes, and nothing is left behind."""
    engine, requests = run(case)
    for request, row in zip(requests, case.requests, strict=True):
        was_aborted = row[4] is not None
        assert request.is_finished or was_aborted or request.state is State.NEW
    assert sum(r.generated_tokens for r in requests) == sum(
        rank.total_generated_tokens for rank in engine.ranks
    )
    for rank in engine.ranks:
        assert (0, 0, 0, 0) == (
            rank.used_blocks,
            rank.load_tokens,
            rank.num_running,
            rank.num_waiting,
        )
    assert [0] * len(engine.ranks) == engine.num_inflight


@given(case=cases())
@settings(max_examples=20)
def test_the_same_requests_make_the_same_steps(case: Case) -> None:
    """Two engines given the same go through the same steps."""
    (one, _), (other, _) = run(case), run(case)
    for column in ("duration_s", "sum_load_tokens", "num_tokens", "num_waiting"):
        first, second = (getattr(engine.log.since(0)[1], column) for engine in (one, other))
        assert first.tolist() == second.tolist()
