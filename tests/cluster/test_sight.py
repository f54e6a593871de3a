"""What is read off the accounts in one pass, against the view that they give column by column."""

from __future__ import annotations

import numpy as np
import pytest

from balanceroute.cluster.events import NO_EVENTS
from balanceroute.cluster.ledger import Ledger
from balanceroute.cluster.sight import look, with_all
from balanceroute.cluster.streams import begin, observe
from balanceroute.cluster.view import GroupView

COLUMNS = (
    "num_slots",
    "load_tokens",
    "due_tokens",
    "resident_prompt_tokens",
    "generated_tokens",
    "num_running_reqs",
    "num_waiting_reqs",
    "num_inflight_reqs",
    "clocks",
    "max_sends",
)


def group() -> tuple[Ledger, dict[str, np.ndarray]]:
    """Return a group of which rank 1 is full, rank 2 closed and rank 3 empty."""
    ledger = Ledger(num_ranks=4, keeps_events=True)
    for rank, has_stream in ((0, True), (0, False), (1, True), (1, True), (2, False)):
        begin(ledger, rank=rank, prompt_tokens=10 + rank, has_stream=has_stream)
    for output_tokens in (1, 2, 3):
        observe(ledger, 2, output_tokens)
    limits = {"num_slots": np.array([4, 2, 4, 4]), "is_open": np.array([True, True, False, True])}
    return ledger, limits


@pytest.mark.parametrize("is_immediate", [False, True])
@pytest.mark.parametrize("foreign", [(0, 0), (2, 70)], ids=["alone", "with others"])
def test_all_columns(foreign: tuple[int, int], is_immediate: bool) -> None:
    """They are the same, and those of others count where they are."""
    ledger, limits = group()
    reqs, tokens = (np.array([value, 0, 0, 0]) for value in foreign)
    accounts = ledger.ranks.copy()
    accounts["num_running"] += reqs
    accounts["load_tokens"] += tokens
    kv = np.full(4, 1000)
    expected = GroupView.of_accounts(
        accounts,
        accounts,
        now_s=5.0,
        is_immediate=is_immediate,
        num_slots=np.where(limits["is_open"], limits["num_slots"], 0),
        kv_capacity_tokens=kv,
        entries=ledger.accounts.entries,
    )
    sight = look(
        ledger.ranks, **limits, foreign_reqs=reqs, foreign_tokens=tokens, is_immediate=is_immediate
    )
    view = sight.view(
        now_s=5.0,
        kv_capacity_tokens=kv,
        costs=None,
        entries=ledger.accounts.entries,
        events=NO_EVENTS,
    )
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(expected, name), getattr(view, name), name)
    np.testing.assert_array_equal(expected.max_sends, sight.max_sends)
    assert np.count_nonzero(expected.max_sends) == sight.num_able


def test_it_stays_what_it_was() -> None:
    """A policy may keep what it has seen."""
    ledger, limits = group()
    nothing = np.zeros(4, np.int64)
    sight = look(
        ledger.ranks, **limits, foreign_reqs=nothing, foreign_tokens=nothing, is_immediate=False
    )
    before = sight.seen.copy()
    begin(ledger, rank=3, prompt_tokens=10)
    np.testing.assert_array_equal(before, sight.seen)


@pytest.mark.parametrize("num_steps", [0, 1, 2, 7])
def test_who_is_about_to_end_counts_as_gone(num_steps: int) -> None:
    """At its own limit only: a request without one may go on, and one that waits has not begun."""
    ledger, is_open, nothing = Ledger(num_ranks=2), np.ones(2, np.bool_), np.zeros(2, np.int64)
    limits = {0: [0, 4, 5], 1: [9, 3]}
    for rank, of_rank in limits.items():
        for max_tokens in of_rank:
            handle = ledger.send(rank=rank, prompt_tokens=50, max_tokens=max_tokens)
            ledger.start(handle)
            ledger.prefill(handle, 50)
        for _ in range(3):
            ledger.step(rank)
        ledger.send(rank=rank, prompt_tokens=50, max_tokens=1)
    state = (ledger.ranks, np.array([4, 3]), is_open, nothing, nothing)
    before = look(*state, is_immediate=False)
    after = look(*state, is_immediate=False).without_leaving(ledger.accounts.entries, num_steps)
    gone = [sum(0 < limit <= 3 + num_steps for limit in limits[rank]) for rank in (0, 1)]
    view, old = (
        sight.view(
            now_s=0.0,
            kv_capacity_tokens=np.full(2, 1000),
            costs=None,
            entries=None,
            events=NO_EVENTS,
        )
        for sight in (after, before)
    )
    for name, each in {
        "load_tokens": 53,
        "resident_prompt_tokens": 50,
        "num_running_reqs": 1,
        "num_inflight_reqs": 1,
        "num_waiting_reqs": 0,
        "due_tokens": 0,
    }.items():
        taken = getattr(old, name) - getattr(view, name)
        assert [each * number for number in gone] == taken.tolist(), name
    assert gone == after.max_sends.tolist()
    assert sum(number > 0 for number in gone) == after.num_able
    for name in COLUMNS[1:-1]:
        whole = with_all(view)
        np.testing.assert_array_equal(getattr(old, name), getattr(whole, name), name)
    assert with_all(old) is old
