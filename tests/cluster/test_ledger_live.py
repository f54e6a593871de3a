"""What the ledger learns from streams of tokens: `observe`, `settle`, `resize`, new ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.cluster.ledger import Ledger
from balanceroute.cluster.streams import observe, resize, settle
from balanceroute.errors import ConfigError
from balanceroute.kernels.ledger import SENT


def load(ledger: Ledger, rank: int = 0) -> int:
    """Return the resident tokens of a rank, and see that the totals are right."""
    np.testing.assert_array_equal(ledger.recount(), ledger.ranks)
    return int(ledger.ranks["load_tokens"][rank])


def test_one_stream_tells_of_the_others() -> None:
    """The first to show a step's token counts it for all, and none counts it twice."""
    ledger = Ledger(num_ranks=2)
    first, second = (ledger.send(rank=0, prompt_tokens=100) for _ in range(2))
    silent = ledger.send(rank=0, prompt_tokens=50)
    settle(ledger, silent, 0)  # it has no stream, and is taken to run
    elsewhere = ledger.send(rank=1, prompt_tokens=7)
    observe(ledger, elsewhere, 1)
    assert 0 == observe(ledger, first, 1)
    assert 0 == observe(ledger, second, 1)
    assert 252 == load(ledger)
    assert 1 == observe(ledger, second, 2)  # a step: all three have grown
    assert 255 == load(ledger)
    assert 0 == observe(ledger, first, 2)
    assert 255 == load(ledger)
    assert 2 == observe(ledger, first, 4)  # two more
    assert 261 == load(ledger)
    assert 8 == load(ledger, 1)
    assert [3, 0] == ledger.ranks["clock"].tolist()


def test_one_that_lags_is_put_right_by_its_own_stream() -> None:
    """It may have been preempted, or its tokens come in pieces."""
    ledger = Ledger(num_ranks=1)
    first, second = (ledger.send(rank=0, prompt_tokens=10) for _ in range(2))
    observe(ledger, first, 1)
    observe(ledger, second, 1)
    observe(ledger, first, 5)
    assert 30 == load(ledger)
    assert 0 == observe(ledger, second, 2)
    assert 27 == load(ledger)
    assert 2 == ledger.age_tokens(second)


def test_a_prompt_of_another_length() -> None:
    """Before, while and after it is computed."""
    ledger = Ledger(num_ranks=1)
    handle = ledger.send(rank=0, prompt_tokens=100)
    resize(ledger, handle, 90)
    assert [90, 0] == [int(ledger.ranks[name][0]) for name in ("due_tokens", "load_tokens")]
    ledger.start(handle)
    ledger.prefill(handle, 40)
    with pytest.raises(ConfigError, match="prompt_tokens must be at least 1, got 0"):
        resize(ledger, handle, 0)
    resize(ledger, handle, 60)
    assert [20, 40] == [int(ledger.ranks[name][0]) for name in ("due_tokens", "load_tokens")]
    observe(ledger, handle, 3)
    resize(ledger, handle, 50)
    assert 53 == load(ledger)
    ledger.finish(handle)
    assert 0 == load(ledger)


def test_a_prompt_that_was_computed_further_than_it_is_long() -> None:
    """It is resident, and so is each token that comes."""
    for prompt_tokens in (40, 39, 1):
        ledger = Ledger(num_ranks=1)
        handle = ledger.send(rank=0, prompt_tokens=100)
        ledger.start(handle)
        ledger.prefill(handle, 40)
        resize(ledger, handle, prompt_tokens)
        assert prompt_tokens == load(ledger)
        assert 0 == ledger.ranks["due_tokens"][0]
        observe(ledger, handle, 2)
        assert prompt_tokens + 2 == load(ledger)
        ledger.finish(handle)
        assert 0 == load(ledger)


def test_one_more_rank() -> None:
    """The others keep what they have."""
    ledger = Ledger(num_ranks=1)
    observe(ledger, ledger.send(rank=0, prompt_tokens=10), 1)
    ledger.add_rank()
    observe(ledger, ledger.send(rank=1, prompt_tokens=20), 1)
    assert [11, 21] == [load(ledger, rank) for rank in range(2)]


def test_what_a_newcomer_is_told() -> None:
    """One event for each request in flight, as if it had just been sent."""
    ledger = Ledger(num_ranks=2, keeps_events=True)
    gone, stays = (ledger.send(rank=1, prompt_tokens=9, request=n, client=3) for n in (7, 8))
    ledger.finish(gone)
    (event,) = ledger.retold_events()
    assert (SENT, stays, 8, 1, 9, 3) == tuple(
        event[name] for name in ("kind", "handle", "request", "rank", "prompt_tokens", "client")
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=60))
def test_streams_in_any_order_come_out_exact(tokens: list[tuple[int, int]]) -> None:
    """Once each request has shown its latest token, the ledger holds just these."""
    ledger = Ledger(num_ranks=1)
    handles = [ledger.send(rank=0, prompt_tokens=10) for _ in range(4)]
    seen = [0] * 4
    for request, num_tokens in tokens:
        seen[request] += num_tokens
        observe(ledger, handles[request], seen[request])
        load(ledger)
    for handle, num_tokens in zip(handles, seen, strict=True):
        settle(ledger, handle, num_tokens)
    assert 40 + sum(seen) == load(ledger)
